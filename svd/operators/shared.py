"""One instance for all layers of a cell without parameters."""

from collections.abc import Callable
from functools import cache

from mindspore import nn


@cache
def shared(kind: Callable[..., nn.Cell], *arguments) -> nn.Cell:
    """The single cell of this class and these arguments: without parameters it need not be compiled per layer."""
    return kind(*arguments)
