"""The kernels as cells, each with its derivative. The sources in kernels/ say what they take and return."""

from collections.abc import Callable
from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.operators import portable
from svd.operators.library import library
from svd.operators.portable import Product
from svd.operators.shared import shared


def shapes_by(rule: str) -> Callable[..., list[int] | tuple[list[int], ...]]:
    """The function from input shapes to output shapes that a rule describes, with a letter for each axis.

    `b c e, c -> b c e, b c` takes [b c e] and [c]; `...` stands for a whole shape.
    """
    inputs, outputs = ([term.split() for term in side.split(",")] for side in rule.split("->"))

    def shapes(*given: list[int]) -> list[int] | tuple[list[int], ...]:
        sizes, whole = {}, []
        for term, shape in zip(inputs, given):
            if term == ["..."]:
                whole = shape
            else:
                sizes.update(zip(term, shape))
        results = tuple(list(whole) if term == ["..."] else [sizes[axis] for axis in term] for term in outputs)
        return results if len(results) > 1 else results[0]

    return shapes


def kernel(name: str, rule: str) -> ops.Custom:
    """The operator of a kernel, in float32; the rule (`shapes_by`) gives its input and output shapes.

    MindSpore identifies operators of the same name and attributes, with the inferred shapes of the first: inference
    must depend on these and on input shapes alone. Hence the rule is an attribute, and a number that shapes depend on,
    of groups or heads, is passed as the size of an input.
    """
    outputs = rule.split("->")[1].count(",") + 1
    dtype = ms.float32 if outputs == 1 else (ms.float32,) * outputs
    operator = ops.Custom(f"{library()}:{name}", out_shape=shapes_by(rule), out_dtype=dtype, func_type="aot")
    return operator.add_prim_attr("rule", rule)


def group_norm_kernels(silu: bool, shift: str = "") -> tuple[ops.Custom, ops.Custom]:
    """Forward and backward; `shift`: the axes of one more input, which is added to x."""
    name, more = "GroupNormSilu" if silu else "GroupNorm", f", {shift}" if shift else ""
    return (
        kernel(name, f"b c e, c, c, g{more} -> b c e, b g, b g"),
        kernel(name + "Grad", f"b c e, b c e, c, c, b g, b g{more} -> b c e, c, c{more}"),
    )


class NormaliseGroups(nn.Cell):
    """x [b c e], weight [c], bias [c] -> y [b c e], means and inverse deviations [b g]"""

    def __init__(self, groups: int, eps: float, silu: bool):
        super().__init__()
        self.eps = Tensor([eps] * groups, ms.float32)
        self.forward, self.backward = group_norm_kernels(silu)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor):
        return self.forward(x, weight, bias, self.eps)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out, dout):
        return self.backward(dout[0], x, weight, bias, out[1], out[2])


class NormaliseShiftedGroups(nn.Cell):
    """NormaliseGroups of x + shift, where shift is [b 1 c], or [b s c] for s equal parts of the elements."""

    def __init__(self, groups: int, eps: float, silu: bool):
        super().__init__()
        self.eps = Tensor([eps] * groups, ms.float32)
        self.forward, self.backward = group_norm_kernels(silu, "b s t")

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor):
        return self.forward(x, weight, bias, self.eps, shift)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor, out, dout):
        return self.backward(dout[0], x, weight, bias, out[1], out[2], shift)


class GroupNorm(nn.Cell):
    """Group normalisation of x [b c p ...] + shift (None, [b 1 c] or [b p c]), then SiLU if `silu`."""

    def __init__(self, groups: int, eps: float, silu: bool):
        super().__init__()
        self.plain = shared(NormaliseGroups, groups, eps, silu)
        self.shifted = shared(NormaliseShiftedGroups, groups, eps, silu)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, shift: Optional[Tensor] = None) -> Tensor:
        rows = ops.reshape(x, x.shape[:2] + (-1,))
        if shift is None:
            y, _, _ = self.plain(rows, weight, bias)
        else:
            y, _, _ = self.shifted(rows, weight, bias, shift)
        return ops.reshape(y, x.shape)


class NormaliseRows(nn.Cell):
    """x [m c], weight [c], bias [c] -> y [m c], means and inverse deviations [m]"""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = kernel("LayerNorm", "m c, c, c, o -> m c, m, m")
        self.backward = kernel("LayerNormGrad", "m c, m c, c, m, m -> m c, c, c")

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor):
        return self.forward(x, weight, bias, self.eps)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out, dout):
        return self.backward(dout[0], x, weight, out[1], out[2])


class LayerNorm(nn.Cell):
    """Layer normalisation of x [... c]."""

    def __init__(self, eps: float):
        super().__init__()
        self.normalise = shared(NormaliseRows, eps)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, _, _ = self.normalise(ops.reshape(x, (-1, x.shape[-1])), weight, bias)
        return ops.reshape(y, x.shape)


