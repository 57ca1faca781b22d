"""What a run writes about itself: a table, TensorBoard's files, and a plot of the loss."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

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
        from tensorboardX import SummaryWriter

        self.path, self.plot_path = run / "metrics.csv", run / "loss.png"
        kept = _read(self.path).dropna()  # a killed run may have left half a line
        kept = kept[kept["update"] <= update]
        aside = self.path.with_name(f".{self.path.name}.tmp")
        kept.to_csv(aside, index=False)
        os.replace(aside, self.path)
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=update + 1 if update else None)

    def write(self, **row: float) -> None:
        """Add a line: a value for each of COLUMNS."""
        pd.DataFrame([row], columns=COLUMNS).to_csv(self.path, mode="a", header=False, index=False)
        for name, value in row.items():
            if name != "update":
                self._writer.add_scalar(f"train/{name}", value, int(row["update"]))
        self._writer.flush()

    def close(self) -> None:
        """Write the plot and close the files."""
        self._writer.close()
        table = _read(self.path)
        if len(table):
            plot_loss(table, self.plot_path)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(path, on_bad_lines="skip")


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
