"""Which formulation of the layers' operators suits which device: the only place that knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import mindspore as ms
from mindspore import nn

from svd.layers import composed, fused
from svd.layers.native import operators as native
from svd.layers.native.library import library


@dataclass(frozen=True)
class Operators:
    """Cells without parameters, by what they compute; svd.layers.composed documents them."""

    linear: Callable[..., nn.Cell] = composed.Linear
    add_bias: Callable[..., nn.Cell] = composed.AddBias
    group_norm: Callable[..., nn.Cell] = composed.GroupNorm
    layer_norm: Callable[..., nn.Cell] = composed.LayerNorm
    gelu: Callable[..., nn.Cell] = composed.Gelu
    geglu: Callable[..., nn.Cell] = composed.Geglu
    attention: Callable[..., nn.Cell] = composed.Attention
    swap_axes: Callable[..., nn.Cell] = composed.SwapAxes
    add_linear: Callable[..., nn.Cell] = composed.AddLinear
    add_to_channels: Callable[..., nn.Cell] = composed.AddToChannels
    blend: Callable[..., nn.Cell] = composed.Blend
    slices: bool = False
    """Whether convolutions over time take only some pixels at a time (svd.layers.axes)."""


COMPOSED = Operators()
ASCEND = Operators(
    linear=fused.Linear,
    add_bias=fused.AddBias,
    group_norm=fused.GroupNorm,
    geglu=partial(composed.Geglu, fused.Linear),
    add_linear=partial(composed.AddLinear, fused.Linear),
    add_to_channels=partial(composed.AddToChannels, fused.AddBias),
    slices=True,
)
ASCEND_16_BITS = replace(ASCEND, attention=fused.Attention)
NATIVE = Operators(
    group_norm=native.GroupNorm,
    layer_norm=native.LayerNorm,
    gelu=native.Gelu,
    geglu=native.Geglu,
    attention=native.Attention,
    swap_axes=native.SwapAxes,
    add_linear=native.AddLinear,
    add_to_channels=native.AddToChannels,
    blend=native.Blend,
)


def operators_for(device: str, dtype: ms.Type) -> Operators:
    """The operators for Ascend, GPU or CPU, in float32, float16 or bfloat16."""
    if device == "Ascend":
        return ASCEND if dtype == ms.float32 else ASCEND_16_BITS
    if device == "CPU" and dtype == ms.float32 and library() is not None:
        return NATIVE
    return COMPOSED
