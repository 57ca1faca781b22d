"""Data that cannot be read now: how long they are waited for, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Optional

from svd.data.dataset import DatasetError, Unavailable


@dataclass(frozen=True)
class Patience:
    """How what failed is tried again: after `first` seconds, and then after pauses that double up to the `longest`.

    It is given up `limit` seconds after it has failed for the first time.
    """

    first: float = 1.0
    longest: float = 60.0
    limit: float = 300.0

    def __str__(self) -> str:
        return f"{self.limit / 60:g} minutes" if self.limit >= 60 else f"{self.limit:g} s"


class Outage:
    """The items that are waited for, by any thread. What begins and ends it is news, once, however many they are."""

    def __init__(self, patience: Patience):
        self._patience = patience
        self._lock, self._waiting, self._since = Lock(), 0, 0.0
        self._news: SimpleQueue[str] = SimpleQueue()

    def news(self) -> Iterator[str]:
        """What there is to tell, and was not told before."""
        while True:
            try:
                yield self._news.get_nowait()
            except Empty:
                return

    @contextmanager
    def waiting(self) -> Iterator[Trials]:
        """The trials of an item. When the last of the items that are waited for could be read, the outage is over."""
        trials = Trials(self._patience)
        given_up = False
        try:
            yield trials
        except DatasetError:
            given_up = True
            raise
        finally:
            if trials.first is not None:
                self._end(given_up)

    def begin(self, error: Unavailable) -> None:
        """An item has failed for the first time."""
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                self._since = time.monotonic()
                self._news.put(
                    f"warning: {error.path} cannot be read now: {error.reason}; trying again, for {self._patience} "
                    "at most"
                )

    def _end(self, given_up: bool) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting == 0 and not given_up:
                self._news.put(f"the data can be read again, after {time.monotonic() - self._since:.1f} s")


class Trials:
    """The trials of an item: when the first was, by the monotonic clock, and how long to pause now."""

    def __init__(self, patience: Patience):
        self._patience, self._pause = patience, patience.first
        self.first: Optional[float] = None

    def failed(self, error: Unavailable) -> float:
        """Take notice of a failure; returns the seconds until the next trial, raises DatasetError to give it up."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
        left = self.first + self._patience.limit - now
        if left <= 0:
            raise DatasetError(
                f"{error.path} could not be read for {self._patience}: {error.reason}; mend that, or leave it out of "
                "the data, and continue"
            ) from error
        pause, self._pause = min(self._pause, left), min(2 * self._pause, self._patience.longest)
        return pause
