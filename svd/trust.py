"""Compiled kernels and graphs are code: they are loaded only if no other user can write them, and they are whole."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path
from typing import Optional

from svd.files import atomic_write

_DIGEST = hashlib.sha256().digest_size


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


def user_cache() -> Path:
    """The folder of this user for what is compiled, writable by nobody else; raises OSError if there is none."""
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(usual)
    if not os.path.isabs(caches):  # a user without a name, as in containers, has no home
        raise OSError("there is no home folder (XDG_CACHE_HOME would name another)")
    return private_folder(Path(caches) / "svd-mindspore")


def write_trusted(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file with a digest of its content behind it, where loaders of libraries pass over it; raises OSError.

    Args:
        mode: its permissions, regardless of the umask.
    """
    with atomic_write(path) as aside:
        aside.write_bytes(content + hashlib.sha256(content).digest())
        aside.chmod(mode)


def read_trusted(path: Path) -> Optional[bytes]:
    """The content that `write_trusted` was given; None if there is no such file.

    Raises OSError if it is no regular file, others can write it, or it is damaged.
    """
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
        content, digest = (whole := file.read())[:-_DIGEST], whole[-_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise OSError(f"{path} is damaged")
    return content
