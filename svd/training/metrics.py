"""Metrics of a run: a CSV table, TensorBoard's event files and a plot of the loss."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any, Optional

import numpy as np

from svd.files import atomic_write

# Imported here, since all ranks wait for the first; a missing package is reported where it is needed. It would load
# PyTorch if that is there, which takes seconds, only to know its tensors.
_torch = sys.modules.setdefault("torch", None)
with suppress(Exception):
    import tensorboardX.event_file_writer  # noqa: F401
if _torch is None:
    del sys.modules["torch"]

COLUMNS = (
    "update",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "loss_scale",
    "clips_per_second",
    "memory_gb",
    "void_updates",
    "skipped_videos",
)
LARGEST = 64 << 20
"""Bytes of a table that is continued: half a million lines."""


class Metrics:
    """RUN/metrics.csv, RUN/tensorboard/ and, at the end, RUN/loss.png. A failure of any of them does not end the run.

    Args:
        run: the folder of the run.
        update: where the run continues; lines from after that, which a killed run left, are dropped.
        dispensable: a context for each write, given its name; handles what is raised there.
        report: called with what was wrong with a table that is continued.
        columns: of the table.
    """

    def __init__(
        self,
        run: Path,
        update: int = 0,
        dispensable: Callable[[str], AbstractContextManager] = nullcontext,
        report: Callable[[str], None] = lambda text: None,
        columns: tuple[str, ...] = COLUMNS,
    ):
        self._dispensable = dispensable
        self._plot_path = run / "loss.png"
        self._table: Optional[Table] = None
        self._events: Any = None
        with dispensable("the metrics"):
            self._table = Table(run, update, report, columns)
        with dispensable("TensorBoard's files"):
            self._events = _open_events(run / "tensorboard", update)

    def write(self, **row: float) -> None:
        """Add a line: a value for each of the columns."""
        if self._table is not None:
            with self._dispensable("the metrics"):
                self._table.write(row)
        if self._events is not None:
            with self._dispensable("TensorBoard's files"):
                _add_scalars(self._events, row)

    def close(self) -> None:
        """Write the plot and close the files."""
        if self._table is not None:
            with self._dispensable("the plot of the loss"):
                rows = np.array(self._table.rows())
                if len(rows):
                    plot_loss(rows[:, COLUMNS.index("update")], rows[:, COLUMNS.index("loss")], self._plot_path)
        if self._events is not None:
            with self._dispensable("TensorBoard's files"):
                self._events.close()


class Table:
    """RUN/metrics.csv, or the first of metrics_1.csv, ... if that cannot be continued; of these columns.

    Raises:
        OSError: the drive refuses.
    """

    def __init__(self, run: Path, update: int, report: Callable[[str], None], columns: tuple[str, ...] = COLUMNS):
        self.columns = columns
        for number in count():
            self.path = run / (f"metrics_{number}.csv" if number else "metrics.csv")
            problem = _not_a_table(self.path)
            if not problem:
                break
            report(f"warning: {self.path} {problem}: another table is begun beside it")
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(True) if self.path.exists() else []
        numbers = [(line, _numbers(line, len(columns))) for line in lines]
        kept = [line for line, row in numbers if row is not None and row[0] <= update]
        # The first is the header, and the last may be half a line.
        damaged = sum(row is None for _, row in numbers[1:-1])
        if damaged:
            report(f"warning: {self.path}: {damaged} damaged lines are left out")
        with atomic_write(self.path) as aside:
            aside.write_text("".join([",".join(columns) + "\n", *kept]), encoding="utf-8")

    def write(self, row: dict[str, float]) -> None:
        """Append a line, atomically."""
        line = ",".join(str(row[name]) for name in self.columns) + "\n"
        with open(self.path, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                written = file.write(line.encode())
                if written < len(line):
                    raise OSError(f"{written} of {len(line)} bytes were written")
            except OSError:
                file.truncate(end)
                raise

    def rows(self) -> list[list[float]]:
        """The numbers of the table."""
        with open(self.path, encoding="utf-8", errors="replace") as file:
            return [row for line in file if (row := _numbers(line, len(self.columns))) is not None]


class Meter:
    """Means over the updates since the last line of the metrics."""

    def __init__(self, clips_per_update: int):
        self._clips_per_update = clips_per_update
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._shown: list[dict[str, float]] = []
        self._clock, self._timed = time.perf_counter(), 0
        self._first = True

    def add(self, loss: float, norm: float, shown: Mapping[str, float] = {}) -> None:
        """Add an update; `shown` are further columns, the same for each."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._shown.append(shown)
        self._timed += 1
        if self._first:  # it compiles the graph: not timed
            self._first, self._clock, self._timed = False, time.perf_counter(), 0

    @property
    def loss(self) -> float:
        return float(np.mean(self._losses))

    def row(self) -> dict[str, float]:
        """The columns that are means since the last call, and the norm of the last update; starts anew."""
        seconds = time.perf_counter() - self._clock
        row = {
            "loss": self.loss,
            "grad_norm": self._norms[-1],
            "clips_per_second": self._timed * self._clips_per_update / seconds,
            "void_updates": sum(not isfinite(norm) for norm in self._norms),
            **{name: float(np.mean([shown[name] for shown in self._shown])) for name in self._shown[-1]},
        }
        self._losses, self._norms, self._shown = [], [], []
        self._clock, self._timed = time.perf_counter(), 0
        return row


