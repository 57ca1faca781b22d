"""A task of a few numbers, for what training does whatever is learned: a step of it compiles in a second or two."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.data.dataset import BadItem, Dataset
from svd.layers.basic import Linear, conv2d
from svd.seeds import Purpose, generator
from svd.training.checkpoint import TrainState
from svd.training.config import OptimizerConfig, TrainConfig
from svd.training.distributed import Ranks
from svd.training.trainer import Trainer

OPTIMIZER = OptimizerConfig(learning_rate=0.05, schedule="cosine", warmup_updates=2, weight_decay=0.1, ema_decay=0.9)
FROZEN = "conv.bias"


@dataclass(frozen=True)
class Item:
    x: np.ndarray
    steep: float
    path: str


class Items(Dataset):
    """Random pictures [2 4 4]. Some are broken, some hold NaN, and some have a gradient that float32 cannot square."""

    def __init__(self, n: int = 6, broken=(), nan=(), steep=()):
        self.n, self.broken, self.nan, self.steep = n, broken, nan, steep

    def __len__(self) -> int:
        return self.n

    def name(self, index: int) -> str:
        return f"item_{index}.mp4"

    def load(self, index: int, rng: np.random.Generator) -> Item:
        if index in self.broken:
            raise BadItem(self.name(index), "is \x1b[2Jbroken")
        x = rng.standard_normal((2, 4, 4)) + np.sin(index)
        if index in self.nan:
            x[0, 1, 2] = np.nan
        return Item(x.astype(np.float32), 1e20 if index in self.steep else 0.0, self.name(index))


class TinyLoss(nn.Cell):
    """|linear(mean(tanh(conv(x)))) - y|^2, its mean: x [b 2 4 4], y [b 3]; and `steep` [b], as a gradient."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = conv2d(2, 4), Linear(4, 3)
        rng = np.random.default_rng(0)
        for parameter in self.get_parameters():
            parameter.set_data(Tensor(0.5 * rng.standard_normal(parameter.shape).astype(np.float32)))

    def construct(self, x: Tensor, y: Tensor, steep: Tensor) -> Tensor:
        features = ops.mean(ops.tanh(self.conv(x)), (2, 3))
        return ops.mean(ops.square(self.linear(features) - y)) + ops.mean(steep) * ops.reduce_sum(self.linear.bias)


class TinyTask:
    """The task: all is trained but one bias. `hook` is called with the samples of every micro-batch."""

    def __init__(self, hook: Optional[Callable[[list[int]], None]] = None):
        self.loss, self.hook = TinyLoss(), hook
        parameters = list(self.loss.get_parameters())
        for parameter in parameters:
            parameter.requires_grad = parameter.name != FROZEN
        self.trained = {f"network.{p.name}": p for p in parameters if p.name != FROZEN}

    def inputs(self, items: list[Item], samples: list[int]) -> tuple[Tensor, ...]:
        if self.hook is not None:
            self.hook(samples)
        y = np.stack([generator(0, sample, Purpose.LOSS).standard_normal(3, dtype=np.float32) for sample in samples])
        return (
            Tensor(np.stack([item.x for item in items])),
            Tensor(y),
            Tensor([item.steep for item in items], ms.float32),
        )


def tiny_config(folder: Path, dataset: Optional[Dataset] = None, **changes) -> TrainConfig:
    """Six updates, each logged, of two micro-batches of one item; a checkpoint after every second."""
    settings = {"output_dir": str(folder), "updates": 6, "gradient_accumulation": 2, "workers": 0, "log_every": 1}
    settings |= {"checkpoint_every": 2, "keep_checkpoints": 10, "optimizer": OPTIMIZER}
    folder.mkdir(exist_ok=True)
    return TrainConfig(dataset or Items(), **(settings | changes))


def tiny_trainer(
    config: TrainConfig,
    state: Optional[TrainState] = None,
    dynamic: bool = False,
    preview: Optional[Callable[[str], None]] = None,
    hook: Optional[Callable[[list[int]], None]] = None,
) -> Trainer:
    return Trainer(TinyTask(hook), config, state or TrainState(), {}, Ranks(), dynamic, preview, memory=lambda: 10**9)


def values(parameters) -> list[np.ndarray]:
    """Copies of the parameters' values."""
    return [parameter.asnumpy().copy() for parameter in parameters]


def weights(trainer: Trainer) -> dict[str, np.ndarray]:
    """Copies of the trained parameters, by name."""
    return dict(zip(trainer.objective.trained, values(trainer.objective.trained.values())))


def assert_same(result, expected) -> None:
    """The same arrays, bit for bit."""
    assert len(result) == len(expected)
    for a, b in zip(result, expected):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def parameter(name: str, value: np.ndarray) -> Parameter:
    return Parameter(Tensor(value.astype(np.float32)), name=name)
