"""Batches of training samples, prefetched by worker processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from threading import Event
from typing import Any

from svd.data.dataset import BadItem, Dataset, DatasetError, check_data
from svd.data.outage import Outage, RetryPolicy
from svd.data.workers import ITEM_SECONDS, WorkerDied, WorkerPool, load_item
from svd.seeds import Purpose, SampleOrder, generator, samples_of_batch

_POLL_SECONDS = 0.2
"""Interval at which `should_stop` is polled while waiting for data."""


class Stopped(Exception):
    """`should_stop` has ended the wait for the next batch."""


@dataclass(frozen=True)
class Batch:
    """Samples of one micro-batch: their numbers in the stream, and their items.

    `failures` are (path, reason) of items found unusable for the first time, and the notes of usable ones.
    """

    samples: list[int]
    items: list[Any]
    failures: list[tuple[str, str]]


class Loader:
    """An endless iterator over the batches from number `first_batch` on; their content does not depend on `workers`.

    Args:
        dataset: The items.
        seed: Together with the number of a sample, it determines all its randomness.
        batch_size: Samples per batch on this rank.
        first_batch: Number of the first batch: how many were consumed before an interruption.
        rank: This process among those that shard the data.
        ranks: How many processes shard the data; each gets other samples of the same batch number.
        workers: Worker processes; with 0, this process loads.
        prefetch: Samples in flight per worker (and at least one batch in all).
        item_seconds: How long a worker may load an item without reading any more bytes of it.
        retry: For items that cannot be read at the moment.
        report: Called with a line when an outage begins and ends, from within `next`.
        should_stop: Polled while waiting for data.

    A sample whose item cannot be used takes another, chosen by the sample's own random numbers. A worker that dies is
    restarted, and one that hangs is killed and restarted; an item to which this happens twice is unusable. What cannot
    be read at the moment is retried: the samples are the same as if nothing had happened.

    Raises:
        DatasetError: no item can be used, a worker cannot start, or an outage has outlasted `retry`.
        Stopped: `should_stop` has become true before the next batch was ready.
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
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
        report: Callable[[str], None] = lambda text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ):
        for name, value, least in (
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
            ("first_batch", first_batch, 0),
            ("workers", workers, 0),
            ("prefetch", prefetch, 1),
        ):
            check_data(value >= least, f"{name} must be at least {least}, got {value}")
        check_data(0 <= rank < ranks, f"rank must be from 0 to {ranks - 1} (of {ranks} ranks), got {rank}")
        check_data(len(dataset) > 0, "the data has no items; give at least one")
        self._dataset = dataset
        self._seed = seed
        self._batch_size = batch_size
        self._order = SampleOrder(seed, len(dataset))
        batches = (samples_of_batch(batch, batch_size, rank, ranks) for batch in count(first_batch))
        self._samples = chain.from_iterable(batches)
        self._bad: dict[int, tuple[str, str]] = {}
        self._reported: set[tuple[str, str]] = set()
        self._pool = WorkerPool(dataset, seed, workers, item_seconds) if workers else None
        self._pending: deque[tuple[int, Future]] = deque()
        self._in_flight = max(workers * prefetch, batch_size)
        self._outage, self._closing = Outage(retry), Event()
        self._report, self._should_stop = report, should_stop

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Kill the worker processes, whatever they are doing."""
        self._closing.set()
        if self._pool is not None:
            self._pool.close()

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
        """The next sample: its number, its item, and (path, reason) to report."""
        if self._pool is None:
            sample = next(self._samples)
            loaded = self._load_sample(sample, self._order.index(sample))
            self._report_outage()
            return sample, *loaded
        self._prefetch()
        sample, future = self._pending[0]
        while not wait([future], _POLL_SECONDS).done:
            self._poll()
        self._report_outage()
        self._pending.popleft()
        item, reports = future.result()
        self._prefetch()
        return sample, item, reports

    def _poll(self) -> None:
        """Report an outage while waiting for data; raises Stopped."""
        self._report_outage()
        if self._should_stop():
            raise Stopped

    def _report_outage(self) -> None:
        for text in self._outage.messages():
            self._report(text)

    def _prefetch(self) -> None:
        while len(self._pending) < self._in_flight:
            sample = next(self._samples)
            self._pending.append((sample, self._pool.submit(self._load_sample, sample, self._order.index(sample))))

    def _load_sample(self, sample: int, first: int) -> tuple[Any, list[tuple[str, str]]]:
        """The item of a sample, `first` or its replacement, and (path, reason) of all unusable items on the way."""
        reports = []
        for index in self._candidates(sample, first):
            # A known bad item would fail again: skipping it saves time and changes nothing else.
            if index not in self._bad:
                try:
                    item = self._outage.retry(partial(self._load_item, index, sample), self._pause)
                except BadItem as error:
                    self._bad[index] = (error.path, error.reason)
                else:
                    note = getattr(item, "note", None)
                    return item, reports + ([(self._dataset.name(index), note)] if note else [])
            reports.append(self._bad[index])
        some = "; ".join(f"{path}: {reason}" for path, reason in reports[:3])
        raise DatasetError(f"none of the {len(reports)} items of the data can be used; the first: {some}")

    def _candidates(self, sample: int, first: int) -> Iterator[int]:
        """The index of a sample's item, then all others in the order in which they would replace it."""
        yield first
        others = generator(self._seed, sample, Purpose.REPLACEMENT).permutation(len(self._dataset))
        yield from (int(index) for index in others if index != first)

    def _pause(self, seconds: float) -> None:
        if self._pool is not None:
            if self._closing.wait(seconds):
                raise DatasetError("the loader is closed")
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._poll()
            time.sleep(min(left, _POLL_SECONDS))

    def _load_item(self, index: int, sample: int) -> Any:
        if self._pool is None:
            return load_item(self._dataset, self._seed, index, sample)
        try:
            return self._pool.load(index, sample)
        except WorkerDied as error:
            reason = f"the processes that loaded it died, twice ({error})"
            raise BadItem(self._dataset.name(index), reason) from error
