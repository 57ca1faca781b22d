"""Linear layers, convolutions and normalisations with PyTorch's defaults, which differ from MindSpore's."""

import math
from typing import Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Uniform, initializer

from svd.layers.composed import AddBias, GroupNormFunction, LinearFunction, shared


def in_type_of(x: Tensor, parameter: Parameter) -> Tensor:
    """A parameter in the type that x is computed in: while it is trained, a float32 one serves a 16-bit network."""
    return parameter if parameter.dtype == x.dtype else parameter.astype(x.dtype)


class Linear(nn.Cell):
    """[... i] -> [... o]. nn.Dense does the same with four operators: graphs of them take twice as long to compile.

    `fused` lets a single operator do it, which suits Ascend; svd.precision sets it before the first compilation.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__()
        self.fused, self.product, self.add_bias = False, shared(LinearFunction), shared(AddBias)
        shape = (out_channels, in_channels)
        self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), shape, ms.float32), name="weight")
        self.bias: Optional[Parameter] = None
        if bias:
            bound = Uniform(in_channels**-0.5)
            self.bias = Parameter(initializer(bound, (out_channels,), ms.float32), name="bias")

    def construct(self, x: Tensor) -> Tensor:
        weight = in_type_of(x, self.weight)
        bias = None if self.bias is None else in_type_of(x, self.bias)
        if self.fused:
            return ops.dense(x, weight, bias)
        y = self.product(ops.reshape(x, (-1, x.shape[-1])), weight)
        if bias is not None:
            y = self.add_bias(y, bias)
        return ops.reshape(y, x.shape[:-1] + y.shape[1:])


class Conv2d(nn.Conv2d):
    """MindSpore's convolution over [n c h w], of weights that may be float32 in a 16-bit network; `fused` as above."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fused, self.add_bias = False, shared(AddBias)

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv2d(x, in_type_of(x, self.weight))
        if not self.has_bias:
            return y
        bias = in_type_of(x, self.bias)
        return self.bias_add(y, bias) if self.fused else self.add_bias(y, bias)


def conv2d(in_channels: int, out_channels: int, kernel_size: int | tuple[int, int] = 3, stride: int = 1) -> Conv2d:
    """A convolution with bias over [n c h w]; odd kernels are padded symmetrically, so that stride 1 keeps the size."""
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    padding = (kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2)
    return Conv2d(in_channels, out_channels, kernel, stride=stride, pad_mode="pad", padding=padding, has_bias=True)


class GroupNorm(nn.Cell):
    """Group normalisation over [n c ...], computed in float32 and returned in the type of the input.

    float32, because 16-bit statistics give black or noisy frames at the sizes of a video. `fused` as in `Linear`.
    """

    def __init__(self, channels: int, eps: float = 1e-5, groups: int = 32):
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels do not divide into {groups} groups")
        self.groups, self.eps = groups, eps
        self.fused, self.function = False, shared(GroupNormFunction, groups, eps)
        self.weight = Parameter(initializer("ones", (channels,), ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32), name="bias")

    def construct(self, x: Tensor) -> Tensor:
        y = x.astype(ms.float32)
        if self.fused:
            y = ops.group_norm(y, self.groups, self.weight, self.bias, self.eps)
        else:
            y, _, _ = self.function(ops.reshape(y, x.shape[:2] + (-1,)), self.weight, self.bias)
            y = ops.reshape(y, x.shape)
        return y.astype(x.dtype)


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis, computed in float32 and returned in the type of the input."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = Parameter(initializer("ones", (channels,), ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32), name="bias")
        self.norm = ops.LayerNorm(-1, -1, eps)

    def construct(self, x: Tensor) -> Tensor:
        y, _, _ = self.norm(x.astype(ms.float32), self.weight, self.bias)
        return y.astype(x.dtype)


def upsample_nearest(x: Tensor) -> Tensor:
    """[n c h w] -> [n c 2h 2w], every pixel repeated."""
    n, c, h, w = x.shape
    x = ops.broadcast_to(ops.reshape(x, (n, c, h, 1, w, 1)), (n, c, h, 2, w, 2))
    return ops.reshape(x, (n, c, 2 * h, 2 * w))


class Upsample(nn.Cell):
    """[n c h w] -> [n c 2h 2w]: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv2d(channels, channels)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(upsample_nearest(x))
