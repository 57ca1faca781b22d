"""One instance for all layers of a cell without parameters."""

from collections.abc import Callable
from functools import cache

from mindspore import nn


@cache
def shared(kind: Callable[..., nn.Cell], *arguments) -> nn.Cell:
    """The one cell of this kind and these arguments: what has no parameters need not be compiled for every layer."""
    return kind(*arguments)
