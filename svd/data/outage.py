"""Retrying what cannot be read at the moment, and reporting the outage once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

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
        self._messages: deque[str] = deque()

    def messages(self) -> Iterator[str]:
        """Messages that have not been reported yet."""
        while self._messages:
            yield self._messages.popleft()

    def retry(self, load: Callable[[], Any], pause: Callable[[float], None]) -> Any:
        """What `load` returns, called again after a `pause` (of seconds) for as long as it raises Unavailable.

        The outage is over once the last item that is waited for could be read. Raises DatasetError to give up.
        """
        began, delay, given_up = None, self._policy.first, False
        try:
            while True:
                try:
                    return load()
                except Unavailable as error:
                    now = time.monotonic()
                    if began is None:
                        began = now
                        self._begin(error)
                    left = began + self._policy.limit - now
                    if left <= 0:
                        raise DatasetError(
                            f"{error.path} could not be read for {self._policy}: {error.reason}; mend that, or leave "
                            "it out of the data, and continue"
                        ) from error
                pause(min(delay, left))
                delay = min(2 * delay, self._policy.longest)
        except DatasetError:
            given_up = True
            raise
        finally:
            if began is not None and not given_up:  # given up, it goes on: what fails next is no news
                self._end()

    def _begin(self, error: Unavailable) -> None:
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                self._since = time.monotonic()
                what = f"{error.path} cannot be read now: {error.reason}"
                self._messages.append(f"warning: {what}; trying again, for {self._policy} at most")

    def _end(self) -> None:
        with self._lock:
            self._waiting -= 1
            if self._waiting == 0:
                self._messages.append(f"the data can be read again, after {time.monotonic() - self._since:.1f} s")
