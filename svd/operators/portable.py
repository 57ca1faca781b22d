"""The layers' operators from MindSpore's public ones, right on every device, and faster on CPU than the obvious form.

There, sums and products with one number per row cost more than passes of the matrix product and of the normalisation
in evaluation mode, and some derivatives keep what they compute until the graph ends; so some are written out. Letters:
n rows, e elements of a row, b clips or images, c channels, g groups of channels, m tokens.
"""

from math import pi
from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.operators.shared import shared


def row_sums(x: Tensor) -> Tensor:
    """[n e] -> [n]"""
    n, e = x.shape
    return ops.reshape(ops.dense(x, ops.ones((1, e), ms.float32)), (n,))


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """The scalar product of each row with the other's: [n e] and [n e] -> [n]"""
    n, e = x.shape
    products = ops.BatchMatMul(transpose_b=True)(ops.reshape(x, (n, 1, e)), ops.reshape(y, (n, 1, e)))
    return ops.reshape(products, (n,))


class ScaleRows(nn.Cell):
    """scale * x + shift, both one number per row, for where derivatives are written out: [n e], [n], [n] -> [n e]."""

    EPS = 1e-5

    def __init__(self):
        super().__init__()
        self.batch_norm = ops.BatchNorm(is_training=False, epsilon=self.EPS)

    def construct(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        n, e = x.shape
        mean, variance = ops.zeros((n,), ms.float32), ops.mul(ops.ones((n,), ms.float32), 1 - self.EPS)
        return ops.reshape(self.batch_norm(ops.reshape(x, (1, n, 1, e)), scale, shift, mean, variance)[0], (n, e))


class Normalise(nn.Cell):
    """Group normalisation of x [b c e] with weight and bias [c], float32 -> itself, means and deviations [b g].

    The deviations are inverse: 1 / sqrt(variance + eps).
    """

    def __init__(self, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.scale_rows = shared(ScaleRows)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor):
        b, c, e = x.shape
        rows = ops.reshape(x, (b * self.groups, -1))
        n, count = rows.shape
        mean = ops.mul(row_sums(rows), 1 / count)
        centred = self.scale_rows(rows, ops.ones((n,), ms.float32), -mean)
        inverse = ops.rsqrt(ops.mul(row_products(centred, centred), 1 / count) + self.eps)
        scale = self._per_channel(inverse, b, c) * weight
        shift = bias - self._per_channel(mean, b, c) * scale
        y = self.scale_rows(ops.reshape(x, (b * c, e)), ops.reshape(scale, (-1,)), ops.reshape(shift, (-1,)))
        return ops.reshape(y, (b, c, e)), mean, inverse

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out, dout):
        """dx = r (w dy - mean(w dy) - z mean(z w dy)) with z = r (x - m), means over groups."""
        b, c, e = x.shape
        size = c // self.groups
        count = size * e
        m, r = self._per_channel(out[1], b, c), self._per_channel(out[2], b, c)
        dy, x = ops.reshape(dout[0], (b * c, e)), ops.reshape(ops.depend(x, dout[0]), (b * c, e))
        z = self.scale_rows(x, ops.reshape(r, (-1,)), ops.reshape(-m * r, (-1,)))
        sums, products = ops.reshape(row_sums(dy), (b, c)), ops.reshape(row_products(dy, z), (b, c))
        mean1 = self._per_channel(ops.mul(self._group_sums(weight * sums, b, size), 1 / count), b, c)
        mean2 = self._per_channel(ops.mul(self._group_sums(weight * products, b, size), 1 / count), b, c)
        dx = self.scale_rows(dy, ops.reshape(r * weight, (-1,)), ops.reshape(-r * mean1, (-1,)))
        dx = dx + self.scale_rows(z, ops.reshape(-r * mean2, (-1,)), ops.zeros((b * c,), ms.float32))
        return ops.reshape(dx, (b, c, e)), ops.reduce_sum(products, 0), ops.reduce_sum(sums, 0)

    def _per_channel(self, x: Tensor, b: int, c: int) -> Tensor:
        """[b g] -> [b c]"""
        x = ops.reshape(x, (b, self.groups, 1))
        return ops.reshape(ops.broadcast_to(x, (b, self.groups, c // self.groups)), (b, c))

    def _group_sums(self, x: Tensor, b: int, size: int) -> Tensor:
        """[b c] -> [b g]"""
        return ops.reduce_sum(ops.reshape(x, (b, self.groups, size)), -1)


class Product(nn.Cell):
    """x [n i] and weight [o i] -> [n o]."""

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return ops.dense(x, weight)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor):
        return ops.MatMul()(dout, weight), ops.MatMul(transpose_a=True)(dout, x)


class AddBias(nn.Cell):
    """x [n c ...] plus a bias [c]."""

    def __init__(self):
        super().__init__()
        self.bias_add = ops.BiasAdd()

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.bias_add(x, bias)

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        n, c = dout.shape[:2]
        if dout.ndim == 2:
            ones = ops.ones((1, n), dout.dtype)
            return dout, ops.reshape(ops.MatMul()(ones, dout), (c,))
        sums = row_sums(ops.cast(ops.reshape(dout, (n * c, -1)), ms.float32))
        return dout, ops.cast(ops.reduce_sum(ops.reshape(sums, (n, c)), 0), dout.dtype)


class NormalCDF(nn.Cell):
    """Phi(x), the unit normal distribution function; MindSpore takes the derivative of erf by a power."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.mul(ops.erf(ops.mul(x, 0.5**0.5)), 0.5) + 0.5

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        x = ops.depend(x, dout)  # not before the gradient is there: results would have to be kept until then
        return (dout * ops.mul(ops.exp(ops.mul(x * x, -0.5)), (2 * pi) ** -0.5),)


def convolution(kernel_size: tuple[int, int]) -> None:
    """The cell (x [n c h w], weight [o c k l]) -> [n o h w] of a convolution with stride 1 that keeps the size by zeros
    around; None: MindSpore's own.
    """


class Linear(nn.Cell):
    """x [... i], weight [o i], bias [o] or None -> [... o]. nn.Dense does it with operators that compile slowly."""

    def __init__(self):
        super().__init__()
        self.product, self.add_bias = shared(Product), shared(AddBias)

    def construct(self, x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        y = self.product(ops.reshape(x, (-1, x.shape[-1])), weight)
        if bias is not None:
            y = self.add_bias(y, bias)
        return ops.reshape(y, x.shape[:-1] + y.shape[1:])


def add_shift(x: Tensor, shift: Optional[Tensor]) -> Tensor:
    """x [b c p ...] plus one number per channel, or one per channel and p: [b 1 c], [b p c] or None."""
    if shift is None:
        return x
    shift = ops.transpose(shift, (0, 2, 1))
    return x + ops.reshape(shift, shift.shape + (1,) * (x.ndim - 3))


class GroupNorm(nn.Cell):
    """Group normalisation of x [b c p ...] + shift (None, [b 1 c] or [b p c]) in float32, then SiLU if `silu`."""

    def __init__(self, groups: int, eps: float, silu: bool):
        super().__init__()
        self.silu, self.normalise = silu, shared(Normalise, groups, eps)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, shift: Optional[Tensor] = None) -> Tensor:
        x = add_shift(x, shift)
        y, _, _ = self.normalise(ops.reshape(ops.cast(x, ms.float32), x.shape[:2] + (-1,)), weight, bias)
        y = ops.cast(ops.reshape(y, x.shape), x.dtype)
        if self.silu:
            y = ops.silu(y)
        return y


class LayerNorm(nn.Cell):
    """Layer normalisation of x [... c] in float32."""

    def __init__(self, eps: float):
        super().__init__()
        self.norm = ops.LayerNorm(-1, -1, eps)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, _, _ = self.norm(ops.cast(x, ms.float32), weight, bias)
        return ops.cast(y, x.dtype)


class Gelu(nn.Cell):
    """The exact GELU, x * Phi(x), without ops.gelu's division: on CPU, Div keeps memory until the graph ends."""

    def __init__(self):
        super().__init__()
        self.cdf = shared(NormalCDF)

    def construct(self, x: Tensor) -> Tensor:
        return x * self.cdf(x)


class Geglu(nn.Cell):
    """x [... i], weight [2e i], bias [2e]: a linear layer, one half gated by the exact GELU of the other -> [... e]."""

    def __init__(self, linear: type[nn.Cell] = Linear):
        super().__init__()
        self.linear, self.gelu = shared(linear), shared(Gelu)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        value, gate = ops.Split(-1, 2)(self.linear(x, weight, bias))
        return value * self.gelu(gate)


MAX_SCORES = 2**28
"""The most attention scores that are in memory at a time: 1 GB in float32."""
MASKED = -1e30
"""What is added to the score of a masked key: its weight is zero, and no sum of scores is infinite."""


class Attention(nn.Cell):
    """softmax(q k^T / sqrt(d) + bias) v, the softmax in float32. q [b l c], k v [b n c] -> [b l c]

    The bias, [b or 1, heads or 1, l, n] or None, is added to the scores; or it is a mask of Booleans, true where a
    query must not see a key (MindSpore's convention, not PyTorch's). Every query has to see some key.

    Where the scores would be more than `MAX_SCORES`, so many queries at a time as stay below it. With `upcast`, scores
    of 16-bit queries and keys are computed in float32: float16 ends at 65,504.
    """

    def __init__(self, heads: int, upcast: bool = False):
        super().__init__()
        self.heads, self.upcast = heads, upcast

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        b, l, c = q.shape
        n, heads, d = k.shape[1], self.heads, c // self.heads
        if self.upcast:
            q, k = ops.cast(q, ms.float32), ops.cast(k, ms.float32)
        q = ops.transpose(ops.reshape(ops.mul(q, d**-0.5), (b, l, heads, d)), (0, 2, 1, 3))
        k = ops.transpose(ops.reshape(k, (b, n, heads, d)), (0, 2, 1, 3))
        v = ops.transpose(ops.reshape(v, (b, n, heads, d)), (0, 2, 1, 3))
        if b * heads * n * l <= MAX_SCORES:
            y = self._attend(q, k, v, bias)
        else:
            queries = max(MAX_SCORES // (b * heads * n), 1)
            blocks = ()
            for start in range(0, l, queries):
                block = q[:, :, start : start + queries]
                if start > 0:
                    block = ops.depend(block, blocks[-1])  # in sequence, to bound memory
                of_block = None if bias is None else bias[:, :, start : start + queries]
                blocks = blocks + (self._attend(block, k, v, of_block),)
            y = ops.cat(blocks, 2)
        return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (b, l, c))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor]) -> Tensor:
        """q [b heads l d], k v [b heads n d] -> [b heads l d]"""
        scores = ops.cast(ops.BatchMatMul(transpose_b=True)(q, k), ms.float32)
        if bias is not None:
            added = ops.cast(bias, ms.float32)
            scores = scores + (ops.mul(added, MASKED) if bias.dtype == ms.bool_ else added)
        return ops.BatchMatMul()(ops.cast(ops.softmax(scores, -1), v.dtype), v)


