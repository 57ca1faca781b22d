"""Millions of files: listed, split into shards, and processed by workers that may die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from svd.data.dataset import Dataset, DatasetError, Unavailable
from svd.data.workers import WorkerDied, WorkerPool
from svd_tools.jobs.journal import Journal, Row

VIDEO_SUFFIXES = frozenset(
    [".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
     ".vob", ".webm", ".wmv"]
)  # fmt: skip
"""Suffixes of video files."""
PAUSES = (1, 2, 4, 8, 15, 30)
"""Seconds between retries of what cannot be read at the moment."""
RowOf = Callable[[str, str], Row]
"""The job: (path, folder that it is relative to) -> row; a module-level function that raises nothing."""


class Shard(NamedTuple):
    """One of `count` shards of the paths, chosen by a hash of the path."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from i/n; raises DatasetError."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise DatasetError(f"--shard {text}: give i/n with i from 0 to n - 1, such as 0/4")
        return cls(int(index), int(count))

    def contains(self, path: str) -> bool:
        return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "big") % self.count == self.index

    def name(self, target: str) -> str:
        """File name of this shard: clips.csv -> clips.shard-0-of-4.csv."""
        stem, suffix = os.path.splitext(target)
        return f"{stem}.shard-{self.index}-of-{self.count}{suffix}"


def find_files(folder: str, suffixes: Collection[str]) -> Iterator[tuple[str, str]]:
    """(path relative to the folder, why it cannot be used or empty) of the files with these suffixes, sorted.

    Hidden files are skipped; links are followed, except cycles. Memory is needed for the names of one folder per level.
    Raises DatasetError if the folder itself cannot be read.
    """
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise DatasetError(f"{folder}: {error.strerror}; give a folder that can be read") from error
    return _walk(folder, "", suffixes, ())


def _walk(top: str, inside: str, suffixes: Collection[str], above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    folder = os.path.join(top, inside)
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            # with their slash, folders sort as whole paths do
            names = sorted(entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        yield _readable(inside), f"a folder that cannot be read ({error.strerror})"
        return
    for name in names:
        path = inside + name
        if name.endswith("/"):
            yield from _walk(top, path, suffixes, (*above, real))
        elif os.path.splitext(name)[1].lower() in suffixes:
            yield _readable(path), _fault(path)


def _readable(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _fault(path: str) -> str:
    """Why a path does not survive a round trip through a CSV file, or empty."""
    if path != _readable(path):
        return "its name is not in UTF-8; rename it"
    if path != path.strip() or min(path) < " ":
        return "its name has a space in front or a control character; rename it"
    return ""


_pauses = PAUSES


def with_retries(load: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and retry after pauses while it raises Unavailable; the last attempt raises it.

    After retries in vain, later calls get none until one succeeds.
    """
    global _pauses
    for pause in _pauses:
        try:
            return load(*arguments)
        except Unavailable:
            time.sleep(pause)
    _pauses = ()
    result = load(*arguments)
    _pauses = PAUSES
    return result


def check_all_done(journal: Journal, things: str) -> None:
    """Raise DatasetError if paths are still pending because they could not be read."""
    if left := journal.count("why IS NULL"):
        raise DatasetError(
            f"{left} {things} cannot be read now, such as {next(journal.pending())}: their disk is away, or no memory "
            "is left; what is done is kept, and the same command continues"
        )


class _Paths(Dataset):
    """A function of paths in the interface of `Worker`: paths take the place of indices."""

    def __init__(self, row_of: RowOf, folder: str):
        self._row_of = row_of
        self._folder = folder

    def __len__(self) -> int:
        raise TypeError("the number of paths is not known")

    def name(self, index: str) -> str:
        return index

    def load(self, index: str, rng: np.random.Generator) -> Row:
        return self._row_of(index, self._folder)


def process_pending(journal: Journal, row_of: RowOf, folder: str, processes: int, unit: str) -> None:
    """Compute and record the rows of all pending paths in `processes` workers, with a progress bar.

    A worker that dies is restarted, and a path that killed two has failed. What cannot be read at the moment stays
    pending (`why` of its row is None). Raises DatasetError if processes cannot be started.
    """
    work = _Paths(row_of, folder)
    done, left = journal.count("why IS NOT NULL"), journal.count("why IS NULL")
    with ExitStack() as stack:
        pool = stack.enter_context(closing(WorkerPool(work, 0, max(1, min(processes, left)))))
        # disable=None: no bar unless the output is a terminal
        bar = stack.enter_context(tqdm(total=done + left, initial=done, unit=unit, disable=None))
        waiting: list[Future] = []
        for path in journal.pending():
            waiting.append(pool.submit(_row, pool, path))
            if len(waiting) >= 4 * processes:  # bounds memory
                waiting = _record(journal, waiting, bar)
        while waiting:
            waiting = _record(journal, waiting, bar)


def _row(pool: WorkerPool, path: str) -> Row:
    try:
        return pool.load(path, 0)
    except WorkerDied as error:
        return {"path": path, "why": f"the processes that worked on it died, twice ({error})"}
    except Unavailable:  # its disk does not answer: it stays pending
        return {"path": path, "why": None}


def _record(journal: Journal, waiting: list[Future], bar: tqdm) -> list[Future]:
    """Record the rows that are ready, in their order; returns the futures that are still pending."""
    ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in waiting:
        if future in ready:
            journal.record(future.result())
            bar.update()
    return [future for future in waiting if future not in ready]
