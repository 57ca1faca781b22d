"""A network run on shapes in place of values: which operators its `construct` calls, and on what.

Nothing is computed: the full model takes a second and no memory. Operators and types are those of the compiled graph
for Ascend (float16; float32 is the same without fused attention). One multiply-add is two operations, and only those
of matrix products and convolutions are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from types import MethodType
from unittest.mock import patch

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

SIZES = {ms.float32: 4, ms.float16: 2, ms.bfloat16: 2, ms.int64: 8}
"""Bytes of an element."""


class Array:
    """A piece of memory, of so many bytes; that of a weight is there all the time."""

    def __init__(self, size: int, weight: bool = False):
        self.size, self.weight = size, weight


class Value:
    """A tensor that is known by shape and type alone. Views share their array; `parameter` is the weight that it is."""

    def __init__(self, trace: Trace, shape: tuple[int, ...], dtype: ms.Type, array: Array | None = None):
        self.trace, self.shape, self.dtype = trace, tuple(shape), dtype
        self.array = array or Array(prod(shape) * SIZES[dtype])
        self.needs_gradient, self.parameter = False, None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def view(self, shape: Iterable[int]) -> Value:
        """The same array in another shape, of which one axis may be -1."""
        shape = tuple(shape)
        if -1 in shape:
            shape = tuple(-prod(self.shape) // prod(shape) if n == -1 else n for n in shape)
        if prod(shape) != prod(self.shape):
            raise ValueError(f"{list(self.shape)} cannot be seen as {list(shape)}")
        other = Value(self.trace, shape, self.dtype, self.array)
        other.needs_gradient, other.parameter = self.needs_gradient, self.parameter
        return other

    def astype(self, dtype: ms.Type) -> Value:
        return self if dtype == self.dtype else self.trace.call("Cast", [self], [(self.shape, dtype)])

    def expand_dims(self, axis: int) -> Value:
        shape = list(self.shape)
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 1)
        return self.view(shape)

    def broadcast_to(self, shape: tuple[int, ...]) -> Value:
        return self if shape == self.shape else self.trace.call("BroadcastTo", [self], [(shape, self.dtype)])

    def __getitem__(self, item: tuple[slice, int]) -> Value:
        """x[:, i]"""
        if list(map(type, item)) != [slice, int] or item[0] != slice(None):
            raise NotImplementedError(f"scripts/costs/trace.py has no rule for x[{item}]: add it to Value")
        return self.trace.call("Slice", [self], [(self.shape[:1] + self.shape[2:], self.dtype)])

    def __add__(self, other):
        return self.trace.elementwise("Add", self, other)

    def __sub__(self, other):
        return self.trace.elementwise("Sub", self, other)

    def __mul__(self, other):
        return self.trace.elementwise("Mul", self, other)

    __radd__, __rsub__, __rmul__ = __add__, __sub__, __mul__


@dataclass(eq=False)
class Node:
    """One call of an operator on the way forward."""

    primitive: str
    part: str
    """The name of the cell that called it."""
    block: nn.Cell | None
    """The cell that it is recomputed with."""
    inputs: list[Value]
    outputs: list[Value]
    flops: int = 0
    function: nn.Cell | None = None
    """The cell with a derivative of its own that it is; `nodes` are its calls."""
    nodes: list[Node] = field(default_factory=list)


class Trace:
    """A run of a network on shapes.

    Args:
        network: in its Ascend form, svd.placement; what requires a gradient in it is trained.
        blocks: its cells of which only inputs are kept for the way back.
    """

    def __init__(self, network: nn.Cell, blocks: Iterable[nn.Cell] = ()):
        self.network, self.nodes = network, []
        cells = network.cells_and_names()  # without parameters they are shared by several layers, and of none
        self.names = {id(cell): name for name, cell in cells if any(True for _ in cell.get_parameters())}
        self.blocks = {id(cell) for cell in blocks}
        self.weights: dict[int, Value] = {}
        self.part, self.block = "", None
        self.result = None

    def run(self, *shapes: tuple[int, ...]) -> Trace:
        """Call the network on float32 inputs of these shapes."""
        with self._on_shapes():
            self.result = StandIn(self.network, self)(*(Value(self, shape, ms.float32) for shape in shapes))
        self.nodes = live(self.nodes, [self.result.array])
        return self

    def call(self, primitive: str, inputs: list, outputs: list[tuple], flops: int = 0):
        """Record an operator; `outputs` are shapes and types. Returns its result, or the list of them."""
        values = [value for value in inputs if isinstance(value, Value)]
        results = [Value(self, shape, dtype) for shape, dtype in outputs]
        for result in results:
            result.needs_gradient = any(value.needs_gradient for value in values)
        self.nodes.append(Node(primitive, self.part, self.block, values, results, flops))
        return results[0] if len(results) == 1 else results

    def elementwise(self, primitive: str, x, y) -> Value:
        values = [v for v in (x, y) if isinstance(v, Value)]
        shape = np.broadcast_shapes(*(value.shape for value in values))
        dtype = max((value.dtype for value in values), key=SIZES.get)
        return self.call(primitive, values, [(shape, dtype)])

    def weight(self, parameter: Parameter) -> Value:
        """The value that stands for a parameter."""
        if id(parameter) not in self.weights:
            array = Array(parameter.size * SIZES[parameter.dtype], weight=True)
            value = Value(self, parameter.shape, parameter.dtype, array)
            value.needs_gradient, value.parameter = parameter.requires_grad, parameter
            self.weights[id(parameter)] = value
        return self.weights[id(parameter)]

    @contextmanager
    def _on_shapes(self) -> Iterator[None]:
        """Meanwhile `ops` in this project's modules is the rules for shapes."""
        rules = Operators(self)
        with ExitStack() as stack:
            for name, module in list(sys.modules.items()):
                if name.startswith("svd.") and getattr(module, "ops", None) is ops:
                    stack.enter_context(patch.object(module, "ops", rules))
            yield

    def cell(self, cell: nn.Cell, inputs: tuple):
        """Call a cell."""
        part, block, nodes = self.part, self.block, self.nodes
        self.part = self.names.get(id(cell), part)
        if block is None and id(cell) in self.blocks:
            self.block = cell
        own_derivative = hasattr(cell, "bprop")
        if own_derivative:
            self.nodes = []
        result = type(cell).construct(StandIn(cell, self), *inputs)
        if own_derivative:
            outputs = list(result) if isinstance(result, (tuple, list)) else [result]
            nodes.append(Node(type(cell).__name__, self.part, self.block, inputs, outputs, 0, cell, self.nodes))
        self.part, self.block, self.nodes = part, block, nodes
        return result

    def derivative(self, node: Node, inputs: list, outputs: list, gradients: list) -> tuple[list[Node], tuple]:
        """The calls of a cell's own derivative, and the gradients of its inputs."""
        nodes, self.nodes, self.part = self.nodes, [], node.part
        if len(outputs) == 1:
            (outputs,), (gradients,) = outputs, gradients
        with self._on_shapes():
            results = type(node.function).bprop(StandIn(node.function, self), *inputs, outputs, gradients)
        called, self.nodes = self.nodes, nodes
        return called, results if isinstance(results, (tuple, list)) else (results,)


