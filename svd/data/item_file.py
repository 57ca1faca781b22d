"""Opening the file of an item; errors are permanent (BadItem) or transient (Unavailable)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from svd.data.dataset import BadItem, Unavailable

PERMANENT = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EOVERFLOW}
"""Errors that are the path's own fault. All others are transient: a disk or network that fails or is away (EIO, ESTALE,
ENETDOWN, ETIMEDOUT, ...), too many open files, no memory."""

HEADROOM = 2**28
"""Bytes that are enough to decode any usual video; they are allocated as a probe, not used."""


@contextmanager
def open_item(path: str) -> Iterator[BinaryIO]:
    """Open a regular file that is not empty; raises BadItem and Unavailable, also for read errors inside the block.

    It never blocks, as opening a named pipe would.
    """
    try:
        with _opened(path) as file:
            yield file
    except PermissionError as error:
        kind = BadItem if _is_denied(path) else Unavailable
        raise kind(path, "may not be read; change its permissions") from error
    except OSError as error:
        kind = BadItem if error.errno in PERMANENT else Unavailable
        raise kind(path, error.strerror or str(error)) from error
    except MemoryError as error:
        raise Unavailable(path, "there is no memory left to read it") from error


def check_memory() -> None:
    """Raise MemoryError if little is left: libraries may then report an intact file as damaged."""
    np.empty(HEADROOM, np.uint8)


def _opened(path: str) -> BinaryIO:
    try:
        # anything but a regular file is not even opened: opening some devices has effects
        _check_kind(path, os.stat(path))
        return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except FileNotFoundError as error:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise Unavailable(path, f"its folder {folder} is not there") from error
        with os.scandir(folder) as entries:
            if next(entries, None) is None:  # as a mount point without its disk is
                raise Unavailable(path, f"its folder {folder} is empty") from error
        if os.path.exists(path):  # the folder was away and is back
            return _opened(path)
        raise BadItem(path, "no such file") from error
    except ValueError as error:  # a zero byte in its name
        raise BadItem(path, str(error)) from error


def _check_kind(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise BadItem(path, "a folder, not a video")
    if not stat.S_ISREG(status.st_mode):
        raise BadItem(path, "no ordinary file")
    if status.st_size == 0:
        raise BadItem(path, "an empty file")


def _is_denied(path: str) -> bool:
    """Whether the file's own permission bits exclude this user; a network drive may refuse for other reasons."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    if status.st_uid == os.geteuid():
        return not status.st_mode & stat.S_IRUSR
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return not status.st_mode & stat.S_IRGRP
    return not status.st_mode & stat.S_IROTH
