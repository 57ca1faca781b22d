"""MindSpore's .ckpt files: a protobuf message, parsed in place.

The message is `repeated Value {tag = 1, tensor = 2 {dims = 1, tensor_type = 2, tensor_content = 3}}`; a large
parameter is split into consecutive Values of one tag, each stating the whole shape. MindSpore's own reader
parses the file at once, which takes twice its size in memory; here only the headers of the Values are read.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from svd.checkpoints.tensor_files import CODES, DTYPES, LazyTensor, check_type, stored_tensor
from svd.checkpoints.tensor_header import LARGEST_NUMBER, MOST_AXES, CheckpointError

ENCRYPTED = bytes.fromhex("d85e3a7f")
"""First bytes of a checkpoint saved with an enc_key."""

MOST_VALUES = 20_000
"""Limit of Values in a file (parameters above 512 MB have several); a full-size model has 2,446."""
LONGEST_NAME = 1000  # bytes
MOST_FIELDS = 32  # in a message within another
_CRC_TRAILER = 17  # bytes: "crc_num", then the checksum in 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def read_mindspore(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a MindSpore .ckpt file, without strings saved beside them.

    Raises:
        CheckpointError: the file is truncated or damaged, or has anything but dense tensors.
    """
    tensors: dict[str, tuple] = {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = len(data)
        if data[max(0, end - _CRC_TRAILER) : end - 10] == b"crc_num":
            end -= _CRC_TRAILER
        try:
            for field, start, stop in _fields(data, 0, end, MOST_VALUES):
                if field != 1:
                    raise ValueError(f"unknown field {field}")
                tag, code, shape, piece = _value(data, start, stop)
                if code == "str":
                    continue
                known = tensors.setdefault(tag, (code, shape, []))
                if known[:2] != (code, shape):
                    raise ValueError(f"the parts of {tag} differ in type or shape")
                known[2].append(piece)
        except (ValueError, IndexError) as error:
            raise CheckpointError(f"{path} is damaged, truncated, or no MindSpore checkpoint: {error}") from error
    return {tag: _stored(path, tag, *found) for tag, found in tensors.items()}


def _stored(path: Path, tag: str, code: str, shape: tuple[int, ...], pieces: list) -> LazyTensor:
    code = CODES.get(code.lower(), code)
    check_type(path, tag, code)
    size = sum(count for _, count in pieces)
    if shape == (0,) and size:  # how some versions write a scalar
        shape = ()
    if max(shape, default=0) > LARGEST_NUMBER or size != math.prod(shape) * DTYPES[code].itemsize:
        raise CheckpointError(f"{path} is damaged: {size} bytes for {tag} of shape {list(shape)}")
    return stored_tensor(tag, path, code, shape, tuple(pieces))


def _value(data: mmap.mmap, start: int, stop: int) -> tuple[str, str, tuple[int, ...], tuple[int, int]]:
    """(tag, type, shape, (offset, bytes)) of the Value between the two offsets."""
    tag, code, shape, piece = "", "", [], (0, 0)
    for field, head, tail in _fields(data, start, stop):
        if field == 1:
            tag = _text(data, head, tail)
        elif field == 2:
            for inner, first, last in _fields(data, head, tail):
                if inner == 1:
                    shape += _integers(data, first, last)
                    if len(shape) > MOST_AXES:
                        raise ValueError(f"{tag} has more than {MOST_AXES} axes")
                elif inner == 2:
                    code = _text(data, first, last)
                elif inner == 3:
                    piece = (first, last - first)
        else:
            raise ValueError(f"{tag} is not a dense tensor")
    return tag, code, tuple(shape), piece


def _text(data: mmap.mmap, start: int, stop: int) -> str:
    if stop - start > LONGEST_NAME:
        raise ValueError(f"a name of {stop - start:,} bytes")
    return data[start:stop].decode()


def _fields(data: mmap.mmap, position: int, end: int, most: int = MOST_FIELDS) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of each field of the message between two offsets; a varint's are its bytes."""
    count = 0
    while position < end:
        if (count := count + 1) > most:
            raise ValueError(f"more than {most:,} parts of one kind")
        key, position = _integer(data, position)
        wire, start = key & 7, position
        if wire == _VARINT:
            _, stop = _integer(data, position)
        elif wire == _BYTES:
            length, start = _integer(data, position)
            stop = start + length
        elif wire in (_FIXED64, _FIXED32):
            stop = position + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if stop > end:
            raise ValueError(f"the field at byte {position:,} ends at {stop:,}, which is after {end:,}")
        yield key >> 3, start, stop
        position = stop


def _integers(data: mmap.mmap, position: int, stop: int) -> list[int]:
    """The varints between two offsets: one, or several when they are packed."""
    values = []
    while position < stop and len(values) <= MOST_AXES:
        value, position = _integer(data, position)
        values.append(value)
    return values


def _integer(data: mmap.mmap, position: int) -> tuple[int, int]:
    """The varint at `position`, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"no number at byte {position:,}")
