"""The formulations of the layers' operators against each other, forward and backward, and against their formulas."""

from functools import cache

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE, eagerly
from mindspore import Tensor, nn, ops
from scipy.special import erf
from scipy.stats import norm
from weighted import Weighted

from svd.layers.attention import DotProductAttention
from svd.layers.basic import GELU, Conv2d, Geglu, GroupNorm, LayerNorm, Linear, SwapAxes, conv2d
from svd.layers.blend import Blend
from svd.operators import cpu, portable
from svd.operators.library import library
from svd.operators.table import ASCEND, ASCEND_16_BITS, CPU, PORTABLE, Operators, operators_for
from svd.placement import place
from svd.training.config import OptimizerConfig
from svd.training.optimizer import AdamW
from svd.training.step import TrainStep

needs_kernels = pytest.mark.skipif(
    library() is None or DEVICE != "CPU", reason="the kernels are for CPU, and need a C++ compiler"
)
FORMULATIONS = [
    pytest.param(ASCEND, id="ascend"),  # in float32: what MindSpore has on every device
    pytest.param(CPU, id="cpu", marks=needs_kernels),
]


class Added(nn.Cell):
    """A layer's result added to x."""

    def __init__(self, layer: nn.Cell):
        super().__init__()
        self.layer = layer

    def construct(self, x: Tensor, *h: Tensor) -> Tensor:
        return self.layer.add_to(x, *h)


LAYERS = {
    "linear": (lambda: Linear(5, 7), [(3, 4, 5)]),
    "linear_without_bias": (lambda: Linear(5, 7, bias=False), [(3, 4, 5)]),
    "geglu": (lambda: Geglu(5, 7), [(90, 5)]),
    "conv": (lambda: conv2d(3, 4), [(2, 3, 6, 5)]),
    "conv_of_many_channels": (lambda: conv2d(131, 37), [(3, 131, 5, 7)]),
    "conv_of_many_pixels": (lambda: conv2d(3, 4), [(2, 3, 99, 97)]),
    "group_norm": (lambda: GroupNorm(64), [(2, 64, 5, 3)]),
    "group_norm_silu": (lambda: GroupNorm(64, 1e-6, silu=True), [(2, 64, 5, 3)]),
    "group_norm_of_shifted_channels": (lambda: GroupNorm(64), [(2, 64, 5, 3), (2, 1, 64)]),
    "group_norm_of_shifted_frames": (lambda: GroupNorm(64, silu=True), [(2, 64, 5, 3), (2, 5, 64)]),
    "layer_norm": (lambda: LayerNorm(37), [(3, 70, 37)]),
    "gelu": (lambda: GELU(), [(3, 70, 5)]),
    "attention": (lambda: DotProductAttention(2), [(3, 5, 40), (3, 11, 40), (3, 11, 40)]),
    "attention_in_float32": (lambda: DotProductAttention(2, upcast=True), [(3, 5, 40), (3, 11, 40), (3, 11, 40)]),
    "attention_of_long_rows": (lambda: DotProductAttention(1), [(1, 53, 6), (1, 131, 6), (1, 131, 6)]),
    "attention_of_many_heads": (lambda: DotProductAttention(5), [(13, 50, 10), (13, 7, 10), (13, 7, 10)]),
    "attention_with_a_bias": (lambda: DotProductAttention(2), [(3, 5, 40), (3, 11, 40), (3, 11, 40), (1, 2, 5, 11)]),
    "attention_with_long_rows_and_a_bias": (
        lambda: DotProductAttention(1),
        [(2, 5, 6), (2, 11, 6), (2, 11, 6), (2, 1, 5, 11)],
    ),
    "blend": (lambda: Blend(), [(2, 3, 40), (2, 3, 40)]),
    "conv_over_time_added": (lambda: Added(conv2d(3, 4, (3, 1))), [(2, 4, 6, 5), (2, 3, 6, 5)]),
    "conv_over_time_of_many_channels": (lambda: conv2d(35, 140, (3, 1)), [(2, 35, 5, 37)]),
    "conv_over_one_frame": (lambda: conv2d(3, 4, (3, 1)), [(2, 3, 1, 5)]),
    "linear_added": (lambda: Added(Linear(5, 7)), [(3, 4, 7), (3, 4, 5)]),
    "linear_added_with_a_shift": (lambda: Added(Linear(5, 7)), [(3, 4, 7), (3, 4, 5), (3, 1, 7)]),
    "swap_axes": (lambda: SwapAxes(), [(2, 3, 4, 5)]),
    "transpose": (lambda: SwapAxes(), [(2, 19, 35)]),
}


