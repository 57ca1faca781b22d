"""Linear layers, convolutions and normalisations with PyTorch's defaults, which differ from MindSpore's.

svd.placement gives layers with `set_operators` the operators of the device, before the first compilation.
"""

import math
from typing import Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Uniform, initializer

from svd.layers.axes import in_slices
from svd.operators.shared import shared
from svd.operators.table import PORTABLE, Operators


def in_type_of(x: Tensor, parameter: Parameter) -> Tensor:
    """A parameter cast to the type of x: trained parameters of a 16-bit network are float32."""
    return ops.cast(parameter, x.dtype)


def linear_parameters(in_channels: int, out_channels: int) -> tuple[Parameter, Parameter]:
    """A linear layer's weight [o i] and bias [o], uniform within 1 / sqrt(i)."""
    weight = initializer(HeUniform(math.sqrt(5)), (out_channels, in_channels), ms.float32)
    bias = initializer(Uniform(in_channels**-0.5), (out_channels,), ms.float32)
    return Parameter(weight, name="weight"), Parameter(bias, name="bias")


class Linear(nn.Cell):
    """[... i] -> [... o], with a low-rank adapter if svd.layers.lora has added one."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__()
        self.weight, bias_parameter = linear_parameters(in_channels, out_channels)
        self.bias: Optional[Parameter] = bias_parameter if bias else None
        self.lora_down: Optional[Parameter] = None  # [r i]
        self.lora_up: Optional[Parameter] = None  # [o r]
        self.lora_scale = 1.0
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.linear, self.add_linear = shared(operators.linear), shared(operators.add_linear)

    def construct(self, x: Tensor) -> Tensor:
        if self.bias is None:
            y = self.linear(x, in_type_of(x, self.weight), None)
        else:
            y = self.linear(x, in_type_of(x, self.weight), in_type_of(x, self.bias))
        if self.lora_down is not None:
            y = y + self.adapter(x)
        return y

    def adapter(self, x: Tensor) -> Tensor:
        """The adapter's contribution to the output, [... o]: scale * up(down(x)) (Hu et al. 2021, equation 3)."""
        x = ops.mul(self.linear(x, in_type_of(x, self.lora_down), None), self.lora_scale)
        return self.linear(x, in_type_of(x, self.lora_up), None)

    def add_to(self, x: Tensor, h: Tensor, shift: Optional[Tensor] = None) -> Tensor:
        """x [b m o] + layer(h) + shift: h [b m i], shift [b 1 o] the same for all tokens of a clip."""
        bias = ops.reshape(in_type_of(h, self.bias), (1, 1, -1))
        if shift is not None:
            bias = shift + bias
        y = self.add_linear(x, h, in_type_of(h, self.weight), bias)
        if self.lora_down is not None:
            y = y + self.adapter(h)
        return y


class Geglu(nn.Cell):
    """[... i] -> [... o]: a linear layer to 2 x o channels, one half gated by the GELU of the other."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight, self.bias = linear_parameters(in_channels, 2 * out_channels)
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.geglu = shared(operators.geglu)

    def construct(self, x: Tensor) -> Tensor:
        return self.geglu(x, in_type_of(x, self.weight), in_type_of(x, self.bias))


class Conv2d(nn.Conv2d):
    """MindSpore's convolution with bias over [n c h w]; weights may be float32 in a 16-bit network."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.add_bias, self.add_to_channels = shared(operators.add_bias), shared(operators.add_to_channels)
        self.sliced = operators.slices and self.kernel_size[0] > self.kernel_size[1]
        height, width = self.kernel_size
        keeps_size = self.stride == (1, 1) and self.padding == (height // 2, height // 2, width // 2, width // 2)
        self.convolution = (operators.convolution(self.kernel_size) if keeps_size else None) or self.conv2d

    def without_bias(self, x: Tensor) -> Tensor:
        weight = in_type_of(x, self.weight)
        if self.sliced:
            return in_slices(self.convolution, x, weight)
        return self.convolution(x, weight)

    def construct(self, x: Tensor) -> Tensor:
        return self.add_bias(self.without_bias(x), in_type_of(x, self.bias))

    def add_to(self, x: Tensor, h: Tensor) -> Tensor:
        """x [n o h w] + layer(h), h [n i h w]."""
        return self.add_to_channels(x, self.without_bias(h), in_type_of(h, self.bias))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 3,
    stride: int = 1,
    bias: bool = True,
) -> Conv2d:
    """A convolution over [n c h w]; odd kernels are padded symmetrically, so that stride 1 keeps the size."""
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    padding = (kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2)
    return Conv2d(in_channels, out_channels, kernel, stride=stride, pad_mode="pad", padding=padding, has_bias=bias)


class GroupNorm(nn.Cell):
    """Group normalisation over [n c ...], computed in float32 and returned in the type of the input; `silu` follows.

    float32, because 16-bit statistics give black or noisy frames at the sizes of a video.
    """

    def __init__(self, channels: int, eps: float = 1e-5, silu: bool = False, groups: int = 32):
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels do not divide into {groups} groups")
        self.groups, self.eps, self.silu = groups, eps, silu
        self.weight = Parameter(initializer("ones", (channels,), ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32), name="bias")
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.norm = shared(operators.group_norm, self.groups, self.eps, self.silu)

    def construct(self, x: Tensor, shift: Optional[Tensor] = None) -> Tensor:
        """Normalise x [n c p ...] + shift, where shift is None, [n 1 c], or [n p c]."""
        return self.norm(x, self.weight, self.bias, shift)


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis, computed in float32 and returned in the type of the input."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = Parameter(initializer("ones", (channels,), ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32), name="bias")
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.norm = shared(operators.layer_norm, self.eps)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(x, self.weight, self.bias)


class GELU(nn.Cell):
    """The exact GELU, x * Phi(x)."""

    def __init__(self):
        super().__init__()
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.gelu = shared(operators.gelu)

    def construct(self, x: Tensor) -> Tensor:
        return self.gelu(x)


class SwapAxes(nn.Cell):
    """[b m n ...] -> [b n m ...]"""

    def __init__(self):
        super().__init__()
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.swap = shared(operators.swap_axes)

    def construct(self, x: Tensor) -> Tensor:
        b, m, n = x.shape[:3]
        return ops.reshape(self.swap(ops.reshape(x, (b, m, n, -1))), (b, n, m) + x.shape[3:])


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
