"""Bounded reading of a .safetensors header: positions, types and shapes of tensors, and metadata."""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from svd.errors import UserError
from svd.records import parse_json

TYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits per element, by the type names of the format."""
LARGEST_HEADER = 16 << 20
"""Bytes; the header of a full-size model with EMA has less than one million."""
MOST_BRACKETS = 500_000
"""Lists and mappings in a header, which take much more memory than text; a tensor needs three."""
MOST_TENSORS = 20_000
"""A full-size model with EMA has 4,000."""
MOST_AXES = 8
LARGEST_NUMBER = 1 << 48


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be used, or converted; `details` are the lines of a list too long for the message."""

    def __init__(self, message: str = "", details: tuple[str, ...] = (), setting: str = ""):
        super().__init__(message, setting)
        self.details = tuple(details)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's entry in a header."""

    dtype: str
    """A key of TYPE_BITS, or an unknown newer type."""
    shape: tuple[int, ...]
    start: int
    end: int
    """Its bytes in the file."""


@dataclass(frozen=True)
class Header:
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    base: int
    """Where the values begin in the file."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def check_file(path: Path) -> None:
    """Raise CheckpointError unless the path is a readable regular file; opening a pipe would block."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb"):
                return
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the path
        raise CheckpointError(
            f"checkpoint {path} does not exist: check the path, or see the README on converting one"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    raise CheckpointError(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}: give a file")


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that exists, but cannot be read."""
    remedy = "allow this user to read it" if isinstance(error, PermissionError) else "check its drive"
    return CheckpointError(f"{path} cannot be read ({error.strerror or error}): {remedy}")


def read_header(path: Path) -> Header:
    """The header of a .safetensors file.

    Raises:
        CheckpointError: the file does not exist, cannot be read, is truncated, or its header is damaged.
    """
    check_file(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise _incomplete(path, "it is truncated within its header, or of another format")
            if length > LARGEST_HEADER:
                raise _incomplete(path, f"damaged header: {length:,} bytes are more than any model needs")
            text = file.read(length)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        header = _parse(text, 8 + length)
    except ValueError as error:
        raise _incomplete(path, f"damaged header: {error}") from error
    end = max((tensor.end for tensor in header.tensors.values()), default=0)
    if end > size:
        raise _incomplete(path, f"it is truncated: its header tells of {end:,} bytes, the file has {size:,}")
    return header


def check_gapless(path: Path, header: Header) -> None:
    """Raise CheckpointError for bytes that belong to no tensor: this project writes none, so the file is damaged."""
    unused = path.stat().st_size - header.base - sum(tensor.end - tensor.start for tensor in header.tensors.values())
    if unused:
        raise _incomplete(path, f"{unused:,} of its bytes belong to no tensor")


def _incomplete(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a complete safetensors file ({reason}): copy it again")


def _parse(text: bytes, base: int) -> Header:
    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS:
        raise ValueError("it has more entries than any model needs")
    content = parse_json(text, "it")
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping of names to tensors")
    metadata = content.pop("__metadata__", None) or {}
    if len(content) > MOST_TENSORS:
        raise ValueError(f"it has {len(content):,} tensors, more than any model needs")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ is not a mapping of names to texts")
    tensors = {name: _stored(name, item, base) for name, item in content.items()}
    places = sorted((tensor.start, tensor.end, name) for name, tensor in tensors.items() if tensor.end > tensor.start)
    for (_, end, one), (start, _, other) in pairwise(places):
        if start < end:
            raise ValueError(f"{one} and {other} lie in the same place")
    return Header(tensors, metadata, base)


def _stored(name: str, item: Any, base: int) -> StoredTensor:
    if not isinstance(item, dict) or not {"dtype", "shape", "data_offsets"} <= item.keys():
        raise ValueError(f"{name} has no type, shape and place")
    dtype, shape, place = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise ValueError(f"type, shape and place of {name} are not a text and lists of whole numbers")
    if len(shape) > MOST_AXES:
        raise ValueError(f"{name} has {len(shape)} axes")
    start, end = place
    wanted = -(-math.prod(shape) * TYPE_BITS[dtype] // 8) if dtype in TYPE_BITS else end - start
    if end - start != wanted:
        raise ValueError(f"{end - start:,} bytes for {name} of shape {shape}")
    return StoredTensor(dtype, tuple(shape), base + start, base + end)


def _are_sizes(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n <= LARGEST_NUMBER for n in numbers)
