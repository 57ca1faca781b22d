"""Atomic writes: files are written under a hidden temporary name beside their target, and renamed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psutil

from svd.errors import UserError

LONGEST_NAME = 255
"""Bytes of a file name on common file systems."""
_HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()
_DAY = 24 * 3600

_unfinished: dict[Path, Callable[[Path], None]] = {}
"""Temporary files of this process, and empty ones that reserve a name: what removes each."""
_renaming = threading.Lock()


class FileError(UserError, OSError):
    """A file or folder that cannot be written; the message says in one line what is wrong and what to do."""


@contextmanager
def atomic_write(target: str | Path, need: int = 0) -> Iterator[Path]:
    """A hidden path beside `target` for a file or a folder: renamed at the end, removed on failure.

    An existing target is replaced in one step. What killed processes have left of the same target is removed.

    Args:
        target: its folder is created if needed.
        need: bytes that will be written; checked against the free space at once, not after minutes.

    Raises:
        FileError: there is too little space.
        OSError: the drive refuses.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_overs(target)
    free = shutil.disk_usage(target.parent).free
    if need > free:
        raise FileError(f"no space for {target}: {need / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")
    aside = _aside(target)
    with _renaming:
        _unfinished[aside] = remove
    try:
        yield aside
        for path in aside.rglob("*") if aside.is_dir() else ():
            fsync(path)
        fsync(aside)
        with _renaming:
            _replace(aside, target)
        fsync(target.parent)
    finally:
        remove(aside)
        _unfinished.pop(aside, None)


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def free_name(folder: str | Path, stem: str, suffixes: list[str]) -> Iterator[str]:
    """Reserve the first of `stem`, `stem_1`, `stem_2`, … for which no folder/name + suffix exists.

    It is reserved by an empty file with the first suffix, created exclusively (O_EXCL): processes that list the same
    first suffix never get the same name. The block overwrites that file; if it does not, the file is removed. What the
    block has finished is kept, whatever happens later. The folder is created if needed, and a stem that is too long
    for a file name is truncated.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    longest = max(len(os.fsencode(suffix)) for suffix in suffixes)
    for number in count():
        ending = f"_{number}" if number else ""
        name = shortened(stem, LONGEST_NAME - longest - len(ending)) + ending
        paths = [folder / (name + suffix) for suffix in suffixes]
        with suppress(FileExistsError):  # another process was faster
            if not any(os.path.lexists(path) for path in paths):
                with _renaming:
                    paths[0].touch(exist_ok=False)
                    _unfinished[paths[0]] = _remove_empty
                break
    try:
        yield name
    finally:
        _remove_empty(paths[0])
        _unfinished.pop(paths[0], None)


def shortened(name: str, most: int) -> str:
    """The longest prefix of a name of at most `most` bytes, cut between characters."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def check_folder(path: str | Path, name: str) -> None:
    """Raise FileError if the folder of the setting `name` cannot be written to or created; nothing is created yet."""
    nearest = next(folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = "may not be written to" if nearest.is_dir() else "is a file"
        raise FileError(f"{name} {path}: {nearest} {what}; choose another folder")


def fsync(path: Path) -> None:
    """Flush a file or a folder to the drive, so that a rename cannot overtake its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; it is read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Delete a file or a folder tree, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard_unfinished() -> None:
    """Remove the temporary files of this process, which has to exit right after."""
    _renaming.acquire()  # for good: nothing is renamed to its target from here on
    for path, discard in _unfinished.copy().items():
        with suppress(OSError):
            discard(path)


def _aside(target: Path) -> Path:
    # With the target's suffix, from which libraries infer the format.
    ending = f".{_HOST}-{os.getpid()}.tmp{target.suffix}"
    return target.with_name(f".{shortened(target.stem, LONGEST_NAME - 1 - len(os.fsencode(ending)))}{ending}")


def _replace(aside: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():  # a folder cannot be replaced atomically
        old = aside.with_name(f"{aside.name}.old")
        os.replace(target, old)
        os.replace(aside, target)
        remove(old)
    else:
        os.replace(aside, target)


def _remove_empty(path: Path) -> None:
    with suppress(OSError):
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def _remove_left_overs(target: Path) -> None:
    """Remove the temporary files and folders of this target whose processes have died."""
    mine = _aside(target).name
    stem, suffix = mine[: mine.rindex(f".{_HOST}-")], target.suffix
    pattern = re.compile(re.escape(stem) + r"\.([0-9a-f]{6})-(\d+)\.tmp" + re.escape(suffix) + r"(\.old)?")
    for entry in list(os.scandir(target.parent)) if target.parent.is_dir() else ():
        match = pattern.fullmatch(entry.name)
        if match and _is_left_over(Path(entry.path), *match.group(1, 2)):
            with suppress(OSError):
                remove(Path(entry.path))


def _is_left_over(path: Path, host: str, process: str) -> bool:
    with suppress(OSError):
        changed = path.stat().st_mtime
        if time.time() - changed > _DAY:  # perhaps of another host; nobody writes for a day without a change
            return True
        if host == _HOST:
            try:  # the pid may have been reused by a later process
                return psutil.Process(int(process)).create_time() > changed + 1
            except psutil.Error:
                return True
    return False
