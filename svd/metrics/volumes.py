"""Convolutions and pools over time and space, of operators over pictures alone: Ascend has no convolution of volumes in
float32, and CPU has no max-pool of them.

A convolution of kernel [t h w] is one of kernel [h w] over the channels of t neighbouring frames; a max-pool is one per
frame, and then the largest of neighbouring frames. Both are exact. Axes: [b t c h w].
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros in front of and behind an axis of this size, so that ceil(size / stride) windows fit: TensorFlow's SAME,
    whose odd one is at the end. PyTorch's padding is the same on both sides.
    """
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def neighbours(x: Tensor, kernel: int, stride: int, front: int, back: int) -> tuple:
    """The frames of [b t c h w] at each place of a window over time, [b t' c h w] each; zeros in front and behind."""
    b, t, c, h, w = x.shape
    if front > 0:
        x = ops.cat((ops.zeros((b, front, c, h, w), x.dtype), x), 1)
    if back > 0:
        x = ops.cat((x, ops.zeros((b, back, c, h, w), x.dtype)), 1)
    last = stride * ((t + front + back - kernel) // stride) + 1
    found = ()
    for place in range(kernel):
        found = found + (x[:, place : place + last : stride],)
    return found


class Conv3d(nn.Cell):
    """[b t c h w] -> [b t' o h' w'] with TensorFlow's SAME padding, which for odd kernels and stride 1 is PyTorch's.

    Args:
        kernel: of each axis, time first; the weights are [o (t c) h w].
        bias: whether there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, bias: bool = True):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv2d(
            kernel * in_channels, out_channels, kernel, stride=stride, pad_mode="same", has_bias=bias, dtype=ms.float32
        )

    def construct(self, x: Tensor) -> Tensor:
        if self.kernel > 1:
            front, back = same_padding(x.shape[1], self.kernel, self.stride)
            x = ops.cat(neighbours(x, self.kernel, self.stride, front, back), 2)
        b, t, c, h, w = x.shape
        x = self.conv(ops.reshape(x, (b * t, c, h, w)))
        return ops.reshape(x, (b, t) + x.shape[1:])


class MaxPool3d(nn.Cell):
    """[b t c h w], values of 0 or more -> [b t' c h' w'], ceil(size / stride) on each axis.

    Args:
        kernel, stride: over time, and over pixels on both axes.
        at_end: what does not fill a window is at the end (a pool in ceil mode), not at both ends (TensorFlow's SAME).
    """

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], at_end: bool = False):
        super().__init__()
        self.kernel, self.stride, self.at_end = kernel, stride, at_end
        self.pool = nn.MaxPool2d(kernel[1], stride[1], pad_mode="valid")

    def padding(self, size: int, axis: int) -> tuple[int, int]:
        front, back = same_padding(size, self.kernel[axis], self.stride[axis])
        if self.at_end:
            return 0, front + back
        return front, back

    def construct(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        (top, bottom), (left, right) = self.padding(h, 1), self.padding(w, 1)
        x = ops.reshape(x, (b * t, c, h, w))
        if top + bottom + left + right > 0:
            x = ops.pad(x, (left, right, top, bottom))
        x = self.pool(x)
        x = ops.reshape(x, (b, t) + x.shape[1:])
        if self.kernel[0] > 1:
            front, back = self.padding(t, 0)
            frames = neighbours(x, self.kernel[0], self.stride[0], front, back)
            x = frames[0]
            for other in frames[1:]:
                x = ops.maximum(x, other)
        return x
