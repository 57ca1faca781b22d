"""The loop that serves every task: data, steps, metrics, previews, checkpoints."""

from __future__ import annotations

import csv
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Optional, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from tqdm import tqdm

from svd.checkpoint import CheckpointError
from svd.data.loader import Batch, Loader
from svd.errors import UserError
from svd.signals import deferred
from svd.training.checkpoint import CheckpointWriter, TrainState, load
from svd.training.config import TrainConfig
from svd.training.distributed import OwnedParameters, Ranks
from svd.training.metrics import Metrics
from svd.training.optimizer import AdamW, WeightAverage, learning_rate
from svd.training.step import LossScale, TrainStep, host_scalar


class TrainingError(UserError, RuntimeError):
    """Training cannot go on; the message says where it stopped and what is left."""


class Task(Protocol):
    """What is learned."""

    loss: nn.Cell
    """Tensors -> a scalar, the mean over clips."""
    trained: dict[str, Parameter]
    """The parameters to train, float32, by their names in a checkpoint."""

    def inputs(self, items: list[Any], samples: list[int]) -> tuple[Tensor, ...]:
        """What `loss` takes for these items of the dataset, which are the samples of these numbers."""


Preview = Callable[[str], None]
"""Makes videos with the current weights and writes them under this name."""


class Trainer:
    """Trains a task's parameters.

    Args:
        task: what is learned.
        config: how.
        state: where the run continues; a new TrainState to begin.
        metadata: of the checkpoints' files of weights.
        ranks: this process among those of the run.
        dynamic_loss_scale: whether the loss is computed in float16.
        preview: makes videos; called on the first rank.
        memory: tells the bytes in use.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        state: TrainState,
        metadata: dict[str, str],
        ranks: Ranks,
        dynamic_loss_scale: bool,
        preview: Optional[Preview],
        memory: Callable[[], int],
    ):
        self.task, self.config, self.state, self.ranks = task, config, state, ranks
        self.preview, self.memory = preview, memory
        self.run_folder = Path(config.output_dir)
        trained = list(task.trained.values())
        shared_out = config.shard_optimizer and ranks.count > 1
        owned = OwnedParameters(trained, ranks.rank, ranks.count) if shared_out else None
        self.optimizer = AdamW(owned.parameters if owned else trained, config.optimizer)
        self.average = WeightAverage(trained, config.optimizer.ema_decay) if config.optimizer.ema_decay else None
        self.step = TrainStep(
            task.loss,
            self.optimizer,
            trained,
            self.average,
            config.gradient_accumulation,
            config.optimizer.max_grad_norm,
            ranks.count,
            owned,
        )
        self.loss_scale = LossScale(dynamic_loss_scale, state.loss_scale)
        self.loss_scale.good = state.good_updates
        self.writer = CheckpointWriter(self.run_folder, config.keep_checkpoints, metadata, ranks)
        self.clips_per_update = config.batch_size * ranks.count * config.gradient_accumulation
        self.updates = config.updates or ceil(config.epochs * len(config.dataset) / self.clips_per_update)
        self.skipped: dict[str, str] = {}
        self._bar: Optional[tqdm] = None
        self._shown: dict[str, str] = {}
        self.last_checkpoint: Optional[Path] = None

    def restore(self, checkpoint: Path) -> None:
        """Load weights, averages and optimizer states from a checkpoint.

        Raises:
            CheckpointError: it is damaged, or of other parameters.
        """
        load(checkpoint, "trained", self.task.trained)
        load(checkpoint, "optimizer*", self._optimizer_states())
        if self.average is not None:
            load(checkpoint, "ema", self._averages())
        self.last_checkpoint = checkpoint

    def run(self) -> Optional[int]:
        """Train to the last update, or to a signal that asks to end, after whose update a checkpoint is written.

        Returns the number of the signal, on every rank; None where the last update was reached.

        Raises:
            TrainingError: the loss is not finite.
            CheckpointError: the last checkpoint could not be written.
        """
        metrics = Metrics(self.run_folder, self.state.update) if self.ranks.first else None
        start, quiet = self.state.update, not self.ranks.first
        try:
            with (
                tqdm(desc="training", unit="update", initial=start, total=self.updates, disable=quiet) as self._bar,
                self._loader() as loader,
                deferred() as signals,
            ):
                return self._loop(loader, metrics, signals)
        finally:
            if metrics is not None:
                with self._dispensable("the metrics"):
                    metrics.close()

    def _loader(self) -> Loader:
        c, ranks = self.config, self.ranks
        first = ceil(self.state.samples / (c.batch_size * ranks.count))
        return Loader(c.dataset, c.seed, c.batch_size, first, ranks.rank, ranks.count, workers=c.workers)

    def _loop(self, batches: Iterator[Batch], metrics: Optional[Metrics], signals: list[int]) -> Optional[int]:
        config, state = self.config, self.state
        if ms.get_context("mode") == ms.GRAPH_MODE and state.update < self.updates:
            self._say("compiling the graph of the training step ... (with the first update)")
        meter = _Meter(self.clips_per_update)
        stop = 0
        while state.update < self.updates and not stop:
            loss, norm, names = self._update(batches)
            bad = not isfinite(loss) or (not isfinite(norm) and not self.loss_scale.can_shrink)
            # What one rank knows alone, all must know before they go on: they would wait for one another otherwise.
            mine = signals[0] if signals else 0
            loss, bad_ranks, stops = self.ranks.sum(loss / self.ranks.count, float(bad), float(mine > 0))
            if bad_ranks:
                raise TrainingError(self._not_finite(loss, names if bad else []))
            state.applied += isfinite(norm)
            self.loss_scale.observe(isfinite(norm))
            stop = mine or (signal.SIGTERM if stops else 0)

            meter.add(loss, norm)
            self._bar.update()
            self._show(loss=f"{meter.loss:.4f}", lr=f"{self._learning_rate(state.update):.1e}")
            ended = stop or state.update == self.updates
            if metrics is not None and (ended or state.update % config.log_every == 0):
                self._log(metrics, meter)
            if ended or state.update % config.checkpoint_every == 0:
                self._save(last=ended)
            if config.preview.images and (state.update % config.preview.every == 0 or state.update == self.updates):
                self._make_preview()
        if state.update >= self.updates:  # more, if it is continued to fewer updates than it has had
            return None
        self._say(f"stopped by a signal after update {state.update}; --train.resume=auto continues")
        return stop

    def _update(self, batches: Iterator[Batch]) -> tuple[float, float, list[str]]:
        """One update: the mean loss of its micro-batches, the norm of the gradients, and the names of its clips."""
        state, count = self.state, self.config.gradient_accumulation
        coefficients = self.optimizer.coefficients(state.applied + 1, self._learning_rate(state.update + 1))
        rate = self.average.rate(state.applied + 1) if self.average is not None else 0.0
        total, names = 0.0, []
        for micro_batch in range(count):
            batch = next(batches)
            self._tell_failures(batch)
            names += [item.path for item in batch.items]
            loss, norm = self.step(
                host_scalar(self.loss_scale.value),
                host_scalar(micro_batch == count - 1),
                Tensor(np.array(coefficients, np.float32)),
                host_scalar(rate),
                *self.task.inputs(batch.items, batch.samples),
            )
            total += float(loss.asnumpy()) / count
        state.update += 1
        state.samples += self.clips_per_update
        return total, float(norm.asnumpy()), names

    def _not_finite(self, loss: float, names: list[str]) -> str:
        what = "gradient" if isfinite(loss) else "loss"
        where = f"with the clips {', '.join(names)}" if names else "on another rank"
        return (
            f"the {what} is not finite in update {self.state.update} {where}; the last good checkpoint: "
            f"{self.last_checkpoint or 'none was written yet'}. Look at these clips, try a smaller "
            "--train.optimizer.learning_rate, or --environment.amp_level=O0"
        )

    def _learning_rate(self, update: int) -> float:
        return learning_rate(self.config.optimizer, update, self.updates)

    def _tell_failures(self, batch: Batch) -> None:
        """Say once of each video what is wrong with it, and keep a list in RUN/skipped_videos_<rank>.csv."""
        for path, reason in batch.failures:
            if path in self.skipped:
                continue
            self.skipped[path] = reason
            self._say(f"warning: {path}: {reason}")
            name = f"skipped_videos_{self.ranks.rank}.csv"
            with self._dispensable(name), open(self.run_folder / name, "a", newline="") as file:
                csv.writer(file).writerow([path, reason])

    def _log(self, metrics: Metrics, meter: _Meter) -> None:
        state, gigabytes = self.state, self.memory() / 1e9
        row = meter.row()
        self._show(clips=f"{row['clips_per_second']:.2f}/s", memory=f"{gigabytes:.1f} GB")
        with self._dispensable("the metrics"):
            metrics.write(
                update=state.update,
                epoch=state.samples / len(self.config.dataset),
                learning_rate=self._learning_rate(state.update),
                loss_scale=self.loss_scale.value,
                memory_gb=gigabytes,
                skipped_videos=len(self.skipped),
                **row,
            )

    def _show(self, **numbers: str) -> None:
        """Numbers on the progress bar, where they stay until they are shown anew."""
        self._shown |= numbers
        self._bar.set_postfix(self._shown)

    def _say(self, text: str) -> None:
        """A line above the progress bar."""
        self._bar.write(text, file=sys.stderr)

    @contextmanager
    def _dispensable(self, what: str) -> Iterator[None]:
        """What a full disk may keep from being written: it is told of, and the run goes on."""
        try:
            yield
        except OSError as error:
            self._say(f"warning: {what} could not be written: {' '.join(str(error).split())}")

    def _save(self, last: bool) -> None:
        """Write a checkpoint. A full disk in the middle of a run is told of, and the run goes on."""
        self.state.loss_scale, self.state.good_updates = self.loss_scale.value, self.loss_scale.good
        weights = {"trained": self.task.trained}
        if self.average is not None:
            weights["ema"] = self._averages()
        try:
            self.last_checkpoint = self.writer.save(
                self.state, weights, self._optimizer_states(), shared_out=self.step.owned is not None
            )
        except CheckpointError as error:
            if last:
                raise
            self._say(f"warning: {error}; trying again after {self.config.checkpoint_every} updates")

    def _make_preview(self) -> None:
        """Videos by the averaged weights."""
        if self.preview is not None:
            with self._averaged(), self._dispensable("a preview"):
                self.preview(f"update_{self.state.update:08d}")
        self.ranks.wait()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averages in place of the weights."""
        if self.average is None:
            yield
            return
        trained = self.task.trained.values()
        kept = [parameter.asnumpy().copy() for parameter in trained]
        for parameter, average in zip(trained, self.average.averages):
            parameter.set_data(Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for parameter, value in zip(trained, kept):
                parameter.set_data(Tensor(value))

    def _averages(self) -> dict[str, Parameter]:
        return dict(zip(self.task.trained, self.average.averages))

    def _optimizer_states(self) -> dict[str, Parameter]:
        """By `exp_avg.NAME` and `exp_avg_sq.NAME`, NAME as in a checkpoint."""
        names = {id(parameter): name for name, parameter in self.task.trained.items()}
        return {
            f"{kind}.{names[id(parameter)]}": state
            for kind, states in (("exp_avg", self.optimizer.exp_avg), ("exp_avg_sq", self.optimizer.exp_avg_sq))
            for parameter, state in zip(self.optimizer.parameters, states)
        }


class _Meter:
    """Means over the updates since the last line of the metrics."""

    def __init__(self, clips_per_update: int):
        self._clips_per_update = clips_per_update
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._clock, self._timed = time.perf_counter(), 0
        self._first = True

    def add(self, loss: float, norm: float) -> None:
        self._losses.append(loss)
        self._norms.append(norm)
        self._timed += 1
        if self._first:  # compiles the graph: its time says nothing about the ones to come
            self._first, self._clock, self._timed = False, time.perf_counter(), 0

    @property
    def loss(self) -> float:
        return float(np.mean(self._losses))

    def row(self) -> dict[str, float]:
        """The columns that this knows of, and a new beginning. The norm is that of the last update."""
        seconds = time.perf_counter() - self._clock
        row = {
            "loss": self.loss,
            "grad_norm": self._norms[-1],
            "clips_per_second": self._timed * self._clips_per_update / seconds,
            "void_updates": sum(not isfinite(norm) for norm in self._norms),
        }
        self._losses, self._norms, self._clock, self._timed = [], [], time.perf_counter(), 0
        return row
