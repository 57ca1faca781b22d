"""Operators put together from faster ones, with derivatives written out, for where MindSpore's own are slow: CPU.

There, sums and products with one number per row cost more than passes of the matrix product and of the normalisation
in evaluation mode, and some derivatives keep what they compute until the graph ends. Letters: n rows, e elements of
a row, c channels, g groups of channels.
"""

from functools import cache
from math import pi

import mindspore as ms
from mindspore import Tensor, nn, ops


@cache
def shared(kind: type[nn.Cell], *arguments) -> nn.Cell:
    """The one cell of this kind and these arguments: what has no parameters need not be compiled for every layer."""
    return kind(*arguments)


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


class GroupNormFunction(nn.Cell):
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


class LinearFunction(nn.Cell):
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
        sums = row_sums(ops.reshape(dout, (n * c, -1)).astype(ms.float32))
        return dout, ops.reduce_sum(ops.reshape(sums, (n, c)), 0).astype(dout.dtype)


class NormalCDF(nn.Cell):
    """Phi(x), the unit normal distribution function; MindSpore takes the derivative of erf by a power."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.mul(ops.erf(ops.mul(x, 0.5**0.5)), 0.5) + 0.5

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        x = ops.depend(x, dout)  # not before the gradient is there: results would have to be kept until then
        return (dout * ops.mul(ops.exp(ops.mul(x * x, -0.5)), (2 * pi) ** -0.5),)
