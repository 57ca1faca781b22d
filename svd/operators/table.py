"""The operators of each device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Optional

import mindspore as ms
from mindspore import nn

from svd.operators import ascend, cpu, portable
from svd.operators.library import library


@dataclass(frozen=True)
class Operators:
    """Cells without parameters by operation; svd.operators.portable documents them."""

    linear: Callable[..., nn.Cell] = portable.Linear
    add_bias: Callable[..., nn.Cell] = portable.AddBias
    group_norm: Callable[..., nn.Cell] = portable.GroupNorm
    layer_norm: Callable[..., nn.Cell] = portable.LayerNorm
    gelu: Callable[..., nn.Cell] = portable.Gelu
    geglu: Callable[..., nn.Cell] = portable.Geglu
    attention: Callable[..., nn.Cell] = portable.Attention
    swap_axes: Callable[..., nn.Cell] = portable.SwapAxes
    add_linear: Callable[..., nn.Cell] = portable.AddLinear
    add_to_channels: Callable[..., nn.Cell] = portable.AddToChannels
    blend: Callable[..., nn.Cell] = portable.Blend
    convolution: Callable[[tuple[int, int]], Optional[nn.Cell]] = portable.convolution
    slices: bool = False
    """Whether convolutions over time are computed in slices of pixels (svd.layers.axes)."""


PORTABLE = Operators()
ASCEND = Operators(
    linear=ascend.Linear,
    add_bias=ascend.AddBias,
    group_norm=ascend.GroupNorm,
    geglu=partial(portable.Geglu, ascend.Linear),
    add_linear=partial(portable.AddLinear, ascend.Linear),
    add_to_channels=partial(portable.AddToChannels, ascend.AddBias),
    slices=True,
)
ASCEND_16_BITS = replace(ASCEND, attention=ascend.Attention)
CPU = Operators(
    group_norm=cpu.GroupNorm,
    layer_norm=cpu.LayerNorm,
    gelu=cpu.Gelu,
    geglu=cpu.Geglu,
    attention=cpu.Attention,
    swap_axes=cpu.SwapAxes,
    add_linear=cpu.AddLinear,
    add_to_channels=cpu.AddToChannels,
    blend=cpu.Blend,
    convolution=cpu.convolution,
)


def operators_for(device: str, dtype: ms.Type) -> Operators:
    """The operators for Ascend, GPU or CPU, in float32, float16 or bfloat16."""
    if device == "Ascend":
        return ASCEND if dtype == ms.float32 else ASCEND_16_BITS
    if device == "CPU" and dtype == ms.float32 and library() is not None:
        return CPU
    return PORTABLE