class WithResult(Weighted):
    """The number, and the result itself."""

    def construct(self, weight: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(*inputs)
        return ops.reduce_sum(y * weight), y


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def forward_and_backward(layer: nn.Cell, *inputs: np.ndarray) -> list[Tensor]:
    """The result, and the gradients of all inputs and parameters: one graph."""
    inputs = [Tensor(x) for x in inputs]
    with eagerly():
        shape = layer(*inputs).shape
    weight = Tensor(np.cos(random(*shape)))  # not in proportion to x, where the gradient is zero
    parameters = ms.ParameterTuple(layer.get_parameters())
    positions = tuple(range(1, 1 + len(inputs)))
    run = ms.value_and_grad(WithResult(layer), positions, parameters if len(parameters) else None, has_aux=True)
    (_, y), gradients = run(weight, *inputs)
    of_inputs, of_parameters = gradients if len(parameters) else (gradients, ())
    return [y, *(of_inputs if len(inputs) > 1 else [of_inputs]), *of_parameters]


IN_GRAPHS = (
    "group_norm_silu",
    "group_norm_of_shifted_frames",
    "geglu",
    "attention_with_a_bias",
    "conv_over_time_added",
)
"""Of Ascend's formulations, those with derivatives of their own or with branches; tests/ascend compiles them all."""


@pytest.mark.parametrize(
    "_mode, case, operators",
    [
        pytest.param(mode, case, *of.values, id=f"{name}-{case}-{of.id}", marks=of.marks)
        for mode, name in enumerate(("graph", "pynative"))
        for case in LAYERS
        for of in FORMULATIONS
        if mode == 1 or of.id == "cpu" or case in IN_GRAPHS
    ],
    indirect=["_mode"],
)
def test_formulations_are_the_same(mode, case, operators):
    for value, expected in zip(results(mode, case, operators), results(mode, case, PORTABLE), strict=True):
        assert_close(value, expected)


@cache
def results(mode: int, case: str, operators: Operators) -> list[Tensor]:
    """Of a layer in the mode that is set, forward and backward."""
    build, shapes = LAYERS[case]
    inputs = [random(*shape) * 2 + 3 * (i == 0) for i, shape in enumerate(shapes)]
    layer = build()
    for parameter in layer.get_parameters():
        parameter.set_data(Tensor(random(*parameter.shape) + 0.5))
    for _, cell in layer.cells_and_names():
        if hasattr(cell, "set_operators"):
            cell.set_operators(operators)
    return forward_and_backward(layer, *inputs)


def test_the_operators_of_devices():
    assert operators_for("Ascend", ms.float32) is ASCEND
    assert operators_for("Ascend", ms.float16) is operators_for("Ascend", ms.bfloat16) is ASCEND_16_BITS
    assert operators_for("GPU", ms.float32) is operators_for("CPU", ms.float16) is PORTABLE
    assert operators_for("CPU", ms.float32) is (PORTABLE if library() is None else CPU)


@pytest.mark.parametrize("operators", [PORTABLE, pytest.param(CPU, id="cpu", marks=needs_kernels)])
def test_group_norm_of_long_rows(mode, operators):
    """Far from zero; against float64, from which MindSpore's operator is 3e-4 off."""
    layer, x = GroupNorm(32), random(1, 32, 96, 96) * 2 + 3
    layer.set_operators(operators)
    weight, dy = random(32), np.cos(random(1, 32, 96, 96))
    layer.weight.set_data(Tensor(weight))
    inverse = 1 / np.sqrt(x.var((2, 3), keepdims=True, dtype=np.float64) + 1e-5)
    z = (x - x.mean((2, 3), keepdims=True, dtype=np.float64)) * inverse
    scaled = dy * weight[:, None, None].astype(np.float64)
    means = scaled.mean((2, 3), keepdims=True), (scaled * z).mean((2, 3), keepdims=True)
    y, dx, of_weight, of_bias = forward_and_backward(layer, x)
    assert_close(y, z * weight[:, None, None])
    assert_close(dx, inverse * (scaled - means[0] - z * means[1]))
    assert_close(of_weight, (dy * z).sum((0, 2, 3)))
    assert_close(of_bias, dy.sum((0, 2, 3), dtype=np.float64))


@pytest.mark.parametrize("operators", [PORTABLE, pytest.param(CPU, id="cpu", marks=needs_kernels)])
def test_gelu_is_exact(mode, operators):
    """Against SciPy, over all of the range; infinities and NaN are not hidden."""
    layer, x = GELU(), np.linspace(-12, 12, 10001).astype(np.float32)
    layer.set_operators(operators)
    y = layer(Tensor(x)).asnumpy()
    exact = x.astype(np.float64)
    assert np.abs(y - exact * (1 + erf(exact / np.sqrt(2))) / 2).max() < 6e-7
    slope = ms.grad(layer, 0)(Tensor(x)).asnumpy()
    assert np.abs(slope - norm.cdf(exact) - exact * norm.pdf(exact)).max() < 2e-6
    assert np.isnan(layer(Tensor(np.full(20, np.nan, np.float32))).asnumpy()).all()


@needs_kernels
def test_layers_of_equal_shapes_are_told_apart(mode):
    """By what shapes do not say: how many heads and groups there are, and epsilon."""
    x = random(2, 64, 32)
    for build in (lambda n: DotProductAttention(n), lambda n: GroupNorm(64, groups=n), lambda n: GroupNorm(64, eps=n)):
        for number in (2, 4):
            layer = build(number)
            inputs = [Tensor(x)] * (3 if isinstance(layer, DotProductAttention) else 1)
            with eagerly():
                expected = layer(*inputs)
            layer.set_operators(CPU)
            assert_close(layer(*inputs), expected)


class TwiceNormalised(nn.Cell):
    """By a kernel that gives three gradients, and by one of the same name that gives four."""

    def __init__(self, shifted_first: bool):
        super().__init__()
        self.plain, self.shifted, self.shifted_first = GroupNorm(64), GroupNorm(64), shifted_first
        self.plain.set_operators(CPU)
        self.shifted.set_operators(CPU)

    def construct(self, x: Tensor, shift: Tensor) -> Tensor:
        if self.shifted_first:
            y = self.plain(ops.sin(self.shifted(x, shift)))
        else:
            y = self.shifted(ops.sin(self.plain(x)), shift)
        return ops.mean(ops.square(y - x))


@needs_kernels
@pytest.mark.parametrize("shifted_first", [False, True])
def test_operators_of_one_kernel_are_told_apart_in_a_graph_that_branches(mode, shifted_first):
    """As that of a training step that accumulates gradients does: MindSpore infers again what it has inferred."""
    x, shift = Tensor(random(2, 64, 5, 3)), Tensor(random(2, 1, 64))
    norms = []
    for micro_batches in (1, 2):
        loss = TwiceNormalised(shifted_first)
        trained = list(loss.get_parameters())
        step = TrainStep(loss, AdamW(trained, OptimizerConfig()), trained, None, micro_batches, 1.0)
        for last in (False, True)[-micro_batches:]:
            of_optimizer = Tensor([0.0, 1.0, 0.0], ms.float32)
            _, norm = step(Tensor(1.0, ms.float32), Tensor(last), of_optimizer, Tensor(0.0, ms.float32), x, shift)
        norms.append(norm)
    assert_close(norms[1], norms[0])


def test_shapes_by_a_rule():
    b, c, e, g = 2, 3, 5, 7
    shapes = cpu.shapes_by("b c e, c, g -> b c e, b g, g")
    assert shapes([b, c, e], [c], [g]) == ([b, c, e], [b, g], [g])
    assert cpu.shapes_by("b c, ... -> ...")([b, c], [e, g]) == [e, g]


@needs_kernels
def test_kernels_hand_nan_on(eager):
    """A network that diverges has to be noticed."""
    for case in ("group_norm_silu", "layer_norm", "attention", "geglu"):
        build, shapes = LAYERS[case]
        layer = build()
        layer.set_operators(CPU)
        inputs = [random(*shape) for shape in shapes]
        inputs[-1][(0,) * inputs[-1].ndim] = np.nan
        assert np.isnan(layer(*map(Tensor, inputs)).asnumpy()).any(), case


def test_a_convolution_adds_its_bias_in_float16(mode):
    layer = place(conv2d(3, 4), DEVICE, ms.float16)
    assert isinstance(layer, Conv2d)
    gradient = ms.grad(Weighted(layer), 1)(Tensor(1.0, ms.float16), Tensor(random(1, 3, 4, 4), ms.float16))
    assert gradient.dtype == ms.float16


@pytest.mark.parametrize("e", [7, 4096, 4097, 3 * 8192])
def test_row_sums_and_products(eager, e):
    x, y = random(3, e) + 1, random(3, e)
    assert_close(portable.row_sums(Tensor(x)), x.sum(1, dtype=np.float64))
    assert np.abs(portable.row_products(Tensor(x), Tensor(y)).asnumpy() - (x * y).sum(1)).max() < 1e-6 * e


def test_cells_without_parameters_are_shared():
    assert Linear(2, 3).linear is Linear(4, 5).linear
    assert GroupNorm(32).norm is not GroupNorm(32, eps=1e-6).norm
