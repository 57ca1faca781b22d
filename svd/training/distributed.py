"""Several cards: the mean of their gradients, optimizer states sharded over them, and synchronisation."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops


def owners(sizes: list[int], ranks: int) -> list[int]:
    """The owner of each parameter, so that all own about as many numbers: largest first, to the rank with fewest."""
    owned, loads = [0] * len(sizes), [0] * ranks
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        owned[index] = loads.index(min(loads))
        loads[owned[index]] += sizes[index]
    return owned


class Mean(nn.Cell):
    """The mean of each float32 tensor over all cards (AllReduce)."""

    def __init__(self, ranks: int):
        super().__init__()
        self.share = 1 / ranks
        self.all_reduce = ops.AllReduce()

    def construct(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # In sequence: with different orders on two cards, each would wait for the other.
        means, last = (), tensors[0]
        for tensor in tensors:
            last = self.all_reduce(ops.depend(tensor, last))
            means = means + (ops.mul(last, self.share),)
        return means


class OwnedParameters(nn.Cell):
    """Optimizer states sharded over the cards (ZeRO, arXiv 1910.02054, stage 1), by whole parameters.

    Each card updates the parameters that it owns and sends them to the others.
    """

    def __init__(self, parameters: list[Parameter], rank: int, ranks: int):
        super().__init__(auto_prefix=False)
        owned = owners([parameter.size for parameter in parameters], ranks)
        self.mine = [index for index, owner in enumerate(owned) if owner == rank]
        self.parameters = [parameters[index] for index in self.mine]
        self.groups = [
            ParameterTuple([p for p, owner in zip(parameters, owned) if owner == sender]) for sender in range(ranks)
        ]
        self.broadcasts = [ops.Broadcast(sender) for sender in range(ranks)]

    def share(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients of the parameters that this card owns."""
        return tuple([gradients[index] for index in self.mine])

    def construct(self, updated: tuple):
        """Broadcast each owner's parameters to all cards.

        Args:
            updated: the optimizer's result, without which a compiled broadcast would not wait for the update.
        """
        last = updated
        for sender in range(len(self.groups)):
            group = self.groups[sender]
            for index in range(len(group)):
                # One at a time: of several, the CPU operator sends only the first in pynative mode.
                last = self.broadcasts[sender]((ops.depend(group[index], last),))[0]
                ops.Assign()(group[index], last)
        return last


class Sum(nn.Cell):
    """The sum of a tensor over all cards (AllReduce)."""

    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)


class Ranks:
    """This process and the number of processes of a run."""

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count
        self._sum = Sum() if count > 1 else None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over all ranks; a collective call, which waits for the slowest."""
        if self._sum is None:
            return list(numbers)
        return self._sum(Tensor(np.array(numbers, np.float32))).asnumpy().tolist()

    def wait(self) -> None:
        """A barrier."""
        self.sum(0.0)
