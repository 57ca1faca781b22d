"""A lock on a run's folder: one run at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from svd.console import log
from svd.errors import UserError
from svd.records import RecordError, parse_json, record

NAME = ".lock"
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class LockedError(UserError):
    """Another run holds the lock of the folder; the message says which."""


@dataclass
class Holder:
    """The process that holds the lock."""

    host: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system releases it when the process dies, however it does.

    The folder is created if need be, and removed afterwards if it is still empty. Some network disks have no locks:
    then a warning is logged, and the work goes on without.

    Raises:
        LockedError: another process holds it; this one has changed nothing there.
        OSError: it cannot be written to.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = _lock(path)
    try:
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # while it is held: a process that has opened it sees that, and tries anew
            os.close(handle)
        if new:
            with suppress(OSError):
                folder.rmdir()


def _lock(path: Path) -> Optional[int]:
    """The open lock file; None if the drive has no locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in _HELD:
                raise LockedError(
                    f"{path.parent} is in use by another run ({holder}): wait for its end, or choose another folder"
                ) from error
            log(f"warning: {path.parent} is on a disk without locks ({error.strerror}): start no second run there")
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                break
        os.close(handle)  # the file of a run that has just ended
    holder = Holder(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"))
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(holder)).encode(), 0)
    return handle


def _holder(handle: int) -> str:
    try:
        return str(record(Holder, parse_json(os.pread(handle, 4096, 0), NAME), NAME))
    except (OSError, RecordError):
        return "it has not said which"
