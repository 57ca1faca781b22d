"""The parts of a model: loading, conversion, training and messages derive their lists of networks from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mindspore import nn


@dataclass(frozen=True, eq=False)
class Part:
    """One of a model's networks."""

    prefix: str
    """Prefix of its parameters in a checkpoint, without the dot."""
    title: str
    """Name in messages, with an article."""
    build: Callable[[], nn.Cell]
    exact: bool = False
    """Whether it is computed in float32 at every amp_level, unless it is trained."""
    optional: str = ""
    """Its name in messages if a checkpoint lacks it, which has it completely or not at all; empty if it is required."""
    stand_in: str = ""
    """Prefix of the part that replaces it if a checkpoint lacks it."""
    spare: bool = False
    """Whether its only use is to replace another part."""
