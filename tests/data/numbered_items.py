"""Data sets for the tests of the loader, whose processes import them from here: quickly, without pytest."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from svd.data.dataset import BadItem, Dataset


@dataclass(frozen=True)
class Item:
    index: int
    draws: np.ndarray
    note: Optional[str] = None


class Numbers(Dataset):
    """Items 0 to n - 1; some are bad, some noted, some kill the process, some fail in a way that nobody expects."""

    def __init__(self, n: int, bad=(), noted=(), killing=(), faulty=(), once: str = "", slow: float = 0):
        self.n, self.bad, self.noted, self.killing, self.faulty = n, set(bad), set(noted), set(killing), set(faulty)
        self.once = once  # a file that the first to kill its process makes: the others live
        self.slow = slow
        self.tried = []

    def __len__(self) -> int:
        return self.n

    def name(self, index: int) -> str:
        return f"item {index}"

    def load(self, index: int, rng: np.random.Generator) -> Item:
        self.tried.append(index)
        time.sleep(self.slow)
        if index in self.killing and not (self.once and os.path.exists(self.once)):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.faulty:
            raise RuntimeError("of a kind\nthat nobody expects")
        if index in self.bad:
            raise BadItem(self.name(index), "rotten")
        return Item(index, rng.random((2, 3)), "smells" if index in self.noted else None)


class Lame(Numbers):
    def enter_worker(self) -> None:
        sys.exit(3)


class Large(Dataset):
    @staticmethod
    def arrays() -> dict[str, np.ndarray]:
        values = np.arange(3_000_000, dtype=np.uint8).reshape(1000, 3000)
        return {"large": values, "strided": values[::2, ::3], "columns": values.T, "empty": values[:0]}

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "large"

    def load(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self.arrays()


class Away(Numbers):
    """Items that cannot be read before a folder has the file `back`; a process that has tried leaves one there, too."""

    def __init__(self, n: int, folder: Path, error: Exception, **options):
        super().__init__(n, **options)
        self.folder, self.error = folder, error

    def load(self, index: int, rng: np.random.Generator) -> Item:
        if not (self.folder / "back").exists():
            (self.folder / f"tried by {os.getpid()}").touch()
            raise self.error
        return super().load(index, rng)


class Hanging(Numbers):
    """Of some items the process hangs, silently or reading; others take their time to be read."""

    def __init__(self, n: int, hanging=(), circling=(), long=(), **options):
        super().__init__(n, **options)
        self.hanging, self.circling, self.long = hanging, circling, long

    def load(self, index: int, rng: np.random.Generator) -> Item:
        end = time.monotonic() + (1000 if index in self.circling else 1.2 if index in self.long else 0)
        with open("/dev/zero", "rb", buffering=0) as file:
            while time.monotonic() < end:
                time.sleep(0.1)
                file.read(1000)
        if index in self.hanging:
            while True:
                time.sleep(1000)
        return super().load(index, rng)


class Starved(Numbers):
    """Its processes are killed while they start: the first `times` of them."""

    def __init__(self, n: int, folder: Path, times: int):
        super().__init__(n)
        self.folder, self.times = folder, times

    def enter_worker(self) -> None:
        started = len(os.listdir(self.folder))
        (self.folder / str(started)).touch()
        if started < self.times:
            os.kill(os.getpid(), signal.SIGKILL)


class Logged(Dataset):
    """Leaves a file in a folder for every item that was loaded."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __len__(self) -> int:
        return 1000

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int, rng: np.random.Generator) -> int:
        (self.folder / str(index)).touch()
        return index
