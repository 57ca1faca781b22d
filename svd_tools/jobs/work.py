"""Files by the million: found, shared out among jobs, and worked on by processes that may die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from hashlib import blake2b
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from svd.data.dataset import Dataset, DatasetError, Unavailable
from svd.data.workers import Worker, WorkerDied, block_interrupts
from svd_tools.jobs.journal import Journal, Row

PAUSES = (1, 2, 4, 8, 15, 30)
"""Seconds after which what cannot be read now is tried again."""
RowOf = Callable[[str, str], Row]
"""The work: (path, folder that it is relative to) -> row; a function of a module, which raises nothing."""


class Shard(NamedTuple):
    """One of `count` parts of the paths; which part a path is in depends on the path alone."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard from i/n; raises DatasetError."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise DatasetError(f"--shard {text}: give i/n with i from 0 to n - 1, such as 0/4")
        return cls(int(index), int(count))

    def holds(self, path: str) -> bool:
        return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "big") % self.count == self.index

    def name(self, target: str) -> str:
        """Name of this part of a file: clips.csv -> clips.shard-0-of-4.csv."""
        stem, suffix = os.path.splitext(target)
        return f"{stem}.shard-{self.index}-of-{self.count}{suffix}"


def find_files(folder: str, suffixes: Collection[str]) -> Iterator[tuple[str, str]]:
    """(path relative to the folder, why it cannot be used or empty) of the files with these suffixes, in order.

    Hidden ones are passed over; links are followed, but not in a circle. Memory is needed for the names of one folder
    at each level. Raises DatasetError if the folder itself cannot be read.
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
            # with their slash, folders come where the order of whole paths wants them
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
    """Why a path cannot be written to a CSV file and read again, or empty."""
    if path != _readable(path):
        return "its name is not in UTF-8; rename it"
    if path != path.strip() or min(path) < " ":
        return "its name has a space in front or a control character; rename it"
    return ""


_pauses = PAUSES


def patiently(load: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, which is called again after pauses while it raises Unavailable; raises that in the end.

    Where one was waited for in vain, the next ones are not, until something can be read again.
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
    """Raise DatasetError if some paths are still to do, as they could not be read."""
    if left := journal.count("why IS NULL"):
        raise DatasetError(
            f"{left} {things} cannot be read now, such as {next(journal.pending())}: their disk is away, or no memory "
            "is left; what is done is kept, and the same command continues"
        )


class _Work(Dataset):
    """A function of paths, as `Worker` wants it; paths take the place of indices."""

    def __init__(self, row_of: RowOf, folder: str):
        self._row_of = row_of
        self._folder = folder

    def __len__(self) -> int:
        raise TypeError("nobody knows how many paths there are")

    def name(self, index: str) -> str:
        return index

    def load(self, index: str, rng: np.random.Generator) -> Row:
        return self._row_of(index, self._folder)


def work_off(journal: Journal, row_of: RowOf, folder: str, processes: int, unit: str) -> None:
    """Record the rows of all paths that are still to do, made by so many processes, with a progress bar.

    A process that dies is started again, and a path that two died of has failed. What cannot be read now is left to do
    (its row has None for `why`). Raises DatasetError if processes cannot be started.
    """
    work = _Work(row_of, folder)
    idle: SimpleQueue[Worker] = SimpleQueue()
    done, left = journal.count("why IS NOT NULL"), journal.count("why IS NULL")
    with ExitStack() as stack:
        # A thread for each process: it waits for the process and, if that dies, knows what it was working on.
        threads = stack.enter_context(ThreadPoolExecutor(processes, initializer=block_interrupts))
        for _ in range(min(processes, left)):
            idle.put(stack.enter_context(closing(Worker(work, seed=0))))
        # disable=None: no bar where the output is no terminal
        bar = stack.enter_context(tqdm(total=done + left, initial=done, unit=unit, disable=None))
        waiting: set[Future] = set()
        for path in journal.pending():
            waiting.add(threads.submit(_row, idle, path))
            if len(waiting) >= 4 * processes:  # not more in memory
                waiting = _record(journal, waiting, bar)
        while waiting:
            waiting = _record(journal, waiting, bar)


def _row(idle: SimpleQueue[Worker], path: str) -> Row:
    """The row of a path, made by a process that has nothing to do."""
    worker = idle.get()
    try:
        try:
            return worker.load(path, 0)
        except WorkerDied:  # it may have been the memory's fault, or somebody else's
            return worker.load(path, 0)
    except WorkerDied as error:
        return {"path": path, "why": f"the processes that worked on it died, twice ({error})"}
    except Unavailable:  # its disk does not answer: it is still to do
        return {"path": path, "why": None}
    finally:
        idle.put(worker)


def _record(journal: Journal, waiting: set[Future], bar: tqdm) -> set[Future]:
    """Record rows as soon as there are any; returns those that are still waited for."""
    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
    for future in ready:
        journal.record(future.result())
        bar.update()
    return waiting
