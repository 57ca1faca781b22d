"""What is loaded and executed must be ours alone to write: compiled kernels and graphs are programs."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Optional


def why_not_trusted(found: os.stat_result) -> Optional[str]:
    """What is against executing a file, or what is in a folder, in words; None if it is this user's (or root's)."""
    if found.st_uid not in (os.geteuid(), 0):
        return f"it belongs to another user (uid {found.st_uid})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write it (mode {stat.S_IMODE(found.st_mode):04o}; chmod go-w makes it yours alone)"
    return None


def private_folder(folder: Path) -> Path:
    """Make the folder, if it is not there, for this user alone to write; raises OSError where it is not."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if fault := why_not_trusted(folder.stat()):
        raise PermissionError(f"{folder} is not used: {fault}")
    return folder


def read_trusted(path: Path) -> Optional[bytes]:
    """What the file holds; None if it is not there. Raises OSError where it is no file, or not this user's alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)  # of what has been opened: a name may come to mean another file
        if not stat.S_ISREG(found.st_mode):
            raise PermissionError(f"{path} is not used: it is no file")
        if fault := why_not_trusted(found):
            raise PermissionError(f"{path} is not used: {fault}")
        return file.read()
