"""Files shipped with the project: configurations, the model of moving digits, golden values.

A clone has them in its root, a wheel in the package `svd`, under the same names (setup.py).
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parent


def own_file(name: str) -> Path:
    """The path of a file or folder shipped with the project, such as configs/svd.yaml."""
    installed = _PACKAGE / name
    # unlike Path.exists, os.path.exists is false for invalid names
    return installed if os.path.exists(installed) else _PACKAGE.parent / name


def find_file(name: str | Path) -> str | Path:
    """The name itself, or the path of the shipped file if only that exists: configs/... works in any folder."""
    if os.path.exists(name) or os.path.isabs(name):
        return name
    own = own_file(str(name))
    return own if os.path.exists(own) else name


DIGITS = own_file("assets/digits")
"""The small model that comes with the project, of handwritten digits that move, and its judge (docs/digits.md)."""
