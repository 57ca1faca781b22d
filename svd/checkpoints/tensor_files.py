"""Tensors in files: read lazily one at a time, written as a stream to .safetensors."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np

from svd.checkpoints.float8 import FLOAT8
from svd.checkpoints.tensor_header import CheckpointError, Header, StoredTensor, read_header

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    **dict.fromkeys(FLOAT8, np.dtype("u1")),  # NumPy has neither float8 nor bfloat16: bits are read, and
    "BF16": np.dtype("<u2"),  # widened to float32
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
WIDENED = ("BF16", *FLOAT8)
"""Types that are read as float32, which holds all of their values."""
_CODES = {dtype: code for code, dtype in DTYPES.items() if code not in WIDENED}
CODES = {dtype.name: code for dtype, code in _CODES.items()} | {"bfloat16": "BF16"}
"""Keys of DTYPES by the names of types that NumPy, PyTorch and (but for capitals) MindSpore have in common."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that `read` loads."""

    shape: tuple[int, ...]
    dtype: np.dtype
    position: tuple[str, int]
    """File and offset, to read tensors in disk order."""
    read: Callable[[], np.ndarray]
    stored: str = ""
    """Element type in the file, a key of DTYPES."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def stored_tensor(
    name: str,
    path: Path,
    code: str,
    shape: tuple[int, ...],
    pieces: tuple[tuple[int, int], ...],
    strides: Optional[tuple[int, ...]] = None,
) -> LazyTensor:
    """A tensor in a file; reading it raises CheckpointError if the file is truncated.

    Args:
        code: its element type, a key of DTYPES; those in WIDENED become float32, which is exact.
        pieces: (offset, bytes) of the consecutive parts of its data.
        strides: of each axis in elements, if the data is not in C order.
    """
    dtype = np.dtype(np.float32) if code in WIDENED else DTYPES[code]

    def read() -> np.ndarray:
        values = _read_pieces(name, path, pieces).view(DTYPES[code])
        if strides is not None:
            steps = [stride * values.itemsize for stride in strides]
            values = np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, steps))
        if code == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        elif code in FLOAT8:
            values = FLOAT8[code][values]
        return values.reshape(shape)

    return LazyTensor(shape, dtype, (str(path), pieces[0][0] if pieces else 0), read, code)


def check_type(path: Path, name: str, code: str) -> None:
    """Raise CheckpointError for an unsupported element type."""
    if code not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name} has type {code}, which is not supported; re-save the checkpoint in float32, "
            "float16, bfloat16 or float8 with the program that wrote it"
        )


def _read_pieces(name: str, path: Path, pieces: tuple[tuple[int, int], ...]) -> np.ndarray:
    data = np.empty(sum(size for _, size in pieces), np.uint8)
    rest = memoryview(data)
    with open(path, "rb") as file:
        for offset, size in pieces:
            file.seek(offset)
            if file.readinto(rest[:size]) < size:
                raise CheckpointError(f"{path} ends within tensor {name}: the file is truncated")
            rest = rest[size:]
    return data


def check_finite(values: np.ndarray, name: str) -> None:
    """Raise CheckpointError, with the tensor's name, if a value is NaN or infinite."""
    if values.dtype.kind != "f" or not values.size:
        return
    flat = values.reshape(-1)
    for start in range(0, flat.size, 1 << 20):  # in blocks that stay in the cache
        finite = _finite(flat[start : start + (1 << 20)])
        if not finite.all():
            kind = "NaN" if np.isnan(flat[start + int(np.argmin(finite))]) else "infinity"
            raise CheckpointError(f"tensor {name} holds {kind}; the checkpoint is damaged")


def finite(name: str, tensor: LazyTensor) -> LazyTensor:
    """The tensor, of which reading raises CheckpointError where a value is NaN or infinite."""

    def read() -> np.ndarray:
        values = tensor.read()
        check_finite(values, name)
        return values

    return replace(tensor, read=read)


def _finite(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.float16:  # by its exponent: six times as fast as isfinite
        return (values.view(np.uint16) & 0x7C00) != 0x7C00
    return np.isfinite(values)


def cast(name: str, tensor: LazyTensor, dtype: np.dtype) -> LazyTensor:
    """The tensor cast to another type; reading it raises CheckpointError if a finite value overflows."""
    if tensor.dtype == dtype:
        return tensor

    def read() -> np.ndarray:
        values = tensor.read()
        with np.errstate(over="ignore"):
            result = values.astype(dtype)
        if not _finite(result).all():
            largest = float(np.abs(values).max())
            problem = f"tensor {name} holds {largest:g}, which {dtype} cannot"
            raise CheckpointError(f"{problem}; use dtype fp32", setting="dtype")
        return result

    return LazyTensor(tensor.shape, dtype, tensor.position, read)


# --- .safetensors ---


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a .safetensors file.

    Raises:
        CheckpointError: the header is damaged, a type is unknown, or the file ends before its data does.
    """
    return lazy_tensors(path, read_header(path))


def lazy_tensors(path: Path, header: Header) -> dict[str, LazyTensor]:
    """The tensors of a file whose header has been read."""
    return {name: lazy_tensor(path, name, stored) for name, stored in header.tensors.items()}


def lazy_tensor(path: Path, name: str, stored: StoredTensor) -> LazyTensor:
    """One tensor of a file; raises CheckpointError if its type is unknown."""
    check_type(path, name, stored.dtype)
    return stored_tensor(name, path, stored.dtype, stored.shape, ((stored.start, stored.end - stored.start),))


def save_tensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Optional[Mapping[str, str]] = None) -> None:
    """Write arrays into a .safetensors file, as `write_safetensors` does."""
    tensors = {
        name: LazyTensor(array.shape, array.dtype, ("", place), partial(np.asarray, array))
        for place, (name, array) in enumerate(arrays.items())
    }
    write_safetensors(path, tensors, metadata or {})


def write_safetensors(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str],
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Write the tensors one by one, in the order of their sources; `progress` is called with the bytes of each.

    The file is not complete until this returns: write it inside `atomic_write`.
    """
    # Widest types first, so that every tensor is aligned; then in disk order of the sources.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, tensors[name].position))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in names:
        tensor, start = tensors[name], offset
        offset += tensor.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": tensor.shape, "data_offsets": (start, offset)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            values = np.asarray(tensors[name].read(), order="C")
            if values.shape != tensors[name].shape or values.dtype != tensors[name].dtype:
                raise AssertionError(f"{name} was announced as {tensors[name].shape} {tensors[name].dtype}")
            file.write(values.reshape(-1).view(np.uint8).data)
            progress(values.nbytes)
        file.flush()
        os.fsync(file.fileno())
