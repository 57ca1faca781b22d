"""The endless order of training samples, the same for any batch size, number of cards and interruptions.

A sample's number, 0, 1, 2, ..., decides everything random about it: the item it takes, and through `generator` what is
cut from it, the noise added to it, and so on. To resume is to start at another number.
"""

from __future__ import annotations

import numpy as np

DATA, LOSS, ORDER, REPLACEMENT, ADAPTERS, INITIALIZATION, FRAMES = range(7)
"""Purposes of a generator: what is cut from the item, the training loss, an epoch's order, what replaces an item that
cannot be used, what adapters and whole models begin with, and the noise levels of single frames."""


def generator(seed: int, sample: int, purpose: int) -> np.random.Generator:
    """The random numbers of one sample for one purpose (of an epoch for ORDER); none depends on another."""
    return np.random.default_rng([seed, purpose, sample])


class SampleOrder:
    """Which of `n` items each sample takes: all of them once, shuffled, then again in another order, without end."""

    def __init__(self, seed: int, n: int):
        self._seed = seed
        self._n = n
        self._orders: dict[int, np.ndarray] = {}

    def index(self, sample: int) -> int:
        """The item that a sample takes."""
        epoch, place = divmod(sample, self._n)
        if epoch not in self._orders:
            # two epochs are kept: a batch may lie across the border between them
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = generator(self._seed, epoch, ORDER).permutation(self._n)
        return int(self._orders[epoch][place])


def samples_of_batch(batch: int, batch_size: int, rank: int, ranks: int) -> range:
    """The `batch_size` samples that this rank takes of batch number `batch`, which all ranks share in order.

    What two ranks see of batches of 1 is what one rank sees of batches of 2.
    """
    first = (batch * ranks + rank) * batch_size
    return range(first, first + batch_size)
