"""The composed operators against MindSpore's own, forth and back."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor, nn, ops
from scipy.stats import norm

from svd.layers import composed
from svd.layers.basic import Conv2d, GroupNorm, Linear, conv2d
from svd.precision import set_precision

LAYERS = {
    "linear": (lambda: Linear(5, 7), (3, 4, 5)),
    "linear_without_bias": (lambda: Linear(5, 7, bias=False), (3, 4, 5)),
    "conv": (lambda: conv2d(3, 4), (2, 3, 6, 5)),
    "group_norm": (lambda: GroupNorm(64), (2, 64, 5, 3)),
}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


class Weighted(nn.Cell):
    """A layer's result times fixed numbers, so that its gradient is of no special form."""

    def __init__(self, layer: nn.Cell):
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return ops.reduce_sum(self.layer(x) * weight)


@pytest.mark.parametrize("case", LAYERS)
def test_layers_composed_and_fused_are_the_same(mode, case):
    """Results, and the gradients of the input and of every parameter."""
    build, shape = LAYERS[case]
    results = []
    for fused in (False, True):
        layer = build()
        for parameter in layer.get_parameters():
            parameter.set_data(Tensor(random(*parameter.shape) + 0.5))
        set_precision(nn.SequentialCell(layer), ms.float32, ascend=fused)
        assert layer.fused == fused
        x = Tensor(random(*shape) * 2 + 3)
        y = layer(x)
        gradient = ms.grad(Weighted(layer), 0, ms.ParameterTuple(layer.get_parameters()))
        of_x, of_parameters = gradient(x, Tensor(np.cos(random(*y.shape))))  # not in proportion to x, where it is zero
        results.append([y, of_x, *of_parameters])
    for composed_value, fused_value in zip(*results):
        assert_close(composed_value, fused_value)


def test_group_norm_of_long_rows(mode):
    """Far from zero; against float64, from which MindSpore's operator is 3e-4 off."""
    layer, x = GroupNorm(32), random(1, 32, 96, 96) * 2 + 3
    weight, dy = random(32), np.cos(random(1, 32, 96, 96))
    layer.weight.set_data(Tensor(weight))
    inverse = 1 / np.sqrt(x.var((2, 3), keepdims=True, dtype=np.float64) + 1e-5)
    z = (x - x.mean((2, 3), keepdims=True, dtype=np.float64)) * inverse
    scaled = dy * weight[:, None, None].astype(np.float64)
    means = scaled.mean((2, 3), keepdims=True), (scaled * z).mean((2, 3), keepdims=True)
    dx, (of_weight, of_bias) = ms.grad(Weighted(layer), 0, ms.ParameterTuple([layer.weight, layer.bias]))(
        Tensor(x), Tensor(dy)
    )
    assert_close(layer(Tensor(x)), z * weight[:, None, None])
    assert_close(dx, inverse * (scaled - means[0] - z * means[1]))
    assert_close(of_weight, (dy * z).sum((0, 2, 3)))
    assert_close(of_bias, dy.sum((0, 2, 3), dtype=np.float64))


def test_a_convolution_adds_its_bias_in_float16(mode):
    layer = set_precision(conv2d(3, 4), ms.float16, ascend=False)
    assert isinstance(layer, Conv2d)
    gradient = ms.grad(Weighted(layer), 0)(Tensor(random(1, 3, 4, 4), ms.float16), Tensor(1.0, ms.float16))
    assert gradient.dtype == ms.float16


def test_the_normal_distribution_and_its_density(mode):
    x = np.linspace(-6, 6, 101).astype(np.float32)
    cdf = composed.NormalCDF()
    assert np.abs(cdf(Tensor(x)).asnumpy() - norm.cdf(x)).max() < 2e-7
    density = ms.grad(Weighted(cdf), 0)(Tensor(x), Tensor(2 * np.ones_like(x)))
    assert np.abs(density.asnumpy() - 2 * norm.pdf(x)).max() < 2e-6


@pytest.mark.parametrize("e", [7, 4096, 4097, 3 * 8192])
def test_row_sums_and_products(eager, e):
    x, y = random(3, e) + 1, random(3, e)
    assert_close(composed.row_sums(Tensor(x)), x.sum(1, dtype=np.float64))
    assert np.abs(composed.row_products(Tensor(x), Tensor(y)).asnumpy() - (x * y).sum(1)).max() < 1e-6 * e


def test_cells_without_parameters_are_shared():
    assert Linear(2, 3).product is Linear(4, 5).product
    assert GroupNorm(32).function is not GroupNorm(32, eps=1e-6).function
