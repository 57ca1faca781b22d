"""One who learns in a training: parameters, the step that changes them, and what a checkpoint keeps of both.

Most tasks have one player. One with two, such as a decoder and a discriminator, has a loss and a step for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor, nn

from svd.training.config import TrainConfig
from svd.training.distributed import OwnedParameters, Ranks
from svd.training.optimizer import AdamW, WeightAverage
from svd.training.step import TrainStep, host_scalar


@dataclass(frozen=True)
class Opponent:
    """The second player of an objective.

    The first one's loss has then a method `judge`. It is given whether the second plays, a bool, and the inputs, and
    returns what the loss is given before the inputs, what is shown ([loss, *`shown`]), and the inputs of the second
    one's loss. The value of the first one's loss is not used, only its gradient.
    """

    loss: nn.Cell
    """-> a scalar, the mean over clips."""
    trained: dict[str, Parameter]
    """Its parameters, float32, by their names in a checkpoint."""
    shown: tuple[str, ...]
    """Columns of the metrics for what the first loss shows after itself."""
    start: int = 0
    """The updates before its first."""
    learning_rate: Optional[float] = None
    """In place of the optimizer's, with the same warm-up and schedule; that of the optimizer if None."""


class Player:
    """A loss, the parameters that it trains, and their optimizer and average.

    Args:
        loss, more: see TrainStep.
        trained: the parameters, by their names in a checkpoint.
        config: of the training.
        ranks: this process among those of the run.
        averaged: whether the parameters have a moving average, if the training has one.
    """

    def __init__(
        self,
        loss: nn.Cell,
        trained: dict[str, Parameter],
        config: TrainConfig,
        ranks: Ranks,
        averaged: bool = True,
        more: bool = False,
    ):
        parameters, o = list(trained.values()), config.optimizer
        sharded = config.shard_optimizer and ranks.count > 1
        owned = OwnedParameters(parameters, ranks.rank, ranks.count) if sharded else None
        self.trained = trained
        self.optimizer = AdamW(owned.parameters if owned else parameters, o)
        self.average = WeightAverage(parameters, o.ema_decay) if averaged and o.ema_decay else None
        self.step = TrainStep(
            *(loss, self.optimizer, parameters, self.average),
            *(config.gradient_accumulation, o.max_grad_norm, ranks.count, owned, more),
        )
        self._numbers: tuple[Tensor, Tensor] = ()

    def begin(self, update: int, learning_rate: float) -> None:
        """Begin the n-th update of the weights, n = 1, 2, ..."""
        rate = self.average.rate(update) if self.average is not None else 0.0
        coefficients = self.optimizer.coefficients(update, learning_rate)
        self._numbers = Tensor(np.array(coefficients, np.float32)), host_scalar(rate)

    def __call__(self, loss_scale: float, last: bool, *inputs: Any) -> tuple[Tensor, ...]:
        """One micro-batch, the last of the update or not; returns what the step does."""
        return self.step(host_scalar(loss_scale), host_scalar(last), *self._numbers, *inputs)

    def optimizer_states(self) -> dict[str, Parameter]:
        """By `exp_avg.NAME` and `exp_avg_sq.NAME`, NAME as in a checkpoint."""
        names = {id(parameter): name for name, parameter in self.trained.items()}
        return {
            f"{kind}.{names[id(parameter)]}": state
            for kind, states in (("exp_avg", self.optimizer.exp_avg), ("exp_avg_sq", self.optimizer.exp_avg_sq))
            for parameter, state in zip(self.optimizer.parameters, states)
        }
