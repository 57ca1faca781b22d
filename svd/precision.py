"""The compute type of a network, and the operators that go with it: applied once, before its first compilation."""

from typing import Literal, get_args

import mindspore as ms
from mindspore import nn

from svd.config import ConfigError
from svd.layers.basic import Linear

AmpLevel = Literal["auto", "O0", "O2"]
"""O0: float32. O2: float16 inside the networks. auto: O2 on Ascend, O0 elsewhere."""


def compute_dtype(device: str, amp_level: AmpLevel) -> ms.Type:
    """The type that convolutions and matrix products run in on this device.

    Raises:
        ConfigError: another level.
    """
    if amp_level not in get_args(AmpLevel):
        raise ConfigError(f"amp_level must be one of {', '.join(get_args(AmpLevel))}, got {amp_level}")
    if amp_level == "auto":
        amp_level = "O2" if device == "Ascend" else "O0"
    return {"O0": ms.float32, "O2": ms.float16}[amp_level]


def set_precision(network: nn.Cell, dtype: ms.Type, ascend: bool) -> nn.Cell:
    """Give convolutions and linear layers their compute type, and attention its operator.

    Normalisations and blend factors stay in float32: the leaves cast around them.

    Args:
        network: changed in place; its parameters may be loaded before or after.
        dtype: float32 or float16.
        ascend: use Ascend's fused attention (where dtype is 16-bit; it takes no other), and convolve over time in
            slices that its convolution takes.
    """
    for _, cell in network.cells_and_names():
        if isinstance(cell, (nn.Conv2d, Linear)):
            for parameter in cell.get_parameters(expand=False):
                parameter.set_dtype(dtype)
        if hasattr(cell, "flash"):
            cell.flash = ascend and dtype != ms.float32
        if hasattr(cell, "sliced"):
            cell.sliced = ascend
    return network
