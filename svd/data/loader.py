"""Batches of training samples, loaded ahead by other processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, count
from queue import SimpleQueue
from threading import Event
from typing import Any

from svd.data.dataset import BadItem, Dataset, DatasetError, Unavailable
from svd.data.outage import Outage, Patience
from svd.data.workers import ITEM_SECONDS, Worker, WorkerDied, block_interrupts, load_item
from svd.seeds import REPLACEMENT, SampleOrder, generator, samples_of_batch

_LOOK = 0.2
"""Seconds from one look at whether to stop to the next, while data are waited for."""


class Stopped(Exception):
    """Whoever waits for the data wants to wait no more."""


@dataclass(frozen=True)
class Batch:
    """Samples that are trained on together.

    `samples` are their numbers and `items` what they are. `failures` are the (path, reason) of items that were met for
    the first time and could not be used, and the notes of those that could.
    """

    samples: list[int]
    items: list[Any]
    failures: list[tuple[str, str]]


class Loader:
    """Endless batches number `first_batch`, `first_batch` + 1, ...; what they hold does not depend on `workers`.

    Args:
        dataset: The items.
        seed: With the number of a sample, it decides everything random about it.
        batch_size: Samples of a batch, on this rank.
        first_batch: Number of the first batch: how many were used up before an interruption.
        rank: Number of this process among those that share the data.
        ranks: How many processes share the data; a batch number stands for different samples on each.
        workers: Processes that load; with 0, this process does.
        prefetch: Samples kept loaded or being loaded for each worker (and always as many as a batch).
        item_seconds: How long a worker may load an item without reading anything more of it.
        patience: How long is waited for an item that cannot be read now.
        tell: Is told when an item is waited for, and when that is over; called while a batch is asked for.
        stop: Whether to wait no more; looked at while data are waited for.

    A sample whose item cannot be used takes another, chosen by the sample's own random numbers. A worker that dies
    is started again, as is one that hangs, which is ended; an item that this happened to twice cannot be used. What
    cannot be read now is tried again until it can: the samples are the same as if nothing had happened.

    Raises:
        DatasetError: no item at all can be used, a worker cannot start, or an item could not be read for too long.
        Stopped: as `stop` wants it, instead of the next batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        batch_size: int,
        first_batch: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 2,
        prefetch: int = 2,
        item_seconds: float = ITEM_SECONDS,
        patience: Patience = Patience(),  # noqa: B008 (frozen)
        tell: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ):
        for name, value, least in (
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
            ("first_batch", first_batch, 0),
            ("workers", workers, 0),
            ("prefetch", prefetch, 1),
        ):
            if value < least:
                raise DatasetError(f"{name} must be at least {least}, got {value}")
        if not 0 <= rank < ranks:
            raise DatasetError(f"rank must be from 0 to {ranks - 1} (of {ranks} ranks), got {rank}")
        if len(dataset) == 0:
            raise DatasetError("the data has no items; give at least one")
        self._dataset = dataset
        self._seed = seed
        self._batch_size = batch_size
        self._order = SampleOrder(seed, len(dataset))
        batches = (samples_of_batch(batch, batch_size, rank, ranks) for batch in count(first_batch))
        self._samples = chain.from_iterable(batches)
        self._bad: dict[int, tuple[str, str]] = {}
        self._reported: set[tuple[str, str]] = set()
        # A thread for each worker process: it waits for the process and, if that dies, knows what it was loading.
        self._workers = [Worker(dataset, seed, item_seconds) for _ in range(workers)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, initializer=block_interrupts) if workers else None
        self._pending: deque[tuple[int, Future]] = deque()
        self._ahead = max(workers * prefetch, batch_size)
        self._patience, self._outage, self._closing = patience, Outage(patience), Event()
        self._tell, self._stop = tell, stop

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, whatever they are doing."""
        self._closing.set()
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        samples, items, failures = [], [], []
        for _ in range(self._batch_size):
            sample, item, reports = self._next_sample()
            samples.append(sample)
            items.append(item)
            new = [report for report in dict.fromkeys(reports) if report not in self._reported]
            self._reported.update(new)
            failures += new
        return Batch(samples, items, failures)

    def _next_sample(self) -> tuple[int, Any, list[tuple[str, str]]]:
        """The number of the next sample, its item and what there is to report of it."""
        if self._threads is None:
            sample = next(self._samples)
            loaded = self._load_sample(sample, self._order.index(sample))
            self._tell_news()
            return sample, *loaded
        self._load_ahead()
        sample, future = self._pending[0]
        while not wait([future], _LOOK).done:
            self._look()
        self._tell_news()
        self._pending.popleft()
        item, reports = future.result()
        self._load_ahead()
        return sample, item, reports

    def _look(self) -> None:
        """What there is to do while data are waited for; raises Stopped."""
        self._tell_news()
        if self._stop():
            raise Stopped

    def _tell_news(self) -> None:
        for text in self._outage.news():
            self._tell(text)

    def _load_ahead(self) -> None:
        while len(self._pending) < self._ahead:
            sample = next(self._samples)
            self._pending.append((sample, self._threads.submit(self._load_sample, sample, self._order.index(sample))))

    def _load_sample(self, sample: int, first: int) -> tuple[Any, list[tuple[str, str]]]:
        """The item of a sample, `first` or what replaces it, and what there is to report, known already or not."""
        reports = []
        for index in self._candidates(sample, first):
            # What is known to be bad would fail again. Skipping it saves time and changes nothing else.
            if index not in self._bad:
                try:
                    item = self._load_item(index, sample)
                except BadItem as error:
                    self._bad[index] = (error.path, error.reason)
                else:
                    note = getattr(item, "note", None)
                    return item, reports + ([(self._dataset.name(index), note)] if note else [])
            reports.append(self._bad[index])
        some = "; ".join(f"{path}: {reason}" for path, reason in reports[:3])
        raise DatasetError(f"none of the {len(reports)} items of the data can be used; the first: {some}")

    def _candidates(self, sample: int, first: int) -> Iterator[int]:
        """The item of a sample, then all others in the order in which they would replace it."""
        yield first
        others = generator(self._seed, sample, REPLACEMENT).permutation(len(self._dataset))
        yield from (int(index) for index in others if index != first)

    def _load_item(self, index: int, sample: int) -> Any:
        """An item, as soon as it can be read; raises BadItem, and DatasetError where that takes too long."""
        with self._outage.waiting() as trials:
            while True:
                try:
                    return self._try_item(index, sample)
                except Unavailable as error:
                    if trials.first is None:
                        self._outage.begin(error)
                    self._pause(trials.failed(error))

    def _pause(self, seconds: float) -> None:
        if self._threads is not None:
            if self._closing.wait(seconds):
                raise DatasetError("the loader is closed")
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._look()
            time.sleep(min(left, _LOOK))

    def _try_item(self, index: int, sample: int) -> Any:
        if self._threads is None:
            return load_item(self._dataset, self._seed, index, sample)
        worker = self._idle.get()
        try:
            try:
                return worker.load(index, sample)
            except WorkerDied:  # it may have been the memory's fault, or somebody else's
                return worker.load(index, sample)
        except WorkerDied as error:
            reason = f"the processes that loaded it died, twice ({error})"
            raise BadItem(self._dataset.name(index), reason) from error
        finally:
            self._idle.put(worker)
