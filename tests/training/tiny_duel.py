"""A tiny task with two players, and its training by several ranks: `msrun tiny_duel.py FOLDER`."""

import sys
from pathlib import Path
from typing import Optional

import svd  # noqa: F401 (before MindSpore)

# isort: split
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from tiny_task import Item, Items, tiny_config

from svd import runtime
from svd.layers.basic import Linear, conv2d
from svd.training.checkpoint import TrainState
from svd.training.config import TrainConfig
from svd.training.distributed import Ranks
from svd.training.player import Opponent
from svd.training.trainer import Trainer

START = 2


class FirstLoss(nn.Cell):
    """Pictures are to be kept, and to please the second player: |made - x|^2 - mean score; `steep` as in TinyLoss."""

    def __init__(self, second: nn.Cell):
        super().__init__(auto_prefix=False)
        self.conv, self.second = conv2d(2, 2), second

    def construct(self, share: Tensor, x: Tensor, steep: Tensor):
        return self.total(share, self.conv(x), x, steep)

    def total(self, share: Tensor, made: Tensor, x: Tensor, steep: Tensor) -> Tensor:
        error = ops.mean(ops.square(made - x)) + ops.mean(steep) * ops.mean(self.conv.bias)
        return error - share * ops.mean(self.second(made))

    def judge(self, playing: bool, x: Tensor, steep: Tensor):
        made, share = self.conv(x), ops.zeros((), ms.float32)
        if playing:
            share = ops.ones((), ms.float32)
        loss = self.total(share, made, x, steep)
        return share, ops.stack((loss, ops.mean(ops.square(made - x)))), x, made


class Judge(nn.Cell):
    def __init__(self):
        super().__init__()
        self.linear = Linear(2, 1)

    def construct(self, x: Tensor) -> Tensor:
        return self.linear(ops.mean(ops.tanh(x), (2, 3)))


class SecondLoss(nn.Cell):
    def __init__(self, judge: nn.Cell):
        super().__init__(auto_prefix=False)
        self.judge = judge

    def construct(self, x: Tensor, made: Tensor) -> Tensor:
        return ops.mean(ops.relu(1.0 - self.judge(x))) + ops.mean(ops.relu(1.0 + self.judge(made)))


class Duel:
    def __init__(self, start: int = START, learning_rate: Optional[float] = None):
        judge = Judge()
        self.loss = FirstLoss(judge)
        rng = np.random.default_rng(0)
        for parameter in (*self.loss.conv.get_parameters(), *judge.get_parameters()):
            parameter.set_data(Tensor(0.5 * rng.standard_normal(parameter.shape).astype(np.float32)))
        self.trained = {f"network.{p.name}": p for p in self.loss.conv.get_parameters()}
        second = {f"judge.{p.name}": p for p in judge.get_parameters()}
        self.opponent = Opponent(SecondLoss(judge), second, ("error",), start, learning_rate)

    def inputs(self, items: list[Item], samples: list[int]) -> tuple[Tensor, ...]:
        return Tensor(np.stack([item.x for item in items])), Tensor([item.steep for item in items], ms.float32)


def duel_trainer(
    config: TrainConfig, state: Optional[TrainState] = None, dynamic: bool = False, ranks: Optional[Ranks] = None, **how
) -> Trainer:
    return Trainer(Duel(**how), config, state or TrainState(), {}, ranks or Ranks(), dynamic, None, lambda: 10**9)


def main() -> None:
    """Graph and pynative mode, states shared out and not."""
    runtime.setup("CPU", 1)
    ranks = Ranks(*runtime.join_ranks())
    for mode, sharded in ((1, False), (1, True), (0, True)):
        runtime.setup("CPU", mode)
        folder = Path(sys.argv[1]) / f"{mode}_{sharded}"
        folder.parent.mkdir(exist_ok=True)
        duel_trainer(tiny_config(folder, Items(), shard_optimizer=sharded), ranks=ranks).run()


if __name__ == "__main__":
    main()