class SwapAxes(nn.Cell):
    """[b m n e] -> [b n m e]

    By unstacking and stacking: on CPU, MindSpore's Transpose is slower, and keeps twice the memory of its input until
    the graph ends.
    """

    def construct(self, x: Tensor) -> Tensor:
        if x.shape[3] == 1:
            return ops.transpose(x, (0, 2, 1, 3))
        return ops.Stack(2)(ops.Unstack(1)(x))


class AddLinear(nn.Cell):
    """x [b m o] + h [b m i] weight^T + shift [b 1 o] or [1 1 o]; weight [o i]"""

    def __init__(self, linear: type[nn.Cell] = Linear):
        super().__init__()
        self.linear = shared(linear)

    def construct(self, x: Tensor, h: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        if shift.shape[0] == 1:
            return x + self.linear(h, weight, ops.reshape(shift, (-1,)))
        return x + (self.linear(h, weight) + shift)


class AddToChannels(nn.Cell):
    """x [n c ...] + h [n c ...] + bias [c]"""

    def __init__(self, add_bias: type[nn.Cell] = AddBias):
        super().__init__()
        self.add_bias = shared(add_bias)

    def construct(self, x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
        return x + self.add_bias(h, bias)


class Blend(nn.Cell):
    """alpha x + (1 - alpha) y; alpha [1], float32"""

    def construct(self, x: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
        return ops.cast(alpha, x.dtype) * x + ops.cast(1 - alpha, x.dtype) * y
