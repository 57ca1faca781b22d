"""A network as two graphs: what depends on neither latents nor noise level, evaluated once per video, and the rest.

The rest has two more forms, by which deep features are reused in steps that follow (svd.networks.reuse).
"""

from itertools import accumulate, chain, pairwise
from typing import Optional

from mindspore import Tensor, nn

from svd.networks.reuse import evaluate_keeping, evaluate_reusing
from svd.networks.unet import UNet


class Constants(nn.Cell):
    """The constants of a network, a tuple of tuples."""

    def __init__(self, network: UNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, context: Tensor, vector: Optional[Tensor], num_frames: int, *others: Optional[Tensor]) -> tuple:
        return self.network.constants(context, vector, num_frames, *others)


class Evaluate(nn.Cell):
    """F(x; c_noise) of a network, given its constants, which are flat because graph inputs cannot be nested.

    `places` are (start, stop) of each tuple.
    """

    def __init__(self, network: UNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor, c_noise: Tensor, image_only: bool, places: tuple, *flat: Tensor) -> Tensor:
        return self.network.evaluate(x, c_noise, _nested(flat, places), image_only)


class EvaluateKeeping(nn.Cell):
    """`Evaluate`, and what `EvaluateReusing` takes in the calls that follow."""

    def __init__(self, network: UNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(
        self, x: Tensor, c_noise: Tensor, depth: int, image_only: bool, places: tuple, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        return evaluate_keeping(self.network, x, c_noise, _nested(flat, places), image_only, depth)


class EvaluateReusing(nn.Cell):
    """An approximation of `Evaluate` by the outer blocks alone."""

    def __init__(self, network: UNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(
        self, x: Tensor, c_noise: Tensor, deep: Tensor, depth: int, image_only: bool, places: tuple, *flat: Tensor
    ) -> Tensor:
        return evaluate_reusing(self.network, x, c_noise, deep, _nested(flat, places), image_only, depth)


def _nested(flat: tuple[Tensor, ...], places: tuple[tuple[int, int], ...]) -> tuple[tuple[Tensor, ...], ...]:
    constants = ()
    for place in places:
        constants = constants + (flat[place[0] : place[1]],)
    return constants


class Split:
    """The graphs of a network, each compiled once per size when it is first called."""

    def __init__(self, network: UNet):
        self.constants, self.evaluate = Constants(network), Evaluate(network)
        self.keeping, self.reusing = EvaluateKeeping(network), EvaluateReusing(network)

    def prepare(self, inputs: tuple, num_frames: int, image_only: bool) -> tuple:
        """The inputs of `evaluate` after x and c_noise, computed from these inputs with the current weights."""
        constants = self.constants(*inputs[:2], num_frames, *inputs[2:])
        ends = [0, *accumulate(map(len, constants))]
        return image_only, tuple(pairwise(ends)), *chain.from_iterable(constants)
