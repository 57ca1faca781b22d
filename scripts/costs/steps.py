"""From a trace to kernels, one after the other: the way forward, the way back and the update, and their memory.

Kernels are not fused and layouts not converted: each reads its inputs from memory and writes its results there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from scripts.costs.trace import Array, Node, Trace, Value, live

KINDS = {
    "convolutions": ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"),
    "projections": ("Dense", "MatMul"),
    "attention": ("FlashAttentionScore", "FlashAttentionScoreGrad", "BatchMatMul", "Softmax", "SoftmaxGrad"),
    "normalisations": ("GroupNorm", "GroupNormGrad", "LayerNorm", "LayerNormGrad"),
    "casts": ("Cast",),
    "transposes and copies": ("Transpose", "Stack", "Unstack", "Split", "Concat", "BroadcastTo", "Slice"),
}
"""Operators by their kind; all others are elementwise."""
UPDATE = "update"
"""The part, and the kind, of what follows the way back."""
KIND = {primitive: kind for kind, primitives in KINDS.items() for primitive in primitives}
OPPOSITE = {"Stack": "Unstack", "Unstack": "Stack", "Split": "Concat", "Transpose": "Transpose", "Cast": "Cast"}


@dataclass(frozen=True, eq=False)
class Step:
    """A kernel: what it computes, reads and writes."""

    primitive: str
    part: str
    """The name of the cell that it belongs to."""
    flops: int
    reads: list[Array]
    writes: list[Array]
    holds: tuple[Array, ...] = ()
    """What is not given back before it, though it is not read."""

    @property
    def kind(self) -> str:
        return UPDATE if self.part == UPDATE else KIND.get(self.primitive, "elementwise")

    @property
    def bytes(self) -> int:
        return sum(array.size for array in (*self.reads, *self.writes))


def forward_steps(nodes: Iterable[Node], now: dict[Array, Array] | None = None) -> list[Step]:
    """The kernels of these calls; `now` has what takes the place of arrays."""
    now, steps = now or {}, []
    for node in nodes:
        if node.function:
            steps += forward_steps(node.nodes, now)
        else:
            reads, writes = ([now.get(v.array, v.array) for v in values] for values in (node.inputs, node.outputs))
            steps.append(Step(node.primitive, node.part, node.flops, reads, writes))
    return steps


def training_steps(trace: Trace, tape: bool = False) -> list[Step]:
    """The kernels of a training step: forward, back to whatever is trained, and the update.

    `tape`: as in pynative mode, where every result stays until its derivative is done, needed or not.
    """
    back = WayBack(trace, tape)
    for block, nodes in groupby(reversed(trace.nodes), key=lambda node: node.block):
        back.through(list(nodes), recompute=block is not None)
    known = {id(v.parameter): v.array for v in trace.weights.values()}
    trained = [(p.size, known.get(id(p))) for p in trace.network.get_parameters() if p.requires_grad]
    update = update_steps([(count, back.gradients.get(array)) for count, array in trained])
    return forward_steps(trace.nodes) + back.steps + update


class WayBack:
    """The derivatives of a trace's calls, the last call first."""

    def __init__(self, trace: Trace, tape: bool):
        self.trace, self.tape, self.steps = trace, tape, []
        self.gradients = {trace.result.array: Array(trace.result.array.size)}
        """What holds the gradient of an array."""
        self.now: dict[Array, Array] = {}
        """What takes the place of arrays that are computed again."""

    def through(self, nodes: list[Node], recompute: bool) -> None:
        """Add the derivatives of these calls, the last one first, and before them what they need again."""
        self.now = {a: Array(a.size) for a in _written(nodes)} if recompute else {}
        before, self.steps = self.steps, []
        for node in nodes:
            self._derive(node)
        read = {array for step in self.steps for array in (*step.reads, *step.holds)}
        again = live(nodes[::-1], [array for array, copy in self.now.items() if copy in read])
        self.steps = before + forward_steps(again, self.now) + self.steps

    def _derive(self, node: Node) -> None:
        gradients = [self.gradients.pop(output.array, None) for output in node.outputs]
        arrived = [gradient for gradient in gradients if gradient is not None]
        if not arrived or not any(value.needs_gradient for value in node.inputs):
            return
        if node.function:
            self._call_derivative(node, gradients)
        else:
            self._call_kernels(node, arrived)
        if self.tape:
            results = tuple(self.now.get(array, array) for array in _written([node]))
            self.steps.append(Step("Release", node.part, 0, [], [], results))

    def _call_kernels(self, node: Node, arrived: list[Array]) -> None:
        for primitive, flops, kept, targets in derivatives(node):
            targets = [value for value in targets if value.needs_gradient]
            if targets:
                reads = arrived + [self.now.get(value.array, value.array) for value in kept]
                self._add(primitive, node, flops, reads, targets)

    def _add(self, primitive: str | None, node: Node, flops: int, reads: list[Array], targets: list[Value]) -> None:
        """The kernel that writes the gradients of the targets; none where they are what arrived."""
        size = node.outputs[0].array.size
        summed = [value for value in targets if node.primitive in BROADCASTING and value.array.size < size]
        written = [Array(size if value in summed else value.array.size) for value in targets]
        if primitive is None:
            written = reads[:1] * len(targets)
        else:
            self.steps.append(Step(primitive, node.part, flops, reads, written))
        for value, gradient in zip(targets, written):
            if value in summed:
                whole, gradient = gradient, Array(value.array.size)
                self.steps.append(Step("ReduceSum", node.part, 0, [whole], [gradient]))
            self._accumulate(value, gradient, node.part)

    def _accumulate(self, value: Value, gradient: Array, part: str) -> None:
        other = self.gradients.get(value.array)
        if other is not None:
            parts, gradient = [other, gradient], Array(gradient.size)
            self.steps.append(Step("Add", part, 0, parts, [gradient]))
        self.gradients[value.array] = gradient

    def _call_derivative(self, node: Node, arrived: list[Array | None]) -> None:
        """The kernels of a derivative that a cell has of its own."""
        inputs, outputs = ([self._again(value) for value in values] for values in (node.inputs, node.outputs))
        gradients = [Value(self.trace, y.shape, y.dtype, gradient) for y, gradient in zip(outputs, arrived)]
        called, results = self.trace.derivative(node, inputs, outputs, gradients)
        wanted = [(x, result.array) for x, result in zip(node.inputs, results) if x.needs_gradient]
        self.steps += forward_steps(live(called, [gradient for _, gradient in wanted]))
        for value, gradient in wanted:
            self._accumulate(value, gradient, node.part)

    def _again(self, value: Value) -> Value:
        return Value(self.trace, value.shape, value.dtype, self.now.get(value.array, value.array))