def _open_events(folder: Path, update: int) -> Any:
    """TensorBoard's event writer of a run that continues after an update."""
    # Not SummaryWriter: its thread dies on a full disk, and the process then waits for it for ever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog

    folder.mkdir(exist_ok=True)
    events = EventsWriter(str(folder / "events"))
    if update:  # TensorBoard then discards later events
        _add_event(events, step=update + 1, session_log=SessionLog(status=SessionLog.START))
    return events


def _add_scalars(events: Any, row: dict[str, float]) -> None:
    from tensorboardX.proto.summary_pb2 import Summary

    finite = {name: value for name, value in row.items() if isfinite(value)}  # a void update's norm is not
    scalars = [Summary.Value(tag=f"train/{name}", simple_value=finite[name]) for name in finite if name != "update"]
    _add_event(events, step=int(row["update"]), summary=Summary(value=scalars))


def _add_event(events: Any, **content) -> None:
    from tensorboardX.proto.event_pb2 import Event

    events.write_event(Event(wall_time=time.time(), **content))
    events.flush()


def _not_a_table(path: Path) -> str:
    """Why a file cannot be continued as a table; empty if it can."""
    if not os.path.lexists(path):
        return ""
    if not path.is_file():
        return "is no ordinary file"
    if path.stat().st_size > LARGEST:
        return f"has {path.stat().st_size:,} bytes, more than the {LARGEST:,} that are read"
    return ""


def _numbers(line: str, columns: int) -> Optional[list[float]]:
    """The numbers of a line of so many; None for an invalid one, such as half a line of a killed run."""
    fields = line.split(",")
    if not line.endswith("\n") or len(fields) != columns or not fields[0].isdecimal():
        return None
    try:
        return [float(field or "nan") for field in fields]
    except ValueError:
        return None


def plot_loss(updates: np.ndarray, losses: np.ndarray, path: Path) -> None:
    """The loss over the updates, and its mean over a twentieth of the run, as a PNG."""
    import pandas as pd
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    window = max(len(losses) // 20, 1)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(updates, losses, color="0.75", linewidth=0.8, label="loss")
    mean = pd.Series(losses).rolling(window, min_periods=1).mean()
    axes.plot(updates, mean, label=f"mean of {window} lines")
    axes.set(xlabel="update", ylabel="loss")
    axes.legend()
    with atomic_write(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
