"""The training step, one compiled graph: loss, gradients, AllReduce, clipping and update."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from svd.training.distributed import Mean, OwnedParameters
from svd.training.optimizer import AdamW, WeightAverage, zeros_like


def _add(total: Parameter, gradient: Tensor) -> Tensor:
    return ops.AssignAdd()(total, gradient)


def _clear(after: Tensor, total: Parameter) -> Tensor:
    return ops.Assign()(total, ops.depend(ops.zeros_like(total), after))


class TrainStep(nn.Cell):
    """One micro-batch: accumulates gradients; on the last micro-batch of an update it averages them over micro-batches
    and cards, clips them once by their global norm, and applies them.

    If the norm is not finite (an overflow in 16 bits, which a smaller loss scale avoids) the update is skipped.

    Args:
        loss: tensors -> a scalar, the mean over its clips. With `more` it has a method `judge`: tensors -> what takes
            the place of the first of them in the loss, what is shown in place of the loss, and any number of others.
        optimizer: of the parameters to train, or of those that this card owns.
        trained: the parameters to train, float32.
        average: of the parameters to train, or None.
        micro_batches: per update.
        max_grad_norm: the global norm that gradients are clipped to.
        ranks: number of cards.
        owned: the sharding of optimizer states over the cards, or None.
        more: whether the loss has that method, whose own gradients need not be differentiated.
    """

    def __init__(
        self,
        loss: nn.Cell,
        optimizer: AdamW,
        trained: list[Parameter],
        average: Optional[WeightAverage],
        micro_batches: int = 1,
        max_grad_norm: float = 1.0,
        ranks: int = 1,
        owned: Optional[OwnedParameters] = None,
        more: bool = False,
    ):
        super().__init__(auto_prefix=False)
        self.loss, self.optimizer, self.average, self.owned = loss, optimizer, average, owned
        self.more = more
        self.trained = ParameterTuple(trained)
        self.micro_batches, self.ranks = micro_batches, ranks
        self.max_grad_norm = Tensor(max_grad_norm, ms.float32)
        self.map, self.half_square_sum, self.multiply = ops.HyperMap(), ops.L2Loss(), ops.Mul()
        if micro_batches > 1:
            self.totals = zeros_like(trained, "gradient")
        if ranks > 1:
            self.mean = Mean(ranks)
        self.gradients = ms.value_and_grad(self._scaled_loss, None, self.trained, has_aux=True)

    def _scaled_loss(self, loss_scale, *inputs):
        loss = self.loss(*inputs)
        return loss * loss_scale, loss

    def construct(self, loss_scale: Tensor, last: Tensor, coefficients: Tensor, rate: Tensor, *inputs: Tensor):
        """Returns the loss of this micro-batch, or what is shown in its place; the norm of the gradients, 0 without an
        update; and what else `judge` returns.

        Args:
            loss_scale: factor of the loss, against underflow in 16 bits.
            last: whether this is the last micro-batch of an update, a bool tensor.
            coefficients: of the optimizer, `AdamW.coefficients`, [3].
            rate: of the average, `WeightAverage.rate`.
            inputs: of the loss.
        """
        if self.more:
            judged = self.loss.judge(*inputs)
            shown = judged[1:]
            _, gradients = self.gradients(loss_scale, judged[0], *inputs[1:])
        else:
            (_, loss), gradients = self.gradients(loss_scale, *inputs)
            shown = (loss,)
        if self.micro_batches == 1:
            return (shown[0], self._update(gradients, loss_scale, coefficients, rate)) + shown[1:]
        added = self.map(_add, self.totals, gradients)
        norm = ops.zeros((), ms.float32)
        if last:
            norm = self._update(ops.depend(self.totals, added), loss_scale, coefficients, rate)
            self.map(ops.partial(_clear, norm), self.totals)
        return (shown[0], norm) + shown[1:]

    def _update(self, gradients, loss_scale, coefficients, rate):
        """The norm, after the update: in a graph the totals of gradients could be cleared before it has read them."""
        if self.ranks > 1:
            gradients = self.mean(gradients)
        scale = ops.mul(loss_scale, float(self.micro_batches))
        norm = ops.sqrt(ops.mul(ops.addn(self.map(self.half_square_sum, gradients)), 2.0)) / scale
        if ops.isfinite(norm):
            factor = ops.minimum(self.max_grad_norm / (norm + 1e-6), 1.0) / scale
            gradients = self.map(ops.partial(self.multiply, factor), gradients)
            if self.owned is not None:
                gradients = self.owned.share(gradients)
            updated = self.optimizer(gradients, coefficients)
            norm = ops.depend(norm, updated)
            if self.owned is not None:
                self.owned(updated)
            if self.average is not None:
                self.average(rate)
        return norm


class LossScale:
    """The factor on the loss in float16: halved by an overflow, doubled after `window` updates without one.

    Fixed at 1 if not `dynamic`, for float32 and bfloat16.
    """

    def __init__(self, dynamic: bool, value: float = 2.0**16, window: int = 2000):
        self.dynamic, self.window = dynamic, window
        self.value, self.good = (value if dynamic else 1.0), 0

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may be due to the scale."""
        return self.dynamic and self.value > 1

    def observe(self, finite: bool) -> None:
        """Adapt to an update whose gradients were finite, or not."""
        if not self.dynamic:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.good == self.window:
            self.value, self.good = self.value * 2, 0


def host_scalar(value) -> Tensor:
    """A number as a tensor, so that the compiled step does not depend on its value."""
    return Tensor(np.asarray(value, np.bool_ if isinstance(value, bool) else np.float32))