BROADCASTING = ("Add", "Sub", "Mul", "BroadcastTo")


def derivatives(node: Node) -> list[tuple[str | None, int, list[Value], list[Value]]]:
    """The kernels that a call's derivative takes: operator, operations, what it reads beside the gradients that
    arrive, and the inputs whose gradients it writes. An operator None hands the gradient on as it is."""
    name, x, y, flops = node.primitive, node.inputs, node.outputs, node.flops
    match name:
        case "Conv2D":
            kernels = [("Conv2DBackpropInput", flops, x[1:], x[:1]), ("Conv2DBackpropFilter", flops, x[:1], x[1:])]
        case "Dense":
            kernels = [("MatMul", flops, x[1:2], x[:1]), ("MatMul", flops, x[:1], x[1:2]), ("ReduceSum", 0, [], x[2:])]
        case "BatchMatMul" | "Mul":
            kernels = [(name, flops, x[1:], x[:1]), (name, flops, x[:1], x[1:])]
        case "BiasAdd":
            kernels = [(None, 0, [], x[:1]), ("BiasAddGrad", 0, [], x[1:])]
        case "Add" | "Sub":
            kernels = [(None, 0, [], [value]) for value in x]
        case "FlashAttentionScore":  # five products for the two of the way forward
            kernels = [("FlashAttentionScoreGrad", 5 * flops // 2, x + y, x)]
        case "GroupNorm" | "LayerNorm" | "SiLU":
            kernels = [(name + "Grad", 0, x[:2], x)]
        case "Softmax" | "Sigmoid":
            kernels = [(name + "Grad", 0, y, x)]
        case "Concat":
            kernels = [("Slice", 0, [], [value]) for value in x]
        case "BroadcastTo":
            kernels = [(None, 0, [], x)]
        case _ if name in OPPOSITE:
            kernels = [(OPPOSITE[name], 0, [], x)]
        case _:
            raise NotImplementedError(f"scripts/costs/steps.py has no derivative of {name}: add it to derivatives")
    return kernels


def update_steps(trained: list[tuple[int, Array | None]]) -> list[Step]:
    """The kernels of an update: the gradients' norm, their clipping, AdamW and the average of the weights.

    Args:
        trained: numbers of each parameter, float32, and its gradient, or None where nothing depends on it.
    """
    halves, sums, scales, updates = [], [], [], []

    def kernel(primitive: str, reads: list[Array], writes: list[Array]) -> Step:
        return Step(primitive, UPDATE, 0, reads, writes)

    for count, gradient in trained:
        size = 4 * count
        weight, moment1, moment2, average = (Array(size, weight=True) for _ in range(4))
        half, clipped = Array(4), Array(size)
        if gradient is None:
            gradient = Array(size)
            sums.append(kernel("ZerosLike", [], [gradient]))
        sums.append(kernel("L2Loss", [gradient], [half]))
        halves.append(half)
        scales.append(kernel("Mul", [gradient], [clipped]))
        states, change, scaled, result = [weight, moment1, moment2], Array(size), Array(size), Array(size)
        updates.append(kernel("AdamWeightDecay", [*states, clipped], states))
        updates += [kernel("Sub", [weight, average], [change]), kernel("Mul", [change], [scaled])]
        updates += [kernel("Add", [average, scaled], [result]), kernel("Assign", [result], [average])]
    return [*sums, kernel("AddN", halves, [Array(4)]), *scales, *updates]


def live_bytes(steps: list[Step]) -> list[int]:
    """What has to be in memory during each step beside the weights: arrays from their first step to their last."""
    last = {array: i for i, step in enumerate(steps) for array in (*step.reads, *step.writes, *step.holds)}
    present, size, sizes = set(), 0, []
    for i, step in enumerate(steps):
        arrays = {array for array in (*step.reads, *step.writes, *step.holds) if not array.weight}
        size += sum(array.size for array in arrays - present)
        present |= arrays
        sizes.append(size)
        gone = {array for array in arrays if last[array] == i}
        size -= sum(array.size for array in gone)
        present -= gone
    return sizes


def _written(nodes: Iterable[Node]) -> set[Array]:
    """All that these calls write."""
    inner = (array for node in nodes for array in _written(node.nodes))
    return {*inner, *(output.array for node in nodes for output in node.outputs)}
