"""The compute type of a network, and the operators that go with it: applied once, before its first compilation."""

from collections.abc import Collection
from typing import Literal, get_args

import mindspore as ms
from mindspore import Parameter, nn

from svd.config import ConfigError
from svd.layers.basic import Geglu, Linear
from svd.operators.table import operators_for

AmpLevel = Literal["auto", "O0", "O2", "bf16"]
"""O0: float32. O2: float16 inside the networks. bf16: bfloat16 instead. auto: O2 on Ascend, O0 elsewhere."""


def compute_dtype(device: str, amp_level: AmpLevel) -> ms.Type:
    """The type that convolutions and matrix products run in on this device.

    Raises:
        ConfigError: another level, or bfloat16 where the device has no operators for it.
    """
    if amp_level not in get_args(AmpLevel):
        raise ConfigError(f"amp_level must be one of {', '.join(get_args(AmpLevel))}, got {amp_level}")
    if amp_level == "bf16" and device != "Ascend":
        raise ConfigError(f"amp_level bf16 is for Ascend: MindSpore lacks bfloat16 operators on {device}; use O0 or O2")
    if amp_level == "auto":
        amp_level = "O2" if device == "Ascend" else "O0"
    return {"O0": ms.float32, "O2": ms.float16, "bf16": ms.bfloat16}[amp_level]


def set_precision(network: nn.Cell, dtype: ms.Type, device: str, trained: Collection[Parameter] = ()) -> nn.Cell:
    """Give convolutions and linear layers their compute type, and all layers the operators for it.

    Normalisations and blend factors stay in float32: the leaves cast around them.

    Args:
        network: changed in place; its parameters may be loaded before or after.
        dtype: float32, float16 or bfloat16.
        device: Ascend, GPU or CPU.
        trained: parameters that stay float32 and are cast where they are used, so that small updates are not lost.
    """
    masters = {id(parameter) for parameter in trained}
    operators = operators_for(device, dtype)
    for _, cell in network.cells_and_names():
        if isinstance(cell, (nn.Conv2d, Linear, Geglu)):
            for parameter in cell.get_parameters(expand=False):
                parameter.set_dtype(ms.float32 if id(parameter) in masters else dtype)
        if hasattr(cell, "compute_dtype"):
            cell.compute_dtype = dtype
        if hasattr(cell, "use"):
            cell.use(operators)
    return network
