"""Untrusted JSON, and dataclasses parsed from it: bounded, with checked types."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from svd.errors import UserError

Record = TypeVar("Record")
LARGEST = 64 << 20
"""Bytes of a JSON file by default."""
DEEPEST = 64
"""Nesting depth of lists and mappings."""
_DIGITS = 20
"""Of integers; those of this project fit 64 bits."""


class RecordError(UserError, ValueError):
    """JSON or a record that is invalid; the message says in one line where and why."""


def read_json(path: str | Path, largest: int = LARGEST) -> Any:
    """The content of a JSON file.

    Raises:
        RecordError: it is no regular file, larger than `largest` bytes, not JSON, or nested too deeply.
        OSError: it cannot be read.
    """
    path = Path(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would block
        raise RecordError(f"{path} is no ordinary file")
    if status.st_size > largest:
        raise RecordError(f"{path} has {status.st_size:,} bytes, more than the {largest:,} that are read")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON text. Raises RecordError, whose message begins with `where`."""
    try:
        value = json.loads(text, parse_int=_integer, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise RecordError(f"{where} is no JSON that can be used: {what}") from error
    level = [value]
    for _ in range(DEEPEST):
        level = [item for each in level for item in _inside(each)]
        if not level:
            return value
    raise RecordError(f"{where} is no JSON that can be used: it is nested too deeply")


def record(kind: type[Record], data: Any, where: str) -> Record:
    """A dataclass of simple fields (numbers, strings, lists, mappings, dataclasses) from parsed JSON.

    Fields with a default are optional. The class checks bounds in its `__post_init__` and raises ValueError.

    Raises:
        RecordError: a field is missing, unknown, or of another type; integers are no booleans, and floats no integers.
    """
    if not isinstance(data, Mapping):
        raise RecordError(f"{where} has to be a mapping of names to values, not {_shown(data)}")
    hints, fields = get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    unknown = [name for name in data if name not in fields]
    if unknown:
        raise RecordError(f"{where} has an unknown field {_shown(unknown[0])}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise RecordError(f"{where} has no field {name}")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    try:
        return kind(**values)
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error


def differing(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, old and new value of all differences; `part.name` within mappings, None for a missing value."""
    for name in dict.fromkeys((*old, *new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differing(a, b, f"{prefix}{name}.")
        elif a != b:
            yield f"{prefix}{name}", a, b


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not NoneType)
        return _value(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return record(hint, value, where)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise RecordError(f"{where} has to be a list, not {_shown(value)}")
        return origin(_value(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise RecordError(f"{where} has to be a mapping, not {_shown(value)}")
        return {key: _value(arguments[1], item, f"{where}[{_shown(key)}]") for key, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if type(value) is not hint:
        raise RecordError(f"{where} has to be of type {hint.__name__}, not {_shown(value)}")
    return value


def _inside(value: Any) -> list:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one mapping")
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
