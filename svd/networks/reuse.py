"""Feature reuse: in some steps of the sampler, deep blocks of the UNet are not evaluated (DeepCache, arXiv 2312.00858).

From one step to the next, what the deep blocks give changes little. Of the skips s_0, s_1, ... of the way down, the
block of the way up that takes s_d is given, beside it, a feature of all that lies deeper. `evaluate_keeping` is the
network, and returns this feature; `evaluate_reusing` takes it from an earlier step, and evaluates nothing deeper:
d steps of the way down, and d + 1 blocks of the way up. d is the depth, less than `UNetConfig.steps_down`.
"""

import mindspore as ms
from mindspore import Tensor

from svd.networks.unet import UNet


def evaluate_keeping(
    network: UNet, x: Tensor, c_noise: Tensor, constants: tuple, image_only: bool, depth: int
) -> tuple[Tensor, Tensor]:
    """`UNet.evaluate`, and the feature at this depth, [b t c h w]."""
    steps = network.count + 1
    level, block = network.last - depth // steps, network.count - depth % steps
    given = network.embedded(x, c_noise, constants, image_only)
    skips = (network.entered(x, image_only),)
    for i in range(len(network.down_blocks)):
        skips = network.descend(i, steps, skips, given)
    h = network.middle(skips[-1], given)
    for i in range(level):
        h, skips = network.ascend(i, 0, steps, h, skips, given)
    h, skips = network.ascend(level, 0, block, h, skips, given)
    deep = h
    return _risen(network, h, skips, given, level, block, x.dtype), deep


def evaluate_reusing(
    network: UNet, x: Tensor, c_noise: Tensor, deep: Tensor, constants: tuple, image_only: bool, depth: int
) -> Tensor:
    """An approximation of `UNet.evaluate` by the feature at this depth of an earlier step."""
    steps = network.count + 1
    level, block = network.last - depth // steps, network.count - depth % steps
    given = network.embedded(x, c_noise, constants, image_only)
    skips = (network.entered(x, image_only),)
    for i in range(depth // steps):
        skips = network.descend(i, steps, skips, given)
    skips = network.descend(depth // steps, depth % steps, skips, given)
    return _risen(network, deep, skips, given, level, block, x.dtype)


def _risen(network: UNet, h: Tensor, skips: tuple, given: tuple, level: int, block: int, dtype: ms.Type) -> Tensor:
    """The rest of the way up, from a block of a level, and the output."""
    h, skips = network.ascend(level, block, network.count + 1, h, skips, given)
    for i in range(level + 1, len(network.up_blocks)):
        h, skips = network.ascend(i, 0, network.count + 1, h, skips, given)
    return network.output(h, given[2], dtype)
