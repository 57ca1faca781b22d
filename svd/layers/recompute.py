"""Less memory in training: what a block computes on the way forward is computed again on the way back."""

from mindspore import nn


def recompute_blocks(network: nn.Cell, *blocks: type[nn.Cell]) -> None:
    """Keep only what goes into the blocks of these classes for the gradients; blocks within blocks follow theirs."""
    within = set()
    for _, cell in network.cells_and_names():  # a block comes before what is in it
        if isinstance(cell, blocks) and id(cell) not in within:
            cell.recompute()
            within |= {id(part) for _, part in cell.cells_and_names()}
