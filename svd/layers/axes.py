"""Folding frames into the batch. Axes: b clips, t frames, c channels, h w pixels, n images or tokens."""

from collections.abc import Callable
from typing import Optional

from mindspore import Tensor, nn, ops


def fold_frames(x: Tensor) -> Tensor:
    """[b t ...] -> [(b t) ...]"""
    return ops.reshape(x, (x.shape[0] * x.shape[1],) + x.shape[2:])


MAX_WIDTH = 4096
"""Largest width of Ascend's Conv2D: four wider rows do not fit its buffer of 512 kB."""


def in_slices(conv: Callable, x: Tensor, weight: Tensor) -> Tensor:
    """A convolution over time, kernel (n, 1), of x [b c t p] in slices of at most MAX_WIDTH pixels."""
    b, c, t, p = x.shape
    slices = (p - 1) // MAX_WIDTH + 1
    while p % slices:
        slices += 1
    if slices == 1:
        return conv(x, weight)
    x = ops.transpose(ops.reshape(x, (b, c, t, slices, p // slices)), (0, 3, 1, 2, 4))
    y = conv(ops.reshape(x, (b * slices, c, t, p // slices)), weight)
    y = ops.transpose(ops.reshape(y, (b, slices, -1, t, p // slices)), (0, 2, 3, 1, 4))
    return ops.reshape(y, (b, -1, t, p))


def per_image(layer: nn.Cell, x: Tensor) -> Tensor:
    """Apply a layer over images [n c h w] to every image of x [... c h w]."""
    y = layer(ops.reshape(x, (-1,) + x.shape[-3:]))
    return ops.reshape(y, x.shape[:-3] + y.shape[1:])


def over_frames(norm: nn.Cell, swap: nn.Cell, x: Tensor, shift: Optional[Tensor] = None) -> Tensor:
    """Normalise x [b t c h w] + shift [b t c] over all frames of a clip, not image by image; swap is a SwapAxes."""
    b, t, c, h, w = x.shape
    return ops.reshape(swap(norm(swap(ops.reshape(x, (b, t, c, h * w))), shift)), x.shape)
