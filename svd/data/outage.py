"""Retrying what cannot be read at the moment, and reporting the outage once."""

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
class RetryPolicy:
    """Exponential backoff: retry after `first` seconds, then after pauses that double up to `longest`.

    Retries end `limit` seconds after the first failure.
    """

    first: float = 1.0
    longest: float = 60.0
    limit: float = 300.0

    def __str__(self) -> str:
        return f"{self.limit / 60:g} minutes" if self.limit >= 60 else f"{self.limit:g} s"


class Outage:
    """The items that any thread is waiting for. Its begin and end are reported once, however many items they are."""

    def __init__(self, policy: RetryPolicy):
        self._policy = policy
        self._lock, self._waiting, self._since = Lock(), 0, 0.0
        self._messages: SimpleQueue[str] = SimpleQueue()

    def messages(self) -> Iterator[str]:
        """Messages that have not been reported yet."""
        while True:
            try:
                yield self._messages.get_nowait()
            except Empty:
                return

    @contextmanager
    def waiting(self) -> Iterator[Retries]:
        """The retries of one item. The outage is over once the last item that is waited for could be read."""
        retries = Retries(self._policy)
        given_up = False
        try:
            yield retries
        except DatasetError:
            given_up = True
            raise
        finally:
            if retries.first is not None:
                self._end(given_up)

    def begin(self, error: Unavailable) -> None:
        """Record the first failure of an item."""
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                self._since = time.monotonic()
                self._messages.put(
                    f"warning: {error.path} cannot be read now: {error.reason}; trying again, for {self._policy} "
                    "at most"
                )

    def _end(self, given_up: bool) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting == 0 and not given_up:
                self._messages.put(f"the data can be read again, after {time.monotonic() - self._since:.1f} s")


class Retries:
    """The retries of one item: time of the first failure (monotonic clock), and the current pause."""

    def __init__(self, policy: RetryPolicy):
        self._policy, self._pause = policy, policy.first
        self.first: Optional[float] = None

    def failed(self, error: Unavailable) -> float:
        """Record a failure; returns the seconds until the next retry, or raises DatasetError to give up."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
        left = self.first + self._policy.limit - now
        if left <= 0:
            raise DatasetError(
                f"{error.path} could not be read for {self._policy}: {error.reason}; mend that, or leave it out of "
                "the data, and continue"
            ) from error
        pause, self._pause = min(self._pause, left), min(2 * self._pause, self._policy.longest)
        return pause
