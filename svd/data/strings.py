"""Many strings in little memory, for indices of millions of paths."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class PackedStrings:
    """A sequence of strings in one buffer: there may be millions, and every worker process has its own copy."""

    def __init__(self, strings: Iterable[str]):
        encoded = [string.encode() for string in strings]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._bytes = b"".join(encoded)

    def __getitem__(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode()
