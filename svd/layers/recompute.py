"""Less memory in training: what a block computes on the way forward is computed again on the way back.

A class of layers of which only the inputs are then kept has the attribute `is_block = True`.
"""

from mindspore import nn


def blocks(network: nn.Cell) -> list[nn.Cell]:
    """The blocks of a network; those within blocks follow theirs."""
    found, within = [], set()
    for _, cell in network.cells_and_names():  # a block comes before what is in it
        if getattr(cell, "is_block", False) and id(cell) not in within:
            found.append(cell)
            within |= {id(part) for _, part in cell.cells_and_names()}
    return found


def recompute_blocks(network: nn.Cell) -> None:
    """Keep only what goes into the blocks of a network for the gradients, and compute the rest again."""
    for block in blocks(network):
        block.recompute()
