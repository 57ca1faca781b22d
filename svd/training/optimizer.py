"""AdamW and the EMA of the weights, as cells of the compiled training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, pi, sqrt

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from svd.training.config import OptimizerConfig


def _adam(operator, lr, beta1, beta2, eps, decay, parameter, exp_avg, exp_avg_sq, gradient):
    return operator(parameter, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, decay, gradient)


def _average(rate, average, parameter):
    return ops.Assign()(average, average + (parameter - average) * rate)


def zeros_like(parameters: list[Parameter], prefix: str) -> ParameterTuple:
    """A float32 parameter of zeros for each, named `prefix.name`."""
    return ParameterTuple(
        [Parameter(Tensor(np.zeros(p.shape, np.float32)), f"{prefix}.{p.name}", False) for p in parameters]
    )


class AdamW(nn.Cell):
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2), updating its parameters in place.

    MindSpore's fused operator has no bias correction. It is equivalent to another learning rate, epsilon and decay,
    which `coefficients` computes in float64.
    """

    def __init__(self, parameters: list[Parameter], config: OptimizerConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        self.parameters = ParameterTuple(parameters)
        self.exp_avg = zeros_like(parameters, "exp_avg")
        self.exp_avg_sq = zeros_like(parameters, "exp_avg_sq")
        self.beta1, self.beta2 = (Tensor(beta, ms.float32) for beta in config.betas)
        self.operator, self.map = ops.AdamWeightDecay(), ops.HyperMap()

    def coefficients(self, update: int, learning_rate: float) -> list[float]:
        """Learning rate, epsilon and decay of the uncorrected algorithm in its n-th update, n = 1, 2, ..."""
        beta1, beta2 = self.config.betas
        correction = sqrt(1 - beta2**update)
        corrected = learning_rate * correction / (1 - beta1**update)
        decay = self.config.weight_decay * (1 - beta1**update) / correction
        return [corrected, self.config.eps * correction, decay]

    def construct(self, gradients: tuple[Tensor, ...], coefficients: Tensor):
        """One update; coefficients [3] as `coefficients` gives them."""
        lr, eps, decay = coefficients[0], coefficients[1], coefficients[2]
        update = ops.partial(_adam, self.operator, lr, self.beta1, self.beta2, eps, decay)
        return self.map(update, self.parameters, self.exp_avg, self.exp_avg_sq, gradients)


class WeightAverage(nn.Cell):
    """Exponential moving average (EMA) of parameters, float32, initialised with the parameters.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the updates n, as in Stability's training code.
    """

    def __init__(self, parameters: list[Parameter], decay: float):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.parameters = ParameterTuple(parameters)
        self.averages = zeros_like(parameters, "average")
        self.map = ops.HyperMap()
        self.swapped = False
        self.restart()

    def restart(self) -> None:
        """Set the averages to the parameters."""
        for average, parameter in zip(self.averages, self.parameters):
            average.set_data(Tensor(parameter.asnumpy().astype(np.float32)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A block in which the averages replace the parameters; `swapped` says whether they do."""
        kept, averages = (
            [Tensor(p.asnumpy().copy()) for p in parameters] for parameters in (self.parameters, self.averages)
        )
        self.swapped = True
        try:
            for parameter, average in zip(self.parameters, averages):
                parameter.set_data(average)
            yield
        finally:
            for parameter, value in zip(self.parameters, kept):
                parameter.set_data(value)
            self.swapped = False

    def rate(self, update: int) -> float:
        """Weight of the parameters in the n-th update of the average, n = 1, 2, ..."""
        return 1 - min(self.decay, (1 + update) / (10 + update))

    def construct(self, rate: Tensor):
        return self.map(ops.partial(_average, rate), self.averages, self.parameters)


def learning_rate(config: OptimizerConfig, update: int, updates: int) -> float:
    """The learning rate of the n-th of `updates` updates, n = 1, 2, ...: a linear warm-up, then the schedule."""
    if update <= config.warmup_updates:
        return config.learning_rate * update / config.warmup_updates
    if config.schedule == "constant":
        return config.learning_rate
    progress = (update - config.warmup_updates) / max(updates - config.warmup_updates, 1)
    return config.learning_rate * (1 + cos(pi * progress)) / 2
