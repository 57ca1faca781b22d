"""Pickles of tensors, interpreted here instead of executed by Python's unpickler.

The result is plain: numbers, strings, lists, tuples, dictionaries and descriptions of tensors. Nothing is imported or
called, keys are strings and numbers alone (hashing nested tuples could take for ever), and the instructions, each of
bounded time and memory, are counted.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, Optional

from svd.checkpoints.tensor_files import CODES
from svd.checkpoints.tensor_header import LARGEST_NUMBER, MOST_AXES

MOST_INSTRUCTIONS = 1_000_000
"""A tensor takes about 32."""


class Refused(ValueError):
    """A pickle that needs more than tensors."""


class Storage(NamedTuple):
    code: str
    """Element type, a name of .safetensors; empty if the tensors that use it state it."""
    key: str
    """Its name in the archive."""


class Module:
    """A compiled module of a TorchScript archive."""

    def __init__(self):
        self.attributes: dict[str, Any] = {}


class PickledTensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128",
}
_TYPES = CODES | {
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "complex64": "C64",
}


def _tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> PickledTensor:
    for numbers in ((offset,), shape, strides):
        if not isinstance(numbers, tuple) or not all(type(n) is int and abs(n) <= LARGEST_NUMBER for n in numbers[:9]):
            raise TypeError("a tensor whose shape is not whole numbers")
    if not len(shape) == len(strides) <= MOST_AXES:
        raise ValueError(f"a tensor of {len(shape)} axes and {len(strides)} strides")
    return PickledTensor(storage, offset, shape, strides)


def _typed_tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, _grad, _hooks, code: str, *_):
    return _tensor(Storage(code, storage.key), offset, shape, strides)


def _first(value: Any, *_: Any) -> Any:
    return value


def _pairs(items: list[Any]) -> dict:
    """A dictionary from alternating keys and values; hashing other keys could take for ever."""
    return {key: value for key, value in zip(items[::2], items[1::2]) if _is_key(key)}


_CALLS: dict[str, Callable] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    # Other objects of a training, whose values are not needed here.
    "torch.Size": _first,
    "torch.device": _first,
    "torch.torch_version.TorchVersion": _first,
    "_codecs.encode": _first,
    **{
        f"torch.jit._pickle.{name}": _first
        for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
    },
    "numpy.dtype": _first,
    **dict.fromkeys(("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), _first),
    **{f"{module}.{name}": _first for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
}
"""Callables that a pickle may name, and their replacements."""
_NAMES = {
    **{f"torch.{name}": code for name, code in (_STORAGES | _TYPES).items()},
    "torch.storage.UntypedStorage": "",
}
"""Names that a pickle may use, and their values."""
_MODULES = "__torch__."
"""Beginning of the names of compiled modules in TorchScript archives, whose code is not read."""
_KEYS = ("pytorch_lightning.", "lightning.pytorch.")
"""Modules of classes that are keys in a training's state (in sd-v1-4.ckpt, for one); they are read as their names."""


def _is_key(key: Any) -> bool:
    return isinstance(key, str) or (type(key) is int and abs(key) < 1 << 32)


_MARK = object()
"""Start of the items of a list, tuple or dictionary on the stack."""
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_NEW: dict[str, Callable] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
_OF_STACK = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Reader:
    """Stack and memo of a pickle; a method per kind of instruction, with its `argument`."""

    def __init__(self):
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.storages: dict[str, str] = {}

    def step(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _OF_STACK:
            count = _OF_STACK[name]
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memory[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        else:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise Refused(f"it has the instruction {name}, which no tensor needs")
            method(argument)

    def _marked(self) -> list[Any]:
        """Pop the items since the last mark."""
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _proto(self, _) -> None:
        pass

    _frame = _stop = _proto

    def _memoize(self, _) -> None:
        self.memory[len(self.memory)] = self.stack[-1]

    def _pop(self, _) -> None:
        self.stack.pop()

    def _pop_mark(self, _) -> None:
        self._marked()

    def _dup(self, _) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _) -> None:
        self.stack.append(self._marked())

    _frozenset = _list

    def _dict(self, _) -> None:
        self.stack.append(_pairs(self._marked()))

    def _append(self, _) -> None:
        item = self.stack.pop()
        self.stack[-1].append(item)

    def _appends(self, _) -> None:
        items = self._marked()
        self.stack[-1].extend(items)

    _additems = _appends

    def _setitem(self, _) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].update(_pairs([key, value]))

    def _setitems(self, _) -> None:
        items = self._marked()
        self.stack[-1].update(_pairs(items))

    def _global(self, name: str) -> None:
        self._named(name.replace(" ", "."))

    def _stack_global(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._named(f"{module}.{name}")

    def _inst(self, name: str) -> None:
        arguments = self._marked()
        self._global(name)
        self.stack.append(tuple(arguments))
        self._reduce(None)

    def _named(self, name: str) -> None:
        value = _CALLS.get(name, _NAMES.get(name, name if name.startswith(_KEYS) else None))
        value = Module if name.startswith(_MODULES) else value
        if value is None:
            raise Refused(f"it asks for {name[:200]}, which is not part of a tensor")
        self.stack.append(value)

    def _reduce(self, _) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        if isinstance(call, str):
            raise Refused(f"it calls {call[:200]}, which is not part of a tensor")
        if not any(call is known for known in (Module, *_CALLS.values())):
            raise TypeError(f"{type(call).__name__} is called")
        self.stack.append(Module() if call is Module else call(*arguments))

    _newobj = _reduce

    def _build(self, _) -> None:
        state = self.stack.pop()  # attributes of an object: dictionaries of tensors have notes on their versions
        if isinstance(self.stack[-1], Module) and isinstance(state, dict):
            self.stack[-1].attributes = state

    def _binpersid(self, _) -> None:
        kind, code, key, *_ = self.stack.pop()
        if kind != "storage" or not isinstance(code, str) or not isinstance(key, str):
            raise Refused(f"it holds a {kind[:40] if isinstance(kind, str) else type(kind).__name__}")
        self.storages[key] = code
        self.stack.append(Storage(code, key))


def read_pickle(data: bytes | BinaryIO, storages: Optional[dict[str, str]] = None) -> Any:
    """Read a pickle, with a PickledTensor for each tensor.

    Args:
        data: all of it, or a file, which is read up to its end.
        storages: the element types of all storages that it names are added, by their keys.

    Raises:
        Refused: it needs more than tensors, or has more instructions than any model.
        Exception: it is damaged; almost anything can be raised.
    """
    reader = _Reader()
    for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if number > MOST_INSTRUCTIONS:
            raise Refused("it has more instructions than any model needs")
        reader.step(instruction.name, argument)
    (content,) = reader.stack
    if storages is not None:
        storages.update(reader.storages)
    return content
