"""What the benchmarks against PyTorch share: two sides, each in a process of its own, that compute in turns.

Both have the same cores (those that the program was started with: `taskset -c 0,1` chooses them) and as many threads;
the one that waits sleeps. A side is a function that builds, and returns what it built and a call. What it needs it
imports itself: libraries, and svd, which sets oneDNN's instructions for MindSpore, are to be in no other process.
"""

from __future__ import annotations

import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Optional

import numpy as np
import psutil
from jsonargparse import ArgumentParser
from jsonargparse.typing import Path_dw, PositiveInt

LARGEST_DIFFERENCE = 1e-3
"""Between the outputs, relative to the largest value: diffusers' networks have other epsilons."""
SHOWN_OPERATORS = 12
PROFILED_CALLS = 3


@dataclass(frozen=True)
class Built:
    """What a side built."""

    seconds: float
    """Building the networks and loading their weights, without imports."""
    parameters: int
    trained: int = 0


Call = Callable[[], np.ndarray | float]
Build = Callable[..., tuple[Built, Call]]


@dataclass(frozen=True)
class Turn:
    """A call of a side."""

    value: np.ndarray | float
    seconds: float


def options(description: str) -> ArgumentParser:
    """The options of all benchmarks."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--repeats", type=PositiveInt, default=10, help="timed calls of each side")
    parser.add_argument("--folder", type=Path_dw, help="for temporary files: on a disk with room for the weights twice")
    return parser


@contextmanager
def temporary_folder(parent: Optional[Path_dw]) -> Iterator[Path]:
    """A folder that is removed at the end, also where Ctrl-C or SIGTERM is the end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def compare(sides: tuple[Build, Build], arguments: tuple, repeats: int, unit: str, inputs: str, profile: bool) -> None:
    """Let this project and PyTorch take their turns, and print what they took as a Markdown table.

    Args:
        sides: this project's and PyTorch's; each is called with the arguments, in its own process.
        unit: what a call is.
        inputs: what it is given.
        profile: print which operators this project's time goes into.
    """
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        names = ("mindspore", "pytorch")
        workers = [stack.enter_context(Side(name, build, arguments)) for name, build in zip(names, sides)]
        check_parameters(*(worker.built for worker in workers))
        first = [worker.run(take_turn) for worker in workers]
        check_values(*first)
        rounds = [[worker.run(take_turn) for worker in workers] for _ in range(repeats)]
        difference = check_values(*rounds[-1])
        memory = [worker.run(resident_bytes) for worker in workers]
        operators = workers[0].run(_profile) if profile else ""
    built = workers[0].built
    trained = f", {built.trained:,} of them trained" if built.trained else ""
    print(f"{built.parameters:,} parameters{trained}; {inputs}; {cores()} cores, load before {load:.1f}\n")
    columns = f"weights, GB | build, s | first call, s | {unit}, s | peak memory, GB | memory after, GB"
    print(f"| side | {columns} |\n|---|---|---|---|---|---|---|")
    seconds = [[turn.seconds for turn in turns] for turns in zip(*rounds)]
    for worker, start, times, (peak, now) in zip(workers, first, seconds, memory):
        print(f"| {worker.name} | {4e-9 * worker.built.parameters:.2f} | {worker.built.seconds:.1f} ", end="")
        print(f"| {start.seconds:.1f} | {spread(times)} | {peak / 1e9:.2f} | {now / 1e9:.2f} |")
    ours, theirs = map(statistics.median, seconds)
    print(f"\nA {unit} takes {ours / theirs:.2f} times as long as PyTorch's. ", end="")
    print(f"The values differ by {difference:.1e} of the largest.\n{operators}", flush=True)


