"""What a user sees while waiting: progress bars, and that a graph is being compiled."""

import time
from collections.abc import Iterator

from tqdm import tqdm

from svd.console import log


def steps(items: list, description: str, unit: str, compiling: bool) -> Iterator:
    """Yield the items under a progress bar with the time per step.

    Where the first step compiles a graph it is told of and left out of the bar's time per step.
    """
    first = int(compiling)
    if compiling:
        log(f"{description}: compiling the graph ... (once per size)")
        start = time.perf_counter()
        yield items[0]
        log(f"{description}: compiled, and the first {unit} done, in {time.perf_counter() - start:.1f} s")
    if items[first:]:
        yield from tqdm(items[first:], description, initial=first, total=len(items), unit=unit, unit_scale=False)
