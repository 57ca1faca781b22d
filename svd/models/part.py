"""Which networks a model has: what loading, conversion, training and messages say of them is derived from its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mindspore import nn


@dataclass(frozen=True, eq=False)
class Part:
    """One of a model's networks."""

    prefix: str
    """Of its parameters' names in a checkpoint, without the dot."""
    title: str
    """Its name in messages, with an article."""
    build: Callable[[], nn.Cell]
    exact: bool = False
    """Whether it computes in float32 at every amp_level, unless it is trained."""
    optional: str = ""
    """Its name where a checkpoint lacks it, which has it as a whole or not at all; empty if it must be there."""
    stand_in: str = ""
    """The prefix of the part that takes its place where a checkpoint lacks it."""
    spare: bool = False
    """Whether it does nothing but take another's place."""
