"""The endless order of training samples, independent of batch size, number of cards and interruptions.

The number of a sample, 0, 1, 2, ..., determines all its randomness: its item and, through `generator`, the crop in
time, the noise and so on. Resuming starts at another number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for. The values are part of what runs repeat: they stay."""

    DATA = 0  # loading an item
    LOSS = 1  # the training loss
    ORDER = 2  # the order of an epoch
    REPLACEMENT = 3  # what replaces an item that cannot be used
    ADAPTERS = 4  # what adapters begin with
    INITIALIZATION = 5  # what whole models begin with
    FRAMES = 6  # the noise levels of single frames
    TIMESTEPS = 7  # discrete noise levels
    GIVEN = 30  # which frames are given, and the noise on them
    WINDOW = 31  # the part of a clip that is learned from


def generator(seed: int, sample: int, purpose: Purpose) -> np.random.Generator:
    """An independent generator for one purpose of one sample (of an epoch for ORDER)."""
    return np.random.default_rng([seed, purpose, sample])


class SampleOrder:
    """Which of `n` items each sample takes: a new permutation of all in every epoch, without end."""

    def __init__(self, seed: int, n: int):
        self._seed = seed
        self._n = n
        self._orders: dict[int, np.ndarray] = {}

    def index(self, sample: int) -> int:
        """The index of a sample's item."""
        epoch, place = divmod(sample, self._n)
        if epoch not in self._orders:
            # two epochs are kept: a batch may straddle their boundary
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = generator(self._seed, epoch, Purpose.ORDER).permutation(self._n)
        return int(self._orders[epoch][place])


def samples_of_batch(batch: int, batch_size: int, rank: int, ranks: int) -> range:
    """The `batch_size` samples of this rank in batch number `batch`, which is divided among the ranks in order.

    Two ranks with batches of 1 see the same samples as one rank with batches of 2.
    """
    first = (batch * ranks + rank) * batch_size
    return range(first, first + batch_size)
