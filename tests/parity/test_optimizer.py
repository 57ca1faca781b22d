"""AdamW against PyTorch's, and the average of the weights against its definition."""

import numpy as np
import pytest
from comparison import relative_error
from mindspore import Parameter, Tensor, nn

from svd.training.config import OptimizerConfig
from svd.training.optimizer import AdamW, WeightAverage, learning_rate
from svd.training.step import host_scalar

torch = pytest.importorskip("torch")

UPDATES = 20
SCALES = {(3, 5): 1e-9, (7,): 1e-4, (2, 3, 3, 1): 1.0, (1,): 1e5}
"""Shapes of the tensors, and how large their gradients are."""


@pytest.fixture
def values() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for shape in SCALES]


@pytest.fixture
def gradients() -> list[list[np.ndarray]]:
    """Of every update and tensor; their sizes change from update to update too."""
    generator = np.random.default_rng(1)
    return [
        [
            (scale * 10 ** generator.normal() * generator.standard_normal(shape)).astype(np.float32)
            for shape, scale in SCALES.items()
        ]
        for _ in range(UPDATES)
    ]


class Update(nn.Cell):
    """The optimizer as the training step calls it: gradients that are inputs of the graph."""

    def __init__(self, optimizer: AdamW):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, coefficients: Tensor, *gradients: Tensor):
        return self.optimizer(gradients, coefficients)


def parameters(values: list[np.ndarray]) -> list[Parameter]:
    return [Parameter(Tensor(value), name=f"p{i}") for i, value in enumerate(values)]


def test_adamw(mode, values, gradients):
    """With a learning rate that warms up, gradients from far below epsilon to far above it, and weight decay."""
    config = OptimizerConfig(learning_rate=0.01, warmup_updates=5, betas=(0.8, 0.95), weight_decay=0.1)
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values]
    reference = torch.optim.AdamW(theirs, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)
    ours = parameters(values)
    optimizer = AdamW(ours, config)
    apply = Update(optimizer)
    for update, of_update in enumerate(gradients, start=1):
        rate = learning_rate(config, update, UPDATES)
        for parameter, gradient in zip(theirs, of_update):
            parameter.grad = torch.from_numpy(gradient)
        reference.param_groups[0]["lr"] = rate
        reference.step()
        coefficients = Tensor(np.array(optimizer.coefficients(update, rate), np.float32))
        apply(coefficients, *map(Tensor, of_update))
        for result, expected in zip(ours, theirs):
            assert relative_error(result, expected) < 1e-6, f"update {update}"


def test_weight_average(mode, values):
    """Of parameters that grow; the decay first warms up, then stays."""
    ours = parameters(values)
    average = WeightAverage(ours, decay=0.5)
    expected = [value.astype(np.float64) for value in values]
    for update in range(1, UPDATES + 1):
        decay = min(0.5, (1 + update) / (10 + update))
        for i, value in enumerate(values):
            ours[i].set_data(Tensor((1 + update) * value))
            expected[i] = decay * expected[i] + (1 - decay) * (1 + update) * value
        average(host_scalar(average.rate(update)))
        for result, reference in zip(average.averages, expected):
            assert relative_error(result, reference) < 1e-6, f"update {update}"
