"""The training loop of every task: data, steps, metrics, previews, checkpoints."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import ceil, isfinite
from pathlib import Path
from typing import Any, NoReturn, Optional, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ConfigError
from svd.console import one_line
from svd.data.loader import Batch, Stopped
from svd.errors import UserError
from svd.training.checkpoint import CheckpointWriter, NotFiniteError, TrainState, load
from svd.training.config import MOST_UPDATES, TrainConfig
from svd.training.distributed import Ranks
from svd.training.feed import Feed
from svd.training.metrics import COLUMNS, Meter, Metrics
from svd.training.optimizer import learning_rate
from svd.training.player import Opponent, Player
from svd.training.progress import Progress, describe_error
from svd.training.step import LossScale

_TO_CHANGE = "train.optimizer.learning_rate"
_REMEDY = f"try a smaller {_TO_CHANGE}, or amp_level=O0"


class TrainingError(UserError, RuntimeError):
    """Training cannot continue; the message says where it stopped and what was saved."""


class Objective(Protocol):
    """What is minimised, and over which parameters. One with two players has an `opponent` (svd.training.player); one
    that learns from its own average has a method `follow`, which is given that (or None), before it is asked for
    `inputs`.
    """

    loss: nn.Cell
    """Tensors -> a scalar, the mean over clips."""
    trained: dict[str, Parameter]
    """The parameters to train, float32, by their names in a checkpoint."""

    def inputs(self, items: list[Any], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for items of the dataset and their sample numbers."""


Preview = Callable[[str], None]
"""Generates videos with the current weights and writes them under this name."""