class StandIn:
    """A cell whose parameters, constants, operators and inner cells are those of a trace."""

    def __init__(self, cell: nn.Cell, trace: Trace):
        self._cell, self._trace = cell, trace

    def __call__(self, *inputs):
        return self._trace.cell(self._cell, inputs)

    def __len__(self) -> int:
        return len(self._cell)

    def __getitem__(self, i: int) -> StandIn:
        return StandIn(self._cell[i], self._trace)

    def __getattr__(self, name: str):
        value = getattr(self._cell, name)
        if isinstance(value, nn.Cell):
            return StandIn(value, self._trace)
        if isinstance(value, Parameter):
            return self._trace.weight(value)
        if isinstance(value, Tensor):
            return Value(self._trace, value.shape, value.dtype)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self)
        if isinstance(value, ops.Primitive):
            rule = getattr(Operators(self._trace), value.name)
            return rule(*{"Conv2D": [self._cell], "Custom": [value]}.get(value.name, []))
        return value


class Operators:
    """The rules of shapes for `mindspore.ops`, as far as the networks use it.

    Raises NotImplementedError for an operator that has no rule yet.
    """

    def __init__(self, trace: Trace):
        self.trace, self.call = trace, trace.call

    def __getattr__(self, name: str):
        raise NotImplementedError(f"scripts/costs/trace.py has no rule for ops.{name}: add it to Operators")

    # Views and copies.

    reshape, expand_dims = staticmethod(Value.view), staticmethod(Value.expand_dims)
    broadcast_to, cast = staticmethod(Value.broadcast_to), staticmethod(Value.astype)

    def depend(self, x: Value, _) -> Value:
        return x

    def transpose(self, x: Value, axes: tuple[int, ...]) -> Value:
        return self.call("Transpose", [x], [(tuple(x.shape[a] for a in axes), x.dtype)])

    def cat(self, values: tuple[Value, ...], axis: int = 0) -> Value:
        shape = list(values[0].shape)
        shape[axis] = sum(v.shape[axis] for v in values)
        return self.call("Concat", list(values), [(tuple(shape), values[0].dtype)])

    def Split(self, axis: int, count: int) -> Callable:
        def split(x: Value) -> list[Value]:
            shape = list(x.shape)
            shape[axis] //= count
            return self.call("Split", [x], [(tuple(shape), x.dtype)] * count)

        return split

    def Unstack(self, axis: int) -> Callable:
        return lambda x: self.call("Unstack", [x], [(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)] * x.shape[axis])

    def Stack(self, axis: int) -> Callable:
        def stack(values) -> Value:
            values = values if isinstance(values, list) else [values]  # of an axis of one
            shape = values[0].shape[:axis] + (len(values),) + values[0].shape[axis:]
            return self.call("Stack", values, [(shape, values[0].dtype)])

        return stack

    def arange(self, n: int) -> Value:
        return Value(self.trace, (n,), ms.int64)

    def ones(self, shape: tuple[int, ...], dtype: ms.Type) -> Value:
        return Value(self.trace, shape, dtype)

    # Elementwise, normalisations and sums.

    def _alike(primitive: str) -> Callable:
        """Rule of an operator whose result is like its first input."""
        return lambda self, x, *others, **_: self.call(primitive, [x, *others], [(x.shape, x.dtype)])

    silu, erf, exp = _alike("SiLU"), _alike("Erf"), _alike("Exp")
    sigmoid, cos, sin = _alike("Sigmoid"), _alike("Cos"), _alike("Sin")
    softmax, group_norm = _alike("Softmax"), _alike("GroupNorm")
    _bias_add, _layer_norm = _alike("BiasAdd"), _alike("LayerNorm")

    def BiasAdd(self) -> Callable:
        return self._bias_add

    def LayerNorm(self) -> Callable:
        return lambda *inputs: (self._layer_norm(*inputs), None, None)

    def mul(self, x: Value, y) -> Value:
        return x * y

    def reduce_sum(self, x: Value, axis: int) -> Value:
        axis %= x.ndim
        return self.call("ReduceSum", [x], [(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)])

    # Products, attention and kernels.

    def dense(self, x: Value, weight: Value, bias: Value | None = None) -> Value:
        shape = x.shape[:-1] + weight.shape[:1]
        return self.call("Dense", [x, weight, bias], [(shape, x.dtype)], 2 * prod(x.shape) * weight.shape[0])

    def Conv2D(self, cell: nn.Conv2d) -> Callable:
        def convolve(x: Value, weight: Value) -> Value:
            top, bottom, left, right = cell.padding if isinstance(cell.padding, tuple) else (cell.padding,) * 4
            (n, _, h, w), (o, i, *kernel) = x.shape, weight.shape
            h = (h + top + bottom - kernel[0]) // cell.stride[0] + 1
            w = (w + left + right - kernel[1]) // cell.stride[1] + 1
            return self.call("Conv2D", [x, weight], [((n, o, h, w), x.dtype)], 2 * n * o * h * w * i * prod(kernel))

        return convolve

    def _product(self, primitive: str, x: Value, y: Value, rows: tuple[int, ...], columns: int) -> Value:
        return self.call(primitive, [x, y], [((*rows, columns), x.dtype)], 2 * prod(x.shape) * columns)

    def MatMul(self, transpose_a: bool = False) -> Callable:
        return lambda x, y: self._product("MatMul", x, y, (x.shape[1 if transpose_a else 0],), y.shape[1])

    def BatchMatMul(self, transpose_b: bool = False) -> Callable:
        return lambda x, y: self._product("BatchMatMul", x, y, x.shape[:-1], y.shape[-2 if transpose_b else -1])

    def flash_attention_score(self, q: Value, k: Value, v: Value, heads: int, **_) -> Value:
        statistics = ((q.shape[0], heads, q.shape[1], 8), ms.float32)  # the largest score and the sum, of each row
        flops = 4 * prod(q.shape) * k.shape[1]
        return self.call("FlashAttentionScore", [q, k, v], [(q.shape, q.dtype), statistics, statistics], flops)[0]

    def Custom(self, kernel: ops.Custom) -> Callable:
        """A kernel of svd.operators, whose operations are not counted."""

        def apply(*inputs: Value):
            shapes = kernel.out_shape(*(list(value.shape) for value in inputs))
            shapes = shapes if isinstance(shapes, tuple) else (shapes,)
            return self.call(kernel.func.rpartition(":")[2], list(inputs), [(tuple(s), ms.float32) for s in shapes])

        return apply


def live(nodes: list[Node], wanted: Iterable[Array]) -> list[Node]:
    """The calls that these arrays come from; a compiler leaves out the others."""
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if any(output.array in wanted for output in node.outputs):
            kept.append(node)
            wanted |= {value.array for value in node.inputs}
    return kept[::-1]
