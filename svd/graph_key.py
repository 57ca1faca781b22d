"""What a cell's compiled graph depends on: its classes, their attributes and the shapes of its parameters and inputs.

Sources and versions are the caller's: a cell is described only if all of it is of this package or of MindSpore.
"""

from __future__ import annotations

import hashlib
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common import dtype

_PACKAGES = {"svd", "mindspore"}
_OF_EVERY_CELL = frozenset(vars(nn.Cell())) - {
    "_amp_level", "_dynamic_shape_inputs", "_has_config_recompute", "_in_strategy", "_jit_config_dict",
    "_out_strategy", "has_bprop", "mixed_precision_type", "training",
}  # fmt: skip
"""Attributes that MindSpore gives to every cell; those taken out of them change its graph."""
_NOT_OF_GRAPHS = _OF_EVERY_CELL | {"_cell_init_args", "compile"}
_OF_RUNS = {"current_phase", "sequence_modified"}
"""Attributes that a cell gets by being compiled, as well as some that begin with two underscores."""
_TIMES = {"hash_obj"}
"""In closures of MindSpore's functions: when they were made."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), dtype.Type)


class UnknownError(ValueError):
    """It contains something of which it is not known whether it is always the same."""


def described_cell(cell: nn.Cell) -> list:
    """Everything of a cell that its graphs depend on, but for sources and versions: equal, or another graph.

    Raises:
        UnknownError: a class or a function is neither of this package nor of MindSpore, or some value is of a type
            that cannot be described.
    """
    return _Description().cell(cell)


def described_inputs(inputs: Any) -> Any:
    """Shapes and types of tensors, values of all others; raises UnknownError."""
    if isinstance(inputs, Tensor):
        return [list(inputs.shape), str(inputs.dtype), getattr(inputs, "const_arg", None) and _digest(inputs)]
    if isinstance(inputs, (list, tuple)):
        return [type(inputs).__name__, *map(described_inputs, inputs)]
    if isinstance(inputs, dict):
        return {str(key): described_inputs(item) for key, item in inputs.items()}
    return _Description().value(inputs)


class _Description:
    """Values that occur again are described by their number."""

    def __init__(self):
        self._seen: dict[int, tuple[int, Any]] = {}

    def cell(self, cell: nn.Cell) -> list:
        parts = []
        for name, part in cell.cells_and_names():
            parts.append([name, self._once(part, self._cell_itself)])
        return parts

    def _cell_itself(self, cell: nn.Cell) -> list:
        attributes = {"_func_graph_flags": {}} | vars(cell)
        for name in list(attributes):
            if name.startswith("__") or name in _NOT_OF_GRAPHS | _OF_RUNS:
                del attributes[name]
        children = {name: None if child is None else self._class(child) for name, child in cell._cells.items()}
        parameters = {name: self.value(parameter) for name, parameter in cell._params.items()}
        flags = {name: self.value(value) for name, value in cell._primitives.items()}
        return [self._class(cell), children, parameters, flags, self._sorted(attributes)]

    def _sorted(self, attributes: dict[str, Any]) -> Any:
        return self.value(dict(sorted(attributes.items())))

    def value(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        return self._once(value, self._described)

    def _once(self, value: Any, describe) -> Any:
        if id(value) in self._seen:
            return f"seen {self._seen[id(value)][0]}"
        self._seen[id(value)] = len(self._seen), value  # kept alive: another object may not take over its id
        return describe(value)

    def _described(self, value: Any) -> Any:
        if isinstance(value, Parameter):
            return ["parameter", value.name, list(value.shape), str(value.dtype), value.requires_grad]
        if isinstance(value, Tensor):
            return ["tensor", list(value.shape), str(value.dtype), _digest(value)]
        if isinstance(value, np.ndarray):
            return ["array", list(value.shape), str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()]
        if isinstance(value, nn.Cell):
            return self.cell(value)
        if isinstance(value, ops.Primitive):
            # As Python has made it: what the compiler sees in addition, it also adds to.
            return [self._class(value), value.name, self._sorted(vars(value))]
        if isinstance(value, dict):
            return ["dict", *([self.value(key), self.value(item)] for key, item in value.items())]
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, *map(self.value, value)]
        if isinstance(value, partial):
            return ["partial", self.value(value.func), self.value(value.args), self.value(value.keywords)]
        if isinstance(value, MethodType):
            return ["method", self.value(value.__func__), self.value(value.__self__)]
        if isinstance(value, (type, BuiltinFunctionType)):
            return [_known(value)]
        if isinstance(value, FunctionType):
            closure = zip(value.__code__.co_freevars, value.__closure__ or ())
            kept = [self.value(cell.cell_contents) for name, cell in closure if name not in _TIMES]
            return [_known(value), self.value((value.__defaults__, value.__kwdefaults__)), *kept]
        if hasattr(type(value), "__members__"):  # of an enumeration, MindSpore's own included
            return [self._class(value), value.name]
        return [self._class(value), self.value(dict(vars(value)))] if hasattr(value, "__dict__") else _fail(value)

    def _class(self, value: Any) -> str:
        return _known(type(value))


def _known(value: Any) -> str:
    """The name of a class or function whose source is of a known version."""
    module = value.__module__ or ""
    if module.partition(".")[0] not in _PACKAGES:
        _fail(value)
    return f"{module}.{value.__qualname__}"


def _fail(value: Any) -> Any:
    raise UnknownError(f"it is not known what {value!r} depends on")


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.asnumpy().tobytes()).hexdigest()
