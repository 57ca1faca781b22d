"""PyTorch's .ckpt, .pt and .bin files, read without executing what their pickles ask for.

Such a file is a zip archive: `data.pkl` describes the tensors, `data/<key>` holds the bytes of each storage.
The pickle may name only what describes tensors (`_TensorUnpickler.find_class`); any other name is refused.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

from svd_tools.tensor_files import DTYPES, ConversionError, LazyTensor, stored_tensor

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
}


class _Storage(NamedTuple):
    code: str
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(pickle.UnpicklingError):
    """A pickle that asks for more than tensors."""


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors; every global but those of `find_class` is refused."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        # Made anew for every file: a pickle that sets attributes on them changes nothing that is shared.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, tuple(shape), tuple(strides))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        raise _Refused(f"it asks for {module}.{name}, which is not part of a tensor")

    def persistent_load(self, pid):
        kind, code, key, _device, _count = pid
        if kind != "storage" or code not in DTYPES:
            raise _Refused(f"it holds a {kind} of type {code}")
        return _Storage(code, key)


def read_torch(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a PyTorch zip file; a dictionary under `state_dict` is taken for the whole.

    Raises:
        ConversionError: damaged or truncated, or the pickle asks for more than tensors (the error says what).
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            prefix = _prefix(path, archive)
            _check_byte_order(path, archive, prefix)
            records = {info.filename: _extent(info, file) for info in archive.infolist()}
            with archive.open(prefix + "data.pkl") as pickled:
                content = _TensorUnpickler(pickled).load()
        found = _state_dict(path, content)
        return {name: _stored(path, name, tensor, prefix, records) for name, tensor in found.items()}
    except _Refused as error:
        raise ConversionError(
            f"{path} is not read: {error}, and could run any code; re-save the tensors alone as .safetensors"
        ) from error
    except zipfile.BadZipFile as error:
        raise ConversionError(f"{path} is truncated or damaged: {error}") from error
    except ConversionError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ConversionError(f"{path} has a damaged pickle: {type(error).__name__}: {error}") from error


def _prefix(path: Path, archive: zipfile.ZipFile) -> str:
    """The folder inside the archive: `archive/` for most."""
    for name in archive.namelist():
        if name.endswith("/data.pkl") and name.count("/") == 1:
            return name.removesuffix("data.pkl")
    raise ConversionError(f"{path} is a zip archive but no PyTorch checkpoint: there is no data.pkl in it")


def _check_byte_order(path: Path, archive: zipfile.ZipFile, prefix: str) -> None:
    if prefix + "byteorder" in archive.namelist() and archive.read(prefix + "byteorder") != b"little":
        raise ConversionError(f"{path} was written by a big-endian machine; re-save it as .safetensors there")


def _extent(info: zipfile.ZipInfo, file) -> tuple[int, int]:
    """(offset, bytes) of a record's data in the file; PyTorch never compresses them."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ConversionError(f"record {info.filename} is compressed; re-save the checkpoint with torch.save")
    file.seek(info.header_offset + 26)  # the local header's own name and padding come before the data
    name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return info.header_offset + 30 + name_length + extra_length, info.file_size


def _state_dict(path: Path, content) -> dict[str, _Tensor]:
    """The tensors of what was pickled; what stands beside them at the top (step numbers) is left out."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return {str(name): value for name, value in content.items() if isinstance(value, _Tensor)}


def _stored(path: Path, name: str, tensor: _Tensor, prefix: str, records: dict) -> LazyTensor:
    storage, first, shape, strides = tensor
    itemsize = DTYPES[storage.code].itemsize
    count = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides)) if 0 not in shape else 0
    offset, size = records.get(f"{prefix}data/{storage.key}", (0, -1))
    if first < 0 or min(strides, default=0) < 0 or (first + count) * itemsize > size:
        raise ConversionError(f"{path} is damaged: tensor {name} reaches beyond its storage {storage.key}")
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
