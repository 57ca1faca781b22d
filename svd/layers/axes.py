"""Folding frames into the batch and out of it. Axes: b clips, t frames, c channels, h w pixels, n images or tokens."""

from mindspore import Tensor, nn, ops


def fold_frames(x: Tensor) -> Tensor:
    """[b t ...] -> [(b t) ...]"""
    return ops.reshape(x, (x.shape[0] * x.shape[1],) + x.shape[2:])


def frames_inside(x: Tensor) -> Tensor:
    """[b t n ...] -> [b n t ...]

    As slices put together again: on CPU, MindSpore's Transpose is slower, and keeps twice the memory of what it
    transposes until the graph ends.
    """
    return ops.Stack(2)(ops.Unstack(1)(x))


def frames_outside(x: Tensor) -> Tensor:
    """[b n t ...] -> [b t n ...]"""
    return ops.Stack(1)(ops.Unstack(2)(x))


def per_image(layer: nn.Cell, x: Tensor) -> Tensor:
    """Apply a layer over images [n c h w] to every image of x [... c h w]."""
    y = layer(ops.reshape(x, (-1,) + x.shape[-3:]))
    return ops.reshape(y, x.shape[:-3] + y.shape[1:])
