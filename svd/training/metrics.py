"""What a run writes about itself: a table, TensorBoard's files, and a plot of the loss."""

from __future__ import annotations

import os
import time
from math import isfinite
from pathlib import Path

import pandas as pd

# Not SummaryWriter: its thread dies of a full disk, and the process then waits for it and never ends.
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

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


class Metrics:
    """RUN/metrics.csv, RUN/tensorboard/ and, at the end, RUN/loss.png.

    Args:
        run: the folder of the run.
        update: where the run continues; lines from after that, which a killed run left, are dropped.
    """

    def __init__(self, run: Path, update: int = 0):
        self.path, self.plot_path = run / "metrics.csv", run / "loss.png"
        kept = [line for line in _whole_lines(self.path) if int(line.split(",")[0]) <= update]
        aside = self.path.with_name(f".{self.path.name}.tmp")
        aside.write_text("".join([",".join(COLUMNS) + "\n", *kept]))
        os.replace(aside, self.path)
        (run / "tensorboard").mkdir(exist_ok=True)
        self._events = EventsWriter(str(run / "tensorboard" / "events"))
        if update:  # TensorBoard then forgets what came after it
            self._add_event(step=update + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, **row: float) -> None:
        """Add a line: a value for each of COLUMNS."""
        pd.DataFrame([row], columns=COLUMNS).to_csv(self.path, mode="a", header=False, index=False)
        finite = {name: value for name, value in row.items() if isfinite(value)}  # a void update's norm is not
        scalars = [Summary.Value(tag=f"train/{name}", simple_value=finite[name]) for name in finite if name != "update"]
        self._add_event(step=int(row["update"]), summary=Summary(value=scalars))

    def _add_event(self, **content) -> None:
        self._events.write_event(Event(wall_time=time.time(), **content))
        self._events.flush()

    def close(self) -> None:
        """Write the plot and close the files."""
        try:
            table = pd.read_csv(self.path)
            if len(table):
                plot_loss(table, self.plot_path)
        finally:
            self._events.close()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a table without its header, and without the half line that a killed run may have left."""
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == len(COLUMNS) - 1]
    return [line for line in whole if line.split(",")[0].isdecimal()]


def plot_loss(table: pd.DataFrame, path: Path) -> None:
    """The loss over the updates, and its mean over a twentieth of the run, as a PNG."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    window = max(len(table) // 20, 1)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(table["update"], table["loss"], color="0.75", linewidth=0.8, label="loss")
    axes.plot(table["update"], table["loss"].rolling(window, min_periods=1).mean(), label=f"mean of {window} lines")
    axes.set(xlabel="update", ylabel="loss")
    axes.legend()
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, format="png", dpi=120)
    os.replace(aside, path)
