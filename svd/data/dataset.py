"""What a data set for training is, and its errors: of the data as a whole, of an item for ever, and of the moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from svd.errors import UserError


class DatasetError(UserError, ValueError):
    """Data that cannot be used as a whole; the message says in one line what is wrong and what to do."""


class _ItemError(Exception):
    """Something about one item: `path` names it and `reason` says in one line what is wrong."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class BadItem(_ItemError):
    """An item that can never be used, whatever the random numbers; others take its place."""


class Unavailable(_ItemError):
    """An item that cannot be read now, through no fault of its own: a network disk that is away, no memory left.

    It may well be read later. Nothing is to be concluded from it about the item.
    """


class Dataset(ABC):
    """Numbered items. It is sent to other processes, once each, and so has to be picklable."""

    @abstractmethod
    def __len__(self) -> int:
        """How many items there are, usable or not."""

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator) -> Any:
        """The item, with all that is random about it taken from `rng`; raises BadItem or Unavailable.

        If the item has a `note`, it is reported, once.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """The item's name in messages, such as its path."""

    def enter_worker(self) -> None:  # noqa: B027 (most have nothing to do here)
        """Called once in each process that does nothing but load items."""
