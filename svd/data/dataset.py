"""The interface of a training data set, its errors (of all of it, of an item for good or for now), and helpers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from svd.errors import UserError, check


class DatasetError(UserError, ValueError):
    """The data set as a whole cannot be used; the message says in one line what is wrong and what to do."""


check_data = partial(check, error=DatasetError)
"""Raise DatasetError with a message unless a condition holds."""


class _ItemError(Exception):
    """A problem with one item: `path` names it and `reason` says in one line what is wrong."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class BadItem(_ItemError):
    """An item that can never be used, whatever the random numbers; another takes its place."""


class Unavailable(_ItemError):
    """An item that cannot be read at the moment, through no fault of its own: a network drive is away, memory is short.

    Reading it later may succeed, so that nothing is recorded about the item.
    """


def clip_place(rng: np.random.Generator) -> float:
    """Where in its video a sample's clip begins, in [0, 1): the first number drawn from the generator of its item.

    Cached latents depend on that order: they are found by this number again.
    """
    return rng.random()


class PackedStrings:
    """A sequence of strings in one buffer: there may be millions, and every worker process has its own copy."""

    def __init__(self, strings: Iterable[str]):
        encoded = [string.encode() for string in strings]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._bytes = b"".join(encoded)

    def __getitem__(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode()


class Dataset(ABC):
    """Numbered items. It is sent once to each worker process, and so has to be picklable."""

    captioned = False
    """Whether its items say in words what they show, or some of them do."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items, usable or not."""

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator) -> Any:
        """Load an item, all its randomness drawn from `rng`; raises BadItem or Unavailable.

        If the item has a `note`, it is reported, once.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """The item's name in messages, such as its path."""

    def enter_worker(self) -> None:  # noqa: B027 (optional)
        """Called once in each worker process."""
