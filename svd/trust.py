"""Compiled kernels and graphs are code: they are loaded only if no other user can write them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Optional


def why_not_trusted(found: os.stat_result) -> Optional[str]:
    """Why a file, or the contents of a folder, must not be executed; None if only this user (or root) can write it."""
    if found.st_uid not in (os.geteuid(), 0):
        return f"it belongs to another user (uid {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write it (mode {stat.S_IMODE(found.st_mode):04o}; chmod go-w makes it yours alone)"
    return None


def private_folder(folder: Path) -> Path:
    """Create the folder if needed, writable by this user alone; raises OSError if others can write an existing one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if fault := why_not_trusted(folder.stat()):
        raise PermissionError(f"{folder} is not used: {fault}")
    return folder


def read_trusted(path: Path) -> Optional[bytes]:
    """The content of a file, None if there is none. Raises OSError if it is no regular file or others can write it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)  # of the open file: its name may be reassigned
        if not stat.S_ISREG(found.st_mode):
            raise PermissionError(f"{path} is not used: it is no file")
        if fault := why_not_trusted(found):
            raise PermissionError(f"{path} is not used: {fault}")
        return file.read()
