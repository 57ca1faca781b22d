"""PyTorch's .ckpt, .pt, .pth and .bin files, read without executing their pickles.

Such a file is a zip archive: `data.pkl` describes the tensors, `data/<key>` holds the bytes of each storage. So is one
of TorchScript, whose code is left out. Before PyTorch 1.6 it was four pickles, the last of which describes the tensors,
a fifth that lists the storages, and their bytes, those of each behind the number of its elements.
"""

from __future__ import annotations

import errno
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from svd.checkpoints.tensor_files import DTYPES, LazyTensor, check_type, stored_tensor
from svd.checkpoints.tensor_header import CheckpointError
from svd_tools.checkpoints.pickles import Module, PickledTensor, Refused, read_pickle

LARGEST_PICKLE = 16 << 20
"""Bytes of `data.pkl`; a full-size training checkpoint with optimizer has two million."""
LARGEST_DIRECTORY = 4 << 20
"""Bytes of the archive's list of records, about 80 for each tensor."""
DEEPEST = 6
"""Nesting depth of dictionaries around the tensors."""
MOST_ENTRIES = 200_000
MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The number in the first pickle of a file of PyTorch before 1.6."""


def read_torch(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a PyTorch zip file by name, prefixed with the keys of enclosing dictionaries.

    Raises:
        CheckpointError: it is damaged or truncated, or its pickle needs more than tensors (the error says what).
    """
    with _reporting(path):
        with open(path, "rb") as file:
            _check_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                prefix = _prefix(path, archive)
                _check_byte_order(path, archive, prefix)
                content = read_pickle(_member(path, archive, f"{prefix}data.pkl", LARGEST_PICKLE))
                stored = [info for info in archive.infolist() if info.filename.startswith(f"{prefix}data/")]
                records = {info.filename: _extent(info, file) for info in stored}
        return {name: _stored(path, name, tensor, prefix, records) for name, tensor in _named(path, content)}


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """A block whose failures become CheckpointError."""
    try:
        yield
    except Refused as error:
        raise CheckpointError(
            f"{path} is not read: {error}, and could run any code; re-save the tensors alone as .safetensors"
        ) from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of the drive, not for a wrong offset
            raise
        raise CheckpointError(f"{path} has a damaged pickle: {type(error).__name__}: {error}") from error


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins so is one of PyTorch before 1.6: a pickle of the number by which it is known."""
    return head.startswith((b"\x80\x02\x8a\n" + MAGIC, b"\x80\x04\x8a\n" + MAGIC))


def read_legacy(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file of PyTorch before 1.6 (or of torch.save without its zip format), as `read_torch`."""
    with _reporting(path), open(path, "rb") as file:
        storages: dict[str, str] = {}
        _, _, about, content = (read_pickle(file, storages) for _ in range(4))
        if about.get("little_endian") is not True:
            raise CheckpointError(f"{path} was written by a big-endian machine; re-save it as .safetensors there")
        records = {}
        for key in read_pickle(file):
            count, code = int.from_bytes(file.read(8), "little"), storages[key]
            check_type(path, f"(storage {key})", code)
            size = count * DTYPES[code].itemsize
            records[f"data/{key}"] = file.tell(), size
            file.seek(size, os.SEEK_CUR)
        return {name: _stored(path, name, tensor, "", records) for name, tensor in _named(path, content)}


def _check_directory(path: Path, file: BinaryIO) -> None:
    """Raise CheckpointError for too long a directory, which zipfile would read at once."""
    end = file.seek(0, 2)
    file.seek(max(0, end - (1 << 16) - 98))  # the longest comment, and the two records before it
    tail = file.read()
    sizes = [int.from_bytes(tail[at.start() + 12 : at.start() + 16], "little") for at in re.finditer(b"PK\5\6", tail)]
    sizes += [int.from_bytes(tail[at.start() + 40 : at.start() + 48], "little") for at in re.finditer(b"PK\6\6", tail)]
    if max((size for size in sizes if size != 0xFFFFFFFF), default=0) > LARGEST_DIRECTORY:
        raise CheckpointError(f"{path} lists more records than any model needs; re-save the tensors as .safetensors")


def _prefix(path: Path, archive: zipfile.ZipFile) -> str:
    """The folder inside the archive: `archive/` for most."""
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.removesuffix("data.pkl")
    raise CheckpointError(f"{path} is a zip archive but no PyTorch checkpoint: there is no data.pkl in it")


def _check_byte_order(path: Path, archive: zipfile.ZipFile, prefix: str) -> None:
    name = f"{prefix}byteorder"
    if name in archive.namelist() and _member(path, archive, name, 16) != b"little":
        raise CheckpointError(f"{path} was written by a big-endian machine; re-save it as .safetensors there")


def _member(path: Path, archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """A whole record; compressed ones, which may expand to any size, are refused."""
    info = archive.getinfo(name)
    _check_stored(info)
    if info.file_size > largest:
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint: its record {name} has {info.file_size:,} bytes, more than any model "
            "needs"
        )
    return archive.read(info)


def _check_stored(info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"record {info.filename} is compressed; re-save the checkpoint with torch.save")


def _extent(info: zipfile.ZipInfo, file: BinaryIO) -> tuple[int, int]:
    """(offset, bytes) of a record's data in the file; PyTorch never compresses them."""
    _check_stored(info)
    file.seek(info.header_offset + 26)  # the local header's own name and padding come before the data
    name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name_length + extra_length, info.file_size


def _named(path: Path, content: Any) -> Iterator[tuple[str, PickledTensor]]:
    """(name, tensor) of all tensors in dictionaries with string keys, and in modules; all else is left out.

    That excludes optimizer states, whose keys are numbers.
    """
    content = _inside(content)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    for number, (name, value) in enumerate(_walk(content, ())):
        if number > MOST_ENTRIES:  # one dictionary may be in another a million times
            raise CheckpointError(f"{path} has more entries than any model needs; re-save the tensors as .safetensors")
        if isinstance(value, PickledTensor):
            yield name, value


def _inside(value: Any) -> Any:
    """The attributes of a module; anything else as it is."""
    return value.attributes if isinstance(value, Module) else value


def _walk(content: dict, above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        inside, value = (*above, str(key)), _inside(value)
        yield ".".join(inside), value
        if isinstance(key, str) and isinstance(value, dict) and len(above) < DEEPEST:
            yield from _walk(value, inside)


def _stored(path: Path, name: str, tensor: PickledTensor, prefix: str, records: dict[str, Any]) -> LazyTensor:
    storage, first, shape, strides = tensor
    check_type(path, name, storage.code)
    itemsize = DTYPES[storage.code].itemsize
    count = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides)) if 0 not in shape else 0
    offset, size = records.get(f"{prefix}data/{storage.key}", (0, -1))
    if first < 0 or min(strides, default=0) < 0 or (first + count) * itemsize > size:
        raise CheckpointError(f"{path} is damaged: tensor {name} reaches beyond its storage {storage.key}")
    pieces = ((offset + first * itemsize, count * itemsize),)
    steps = None if _in_order(shape, strides) else strides
    return stored_tensor(name, path, storage.code, shape, pieces, steps)


def _in_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements lie in C order without gaps; strides of axes of length 1 do not matter."""
    step = 1
    for n, stride in zip(reversed(shape), reversed(strides)):
        if n != 1 and stride != step:
            return False
        step *= n
    return True
