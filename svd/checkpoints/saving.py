"""Files of tensors that others may read."""

from __future__ import annotations

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
