"""Progress bars, and messages that a graph is being compiled."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import mindspore as ms
from tqdm import tqdm

from svd.console import log


class Bars:
    """The progress bars of a pipeline, which know the sizes that there are graphs for."""

    def __init__(self):
        self._compiled: set[tuple] = set()

    def __call__(self, shown: bool, description: str, unit: str, size: tuple) -> Callable[[list], Iterable]:
        """A wrapper for a list of steps of this size: in graph mode, the first of a new one compiles a graph."""
        compiling = ms.get_context("mode") == ms.GRAPH_MODE and (description, *size) not in self._compiled
        self._compiled.add((description, *size))
        return partial(steps, description=description, unit=unit, compiling=compiling) if shown else iter


def steps(items: list, description: str, unit: str, compiling: bool) -> Iterator:
    """Yield the items under a progress bar with the time per step.

    A first step that compiles a graph is announced, and excluded from the time per step.
    """
    first = int(compiling)
    if compiling:
        log(f"{description}: compiling the graph ... (once per size)")
        start = time.perf_counter()
        yield items[0]
        log(f"{description}: compiled, and the first {unit} done, in {time.perf_counter() - start:.1f} s")
    if items[first:]:
        yield from tqdm(items[first:], description, initial=first, total=len(items), unit=unit, unit_scale=False)
