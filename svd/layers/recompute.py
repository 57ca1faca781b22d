"""Activation checkpointing: blocks keep only their inputs, and are recomputed in the backward pass.

A layer class that is such a block has the attribute `is_block = True`.
"""

from mindspore import nn


def blocks(network: nn.Cell) -> list[nn.Cell]:
    """The outermost blocks of a network; nested ones are recomputed with theirs."""
    found, within = [], set()
    for _, cell in network.cells_and_names():  # a block comes before its children
        if getattr(cell, "is_block", False) and id(cell) not in within:
            found.append(cell)
            within |= {id(part) for _, part in cell.cells_and_names()}
    return found


def recompute_blocks(network: nn.Cell) -> None:
    """Keep only the inputs of a network's blocks for the backward pass."""
    for block in blocks(network):
        block.recompute()