class Trainer:
    """Minimises an objective.

    Args:
        objective: what is learned.
        config: how.
        state: where to resume; a new TrainState to start.
        metadata: of the checkpoints' files of weights.
        ranks: this process among those of the run.
        dynamic_loss_scale: whether the loss is computed in float16.
        preview: makes videos; called on the first rank.
        memory: the bytes in use.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        state: TrainState,
        metadata: dict[str, str],
        ranks: Ranks,
        dynamic_loss_scale: bool,
        preview: Optional[Preview],
        memory: Callable[[], int],
    ):
        self.objective, self.config, self.state, self.ranks = objective, config, state, ranks
        self.preview, self.memory = preview, memory
        self.run_folder = Path(config.output_dir)
        opponent: Optional[Opponent] = getattr(objective, "opponent", None)
        self.player = Player(objective.loss, objective.trained, config, ranks, more=opponent is not None)
        if hasattr(objective, "follow"):
            objective.follow(self.player.average)
        self.opponent = opponent and Player(opponent.loss, opponent.trained, config, ranks, averaged=False)
        self.shown = (*opponent.shown, "opponent_loss", "opponent_grad_norm") if opponent else ()
        self.loss_scale = LossScale(dynamic_loss_scale, state.loss_scale)
        self.loss_scale.good = state.good_updates
        self.writer = CheckpointWriter(self.run_folder, config.keep_checkpoints, metadata, ranks)
        self.clips_per_update = config.batch_size * ranks.count * config.gradient_accumulation
        self.updates = config.updates or ceil(config.epochs * len(config.dataset) / self.clips_per_update)
        if self.updates > MOST_UPDATES:
            raise ConfigError(f"train.epochs makes {self.updates:,} updates, more than {MOST_UPDATES:,}: lower it")
        if opponent is not None and opponent.start >= self.updates:
            raise ConfigError(
                f"the second player would begin after {opponent.start} updates, and {self.updates} are made"
            )
        self.skipped: dict[str, str] = {}
        self.last_checkpoint: Optional[Path] = None
        self.stopped_by = 0
        self._saved = state.update
        """The update of the last checkpoint."""
        self._in_a_step = False

    def restore(self, checkpoint: Path) -> None:
        """Load weights, EMA and optimizer states from a checkpoint.

        Raises:
            CheckpointError: it is damaged, or of other parameters.
        """
        for kind, parameters in self._weights().items():
            load(checkpoint, kind, parameters)
        load(checkpoint, "optimizer*", self._optimizer_states())
        self.last_checkpoint = checkpoint

    def run(self) -> bool:
        """Train to the last update, or until a termination signal, after whose update a checkpoint is written.

        Returns whether the last update was reached; otherwise `stopped_by` is the signal's number, or SIGTERM on ranks
        that got none themselves.

        Raises:
            TrainingError: the loss is not finite, or something else, such as unreadable data, has ended the run; the
                last good state is in a checkpoint. The same holds for any other error, which is a bug.
            CheckpointError: the last checkpoint could not be written.
        """
        with (
            Progress(self.state.update, self.updates, quiet=not self.ranks.first) as self._progress,
            Feed(self.config, self.state.samples, self.ranks, self._inputs, self._progress.log) as self._feed,
        ):
            metrics = None
            if self.ranks.first:
                told = self._progress.dispensable, self._progress.log
                metrics = Metrics(self.run_folder, self.state.update, *told, COLUMNS + self.shown)
            try:
                return self._loop(metrics)
            except (TrainingError, CheckpointError):
                raise
            except Exception as error:
                self._end_by(error)
            finally:
                if metrics is not None:
                    metrics.close()

    def _loop(self, metrics: Optional[Metrics]) -> bool:
        config, state = self.config, self.state
        if ms.get_context("mode") == ms.GRAPH_MODE and state.update < self.updates:
            self._progress.log("compiling the graph of the training step ... (with the first update)")
        meter = Meter(self.clips_per_update)
        while state.update < self.updates and not self.stopped_by:
            try:
                loss, norm, shown = self._update()
            except Stopped:
                self.stopped_by = self._feed.stopped_by()
                self._keep()
                break
            meter.add(loss, norm, dict(zip(self.shown, shown)))
            self._progress.update()
            self._progress.show(loss=f"{meter.loss:.4f}", lr=f"{self._learning_rate(state.update):.1e}")
            ended = bool(self.stopped_by) or state.update == self.updates
            if metrics is not None and (ended or state.update % config.log_every == 0):
                self._log(metrics, meter)
            if ended or state.update % config.checkpoint_every == 0:
                self._save(last=ended)
            if config.preview.wanted and (state.update % config.preview.every == 0 or state.update == self.updates):
                self._make_preview()
        if state.update >= self.updates:  # more, if it is resumed with fewer updates than it has had
            return True
        self._progress.log(f"stopped by a signal after update {state.update}; train.resume=auto continues")
        return False

    def _update(self) -> tuple[float, float, list[float]]:
        """One update: the mean loss of its micro-batches, the norm of the gradients, and a value for each of `shown`.

        Raises:
            TrainingError: they are not finite, and the update was skipped.
        """
        state, count = self.state, self.config.gradient_accumulation
        playing = self._begin()
        totals, results, names = np.zeros(max(len(self.shown), 1)), (), []
        for micro_batch in range(count):
            batch, inputs = self._feed.next()
            names += [item.path for item in batch.items]
            self._in_a_step = True
            # One micro-batch late, so that the device computes while the next one is prepared.
            totals += self._numbers(results) / count
            results, norms = self._micro_batch(micro_batch == count - 1, playing, inputs)
            self._in_a_step = False
        self._in_a_step = True
        totals = (totals + self._numbers(results) / count).tolist()
        norms = [float(norm.asnumpy()) for norm in norms]
        self._in_a_step = False
        stop = self._feed.signal
        finite = all(map(isfinite, norms))
        bad = not all(map(isfinite, totals)) or (not finite and not self.loss_scale.can_shrink)
        # All ranks agree before they go on: they would wait for one another otherwise.
        means = [total / self.ranks.count for total in totals]
        *means, bad_ranks, stops = self.ranks.sum(*means, float(bad), float(stop > 0))
        if bad_ranks:
            raise TrainingError(self._not_finite(means, names if bad else []), _TO_CHANGE)
        state.update += 1
        state.samples += self.clips_per_update
        state.applied += isfinite(norms[0])
        state.opponent_applied += playing and isfinite(norms[1])
        self.loss_scale.observe(finite)
        self.stopped_by = self._feed.stopped_by() if stops else 0
        shown = [*means[1:], norms[1] if playing else 0.0] if self.shown else []
        return means[0], norms[0], shown

    def _begin(self) -> bool:
        """Begin an update of each player; returns whether the second one plays."""
        state, rate = self.state, self._learning_rate(self.state.update + 1)
        self.player.begin(state.applied + 1, rate)
        if self.opponent is None or state.update < self.objective.opponent.start:
            return False
        own = self.objective.opponent.learning_rate
        factor = own / self.config.optimizer.learning_rate if own else 1.0
        self.opponent.begin(state.opponent_applied + 1, rate * factor)
        return True

    def _numbers(self, results: Sequence[Tensor]) -> np.ndarray:
        """The losses of a micro-batch, and all else that is shown but norms, 0 for what is not there: float64 [n]."""
        numbers = np.zeros(max(len(self.shown), 1))
        if results:
            of_first = np.ravel(results[0].asnumpy())
            numbers[: len(of_first)] = of_first
        if len(results) > 1:
            numbers[-1] = results[1].asnumpy()
        return numbers

    def _micro_batch(self, last: bool, playing: bool, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """A step of each player: the losses, and all else that is shown but norms; and the norms of the gradients."""
        scale = self.loss_scale.value
        if self.opponent is None:
            loss, norm = self.player(scale, last, *inputs)
            return [loss], [norm]
        shown, norm, *judged = self.player(scale, last, playing, *inputs)
        if not playing:
            return [shown], [norm]
        loss, norm_of_opponent = self.opponent(scale, last, *judged)
        return [shown, loss], [norm, norm_of_opponent]

    def _end_by(self, error: Exception) -> NoReturn:
        """Save the last good update, and raise an error that says how the run can be continued."""
        kept = self._rescue()
        if not isinstance(error, (UserError, OSError, MemoryError)):
            self._progress.log(f"error: a fault of the program ends the run ({describe_error(error)}){kept}")
            raise error
        if not kept:
            raise error
        raise TrainingError(f"{one_line(error)}{kept}") from error

    def _rescue(self) -> str:
        """Save the last update if it has to be and can be; returns what there is to continue from, empty if nothing."""
        behind = self.state.update - self._saved
        problem = ""
        if behind and not self._feed.agreed:
            problem = "processes of a run save together, and this one failed alone"
        elif behind:
            try:
                self._keep()
                behind = 0
            except Exception as error:
                problem = describe_error(error)
        if self.last_checkpoint is None:
            return f"; update {self.state.update} could not be saved: {problem}" if problem else ""
        lost = f"; the last {behind} updates could not be saved: {problem}" if problem else ""
        part = " (with a part of the update that failed, perhaps)" if self._in_a_step and not lost else ""
        own = self.last_checkpoint.parent.parent == self.run_folder
        how = f"train.resume={'auto' if own else self.last_checkpoint}"
        return f"{lost}; the last checkpoint is {self.last_checkpoint}{part}: {how} continues"

    def _keep(self) -> None:
        """Save the last update, if it is newer than the last checkpoint."""
        if self.state.update > self._saved:
            self._save(last=True)

    def _not_finite(self, losses: list[float], names: list[str]) -> str:
        what = "gradient" if all(map(isfinite, losses)) else "loss"
        where = f"with the clips {', '.join(names)}" if names else "on another rank"
        return (
            f"the {what} is not finite in update {self.state.update + 1} {where}; the last good checkpoint: "
            f"{self.last_checkpoint or 'none was written yet'}. Look at these clips, {_REMEDY}"
        )

    def _learning_rate(self, update: int) -> float:
        return learning_rate(self.config.optimizer, update, self.updates)

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The inputs of the loss. Faults of videos are logged once, and listed in RUN/skipped_videos_<rank>.csv."""
        for path, reason in batch.failures:
            if path in self.skipped:
                continue
            self.skipped[path] = reason
            self._progress.log(f"warning: {path}: {reason}")
            name = f"skipped_videos_{self.ranks.rank}.csv"
            with self._progress.dispensable(name), open(self.run_folder / name, "a", newline="") as file:
                csv.writer(file).writerow([path, reason])
        return self.objective.inputs(batch.items, batch.samples)

    def _log(self, metrics: Metrics, meter: Meter) -> None:
        with self._progress.dispensable("the metrics"):
            state, gigabytes, row = self.state, self.memory() / 1e9, meter.row()
            self._progress.show(clips=f"{row['clips_per_second']:.2f}/s", memory=f"{gigabytes:.1f} GB")
            metrics.write(
                update=state.update,
                epoch=state.samples / len(self.config.dataset),
                learning_rate=self._learning_rate(state.update),
                loss_scale=self.loss_scale.value,
                memory_gb=gigabytes,
                skipped_videos=len(self.skipped),
                **row,
            )

    def _save(self, last: bool) -> None:
        """Write a checkpoint. In the middle of a run a failure, such as a full disk, is logged, and the run goes on.

        Raises:
            TrainingError: the state is not finite.
            CheckpointError: the last checkpoint could not be written.
        """
        self.state.loss_scale, self.state.good_updates = self.loss_scale.value, self.loss_scale.good
        weights, optimizer = self._weights(), self._optimizer_states()
        sharded = self.player.step.owned is not None
        try:
            self.last_checkpoint = self.writer.save(self.state, weights, optimizer, sharded)
            self._saved = self.state.update
        except NotFiniteError as error:
            raise TrainingError(f"after update {self.state.update} {error}; {_REMEDY}", _TO_CHANGE) from error
        except CheckpointError as error:
            if last:
                raise
            self._progress.log(f"warning: {error}; trying again after {self.config.checkpoint_every} updates")

    def _make_preview(self) -> None:
        """Generate preview videos with the EMA weights."""
        if self.preview is not None:
            average = self.player.average
            averaged = average.in_place() if average is not None else nullcontext()
            with self._progress.dispensable("a preview"), averaged:
                self.preview(f"update_{self.state.update:08d}")
            if average is not None and average.swapped:  # these weights must not be saved
                last = self.last_checkpoint or "none"
                raise TrainingError(f"the weights could not be put back after a preview; the last checkpoint: {last}")
        self.ranks.wait()

    def _weights(self) -> dict[str, dict[str, Parameter]]:
        """Trained parameters, their averages if there are any, and the opponent's, by their file and name in a
        checkpoint.
        """
        trained, average = self.objective.trained, self.player.average
        weights = {"trained": trained}
        if average is not None:
            weights["ema"] = dict(zip(trained, average.averages))
        if self.opponent is not None:
            weights["opponent"] = self.opponent.trained
        return weights

    def _optimizer_states(self) -> dict[str, Parameter]:
        """Those of all players."""
        return self.player.optimizer_states() | (self.opponent.optimizer_states() if self.opponent else {})