class Gelu(nn.Cell):
    """The exact GELU, x * Phi(x)."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward = kernel("Gelu", "... -> ..."), kernel("GeluGrad", "..., ... -> ...")

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor):
        return (self.backward(dout, x),)


class GateRows(nn.Cell):
    """x [m 2e] plus a bias [2e], one half gated by the exact GELU of the other -> [m e]"""

    def __init__(self):
        super().__init__()
        self.forward = kernel("Geglu", "m w, h e -> m e")
        self.backward = kernel("GegluGrad", "m e, m w, w -> m w, w")

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, ops.reshape(bias, (2, -1)))  # the kernel reads the size of a half from its shape

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        return self.backward(dout, x, bias)


class Geglu(nn.Cell):
    """x [... i], weight [2e i], bias [2e]: a linear layer, one half gated by the exact GELU of the other -> [... e]."""

    def __init__(self):
        super().__init__()
        self.product, self.gate = shared(Product), shared(GateRows)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = self.gate(self.product(ops.reshape(x, (-1, x.shape[-1])), weight), bias)
        return ops.reshape(y, x.shape[:-1] + (y.shape[-1],))


class Convolution(nn.Cell):
    """x [n c h w], weight [o c 3 3] or [o c 3 1] -> [n o h w]; `name` of the kernel says which."""

    def __init__(self, name: str):
        super().__init__()
        self.forward = kernel(name, "n c h w, o c k l -> n o h w")
        self.input_gradient = kernel(name + "GradInput", "n o h w, o c k l -> n c h w")
        self.weight_gradient = kernel(name + "GradWeight", "n o h w, n c h w, o c k l -> o c k l")

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(x, weight)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor):
        return self.input_gradient(dout, weight), self.weight_gradient(dout, x, weight)


def convolution(kernel_size: tuple[int, int]) -> Optional[nn.Cell]:
    """`portable.convolution`: kernels for 3 x 3 and 3 x 1 taps."""
    names = {(3, 3): "Convolution", (3, 1): "TemporalConvolution"}
    return shared(Convolution, names[kernel_size]) if kernel_size in names else None


class Attend(nn.Cell):
    """q [b l c], k v [b n c] -> y [b l c], logarithms of the softmax's denominators [b h l]"""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = Tensor([1.0] * heads, ms.float32)
        self.forward = kernel("Attention", "b l c, b n c, b n c, h -> b l c, b h l")
        self.backward = kernel("AttentionGrad", "b l c, b l c, b n c, b n c, b l c, b h l -> b l c, b n c, b n c")

    def construct(self, q: Tensor, k: Tensor, v: Tensor):
        return self.forward(q, k, v, self.heads)

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, out, dout):
        return self.backward(dout[0], q, k, v, out[0], out[1])


class Attention(nn.Cell):
    """`portable.Attention`, of which `upcast` changes nothing in float32; by a kernel where there is no bias."""

    def __init__(self, heads: int, upcast: bool = False):
        super().__init__()
        self.attend, self.portable = shared(Attend, heads), shared(portable.Attention, heads)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        return self.attend(q, k, v)[0] if bias is None else self.portable(q, k, v, bias)


class SwapAxes(nn.Cell):
    """[b m n e] -> [b n m e]"""

    def __init__(self):
        super().__init__()
        self.swap = kernel("SwapAxes", "b m n e -> b n m e")

    def construct(self, x: Tensor) -> Tensor:
        return self.swap(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor):
        return (self.swap(dout),)


class AddTokens(nn.Cell):
    """x [b m c] + h [b m c] + shift [b 1 c] or [1 1 c]"""

    def __init__(self):
        super().__init__()
        self.forward = kernel("AddTokens", "b m c, b m c, s t c -> b m c")
        self.sums = kernel("SumTokens", "b m c, s t c -> s t c")

    def construct(self, x: Tensor, h: Tensor, shift: Tensor) -> Tensor:
        return self.forward(x, h, shift)

    def bprop(self, x: Tensor, h: Tensor, shift: Tensor, out: Tensor, dout: Tensor):
        return dout, dout, self.sums(dout, shift)


class AddLinear(nn.Cell):
    """x [b m o] + h [b m i] weight^T + shift [b 1 o] or [1 1 o]; weight [o i]"""

    def __init__(self):
        super().__init__()
        self.product, self.add = shared(Product), shared(AddTokens)

    def construct(self, x: Tensor, h: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        y = self.product(ops.reshape(h, (-1, h.shape[-1])), weight)
        return self.add(x, ops.reshape(y, x.shape), shift)


class AddRows(nn.Cell):
    """x [n c e] + h [n c e] + bias [c]"""

    def __init__(self):
        super().__init__()
        self.forward = kernel("AddToChannels", "n c e, n c e, c -> n c e")
        self.sums = kernel("SumChannels", "n c e -> c")

    def construct(self, x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, h, bias)

    def bprop(self, x: Tensor, h: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        return dout, dout, self.sums(dout)


class AddToChannels(nn.Cell):
    """x [n c ...] + h [n c ...] + bias [c]"""

    def __init__(self):
        super().__init__()
        self.add = shared(AddRows)

    def construct(self, x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
        rows = x.shape[:2] + (-1,)
        return ops.reshape(self.add(ops.reshape(x, rows), ops.reshape(h, rows), bias), x.shape)


class Blend(nn.Cell):
    """alpha x + (1 - alpha) y; alpha [1]"""

    def __init__(self):
        super().__init__()
        self.forward = kernel("Blend", "..., ..., a -> ...")
        self.backward = kernel("BlendGrad", "..., ..., ..., a -> ..., ..., a")

    def construct(self, x: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return self.forward(x, y, alpha)

    def bprop(self, x: Tensor, y: Tensor, alpha: Tensor, out: Tensor, dout: Tensor):
        return self.backward(dout, x, y, alpha)