def spread(seconds: list[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def check_parameters(ours: Built, theirs: Built) -> None:
    """End the program where the sides have, or train, other numbers of parameters."""
    if (ours.parameters, ours.trained) != (theirs.parameters, theirs.trained):
        sys.exit(f"the sides are not the same network: {ours} here, {theirs} with PyTorch")


def check_values(ours: Turn, theirs: Turn) -> float:
    """The largest difference, relative to the largest value; ends the program where it is too large."""
    ours, theirs = np.asarray(ours.value), np.asarray(theirs.value)
    if ours.shape != theirs.shape:
        sys.exit(f"the sides do not compute the same: shape {ours.shape} here, {theirs.shape} with PyTorch")
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference <= LARGEST_DIFFERENCE:  # not a number is too large, too
        sys.exit(f"the sides do not compute the same: the values differ by {difference:.1e} of the largest")
    return difference


class Side(ProcessPoolExecutor):
    """A side in a process of its own, which ends with the `with`."""

    def __init__(self, name: str, build: Build, arguments: tuple):
        super().__init__(1, get_context("spawn"), _prepare)
        self.name = name
        self.built: Built = self.run(_build, build, arguments)

    def run(self, function: Callable, *arguments):
        """Call it in the side's process."""
        try:
            return self.submit(function, *arguments).result()
        except BrokenProcessPool:
            sys.exit(f"the process of {self.name} was killed, probably for want of memory: choose a smaller size")


def in_own_process(function: Callable, *arguments):
    """Call it in a process that ends: what it needed in memory is no part of what the sides need."""
    with ProcessPoolExecutor(1, get_context("spawn"), _prepare) as process:
        return process.submit(function, *arguments).result()


# --- in the processes ---

_call: Optional[Call] = None


def _prepare() -> None:
    os.dup2(2, 1)  # what libraries print is no part of the table
    os.environ["OMP_NUM_THREADS"] = str(cores())


def cores() -> int:
    return len(os.sched_getaffinity(0))


def _build(build: Build, arguments: tuple) -> Built:
    global _call
    built, _call = build(*arguments)
    return built


def take_turn() -> Turn:
    """Call what the side of this process has built."""
    start = time.perf_counter()
    value = _call()
    return Turn(value, time.perf_counter() - start)


def resident_bytes() -> tuple[int, int]:
    """Of this process: at the peak, and now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, psutil.Process().memory_info().rss


def _profile() -> str:
    """Which operators a call of MindSpore's side spends its time in, as a Markdown table."""
    import pandas
    from mindspore import profiler

    with tempfile.TemporaryDirectory() as folder:
        with profiler.profile(
            activities=[profiler.ProfilerActivity.CPU],
            schedule=profiler.schedule(wait=0, warmup=1, active=PROFILED_CALLS, repeat=1),
            on_trace_ready=profiler.tensorboard_trace_handler(folder, analyse_flag=False),
        ) as recording:
            for _ in range(1 + PROFILED_CALLS):
                start = time.perf_counter()
                _call()
                seconds = time.perf_counter() - start
                recording.step()
        (file,) = Path(folder).rglob("cpu_op_detail_info_*.csv")
        operators = pandas.read_csv(file)
    operators["ms"] = operators["op_total_time(ms)"] / PROFILED_CALLS
    operators["calls"] = operators["op_occurrences"] / PROFILED_CALLS
    kinds = operators.groupby(operators.apply(_kind, axis=1))[["calls", "ms"]].sum().sort_values("ms", ascending=False)
    total, others = kinds["ms"].sum(), kinds[SHOWN_OPERATORS:]
    lines = [f"\nKernels: {total / 1e3:.3f} s of {seconds:.3f} s, profiled.\n"]
    lines += ["| operator | calls | ms | share |", "|---|---|---|---|"]
    rows = [*kinds[:SHOWN_OPERATORS].itertuples(), ("others", others["calls"].sum(), others["ms"].sum())]
    lines += [f"| {kind} | {calls:.0f} | {ms:.2f} | {ms / total:.1%} |" for kind, calls, ms in rows]
    return "\n".join(lines)


def _kind(operator) -> str:
    """MindSpore's name of an operator; for one of this project's own kernels the class of the cell that calls it."""
    if operator.op_type != "Custom":
        return operator.op_type
    return operator.full_op_name.split("/")[-2].split("-")[-1]
