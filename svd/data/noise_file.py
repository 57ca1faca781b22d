"""Noise supplied by the user: an .npz file whose headers are checked before any data are read."""

from __future__ import annotations

import stat
from math import prod
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy

from svd.config import ConfigError
from svd.console import one_line

LARGEST = 2**26
"""Bytes that an array may always have, so that a wrong shape can be reported as such."""
REMEDY = "write one with numpy.savez(path, noise=..., aug_noise=...)"


def read_noise(path: str | Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read the arrays of these names and shapes that the file contains, as float32.

    Raises:
        ConfigError: the file is missing, damaged or encrypted, contains none of them, or one of another shape or
            type, or one that is not finite.
    """
    where = f"the noise in {path}"
    try:
        status = Path(path).stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # opening a pipe may block for ever
            raise OSError("it is no ordinary file")
        with open(path, "rb") as file, ZipFile(file) as archive:
            names = set(archive.namelist())
            found = {}
            for name, shape in shapes.items():
                if f"{name}.npy" in names:
                    size = archive.getinfo(f"{name}.npy").file_size  # no more than this is inflated
                    if size > max(16 * prod(shape), LARGEST):
                        raise ConfigError(f"{name} has {size:,} bytes, far more than {list(shape)} numbers need")
                    with archive.open(f"{name}.npy") as member:
                        found[name] = _read_array(member, name, shape)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}", "noise") from error
    except Exception as error:  # zipfile and numpy raise anything on damaged files
        raise ConfigError(f"{where} cannot be read as an .npz file ({one_line(error)}): {REMEDY}", "noise") from error
    if not found:
        raise ConfigError(f"{where} holds neither {' nor '.join(f'`{name}`' for name in shapes)}: {REMEDY}", "noise")
    return found


def _read_array(file: BinaryIO, name: str, expected: tuple[int, ...]) -> np.ndarray:
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in headers:
        raise ValueError(f"an array of format {version}")
    shape, by_columns, dtype = headers[version](file)
    if dtype.kind not in "fiu":
        raise ConfigError(f"{name} holds values of type {dtype}; {REMEDY} of real numbers")
    if tuple(shape) != expected:
        raise ConfigError(f"{name} must be of shape {list(expected)}, got {list(shape)}")
    size = prod(shape) * dtype.itemsize
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"{name} ends after {len(data)} of {size} bytes")
    with np.errstate(over="ignore"):
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C").astype(np.float32)
    if not np.isfinite(array).all():
        raise ConfigError(f"{name} holds values that are not finite (NaN or infinity)")
    return np.ascontiguousarray(array)
