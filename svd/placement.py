"""Placing a network on a device: compute type and operators, set once before its first compilation."""

from collections.abc import Collection
from typing import get_args

import mindspore as ms
from mindspore import Parameter, nn

from svd.config import ConfigError
from svd.layers.basic import Geglu, Linear
from svd.operators.table import operators_for
from svd.runtime import AmpLevel


def compute_dtype(device: str, amp_level: AmpLevel) -> ms.Type:
    """The compute type of convolutions and matrix products on this device.

    Raises:
        ConfigError: another level, or bfloat16 where the device has no operators for it.
    """
    if amp_level not in get_args(AmpLevel):
        raise ConfigError(f"amp_level must be one of {', '.join(get_args(AmpLevel))}, got {amp_level}", "amp_level")
    if amp_level == "bf16" and device != "Ascend":
        reason = f"MindSpore lacks bfloat16 operators on {device}; use O0 or O2"
        raise ConfigError(f"amp_level bf16 is for Ascend: {reason}", "amp_level")
    if amp_level == "auto":
        amp_level = "O2" if device == "Ascend" else "O0"
    return {"O0": ms.float32, "O2": ms.float16, "bf16": ms.bfloat16}[amp_level]


def place(network: nn.Cell, device: str, dtype: ms.Type, masters: Collection[Parameter] = ()) -> nn.Cell:
    """Set the compute type of a network, cast the weights of its convolutions and linear layers to it, and set the
    operators of the device.

    Normalisations and blend factors stay in float32: the leaves cast around them.

    Args:
        network: changed in place; its parameters may be loaded before or after.
        device: Ascend, GPU or CPU.
        dtype: float32, float16 or bfloat16.
        masters: parameters that stay float32 and are cast where they are used: trained ones, so that small updates are
            not lost to rounding.
    """
    in_float32 = {id(parameter) for parameter in masters}
    operators = operators_for(device, dtype)
    for _, cell in network.cells_and_names():
        if isinstance(cell, (nn.Conv2d, Linear, Geglu)):
            for parameter in cell.get_parameters(expand=False):
                parameter.set_dtype(ms.float32 if id(parameter) in in_float32 else dtype)
        if hasattr(cell, "compute_dtype"):
            cell.compute_dtype = dtype
        if hasattr(cell, "set_operators"):
            cell.set_operators(operators)
    return network
