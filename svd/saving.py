"""Files of tensors that others may read, and that are on the drive when they are said to be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import numpy as np
from safetensors.numpy import save_file


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Optional[Mapping[str, str]] = None) -> None:
    """Write a .safetensors file with the permissions of any other new file: the library's own is its owner's alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata and dict(metadata))
    path.chmod(mode)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the drive: a rename must not overtake it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
