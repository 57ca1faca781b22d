"""Marks on layers: which are temporal, and which are zero-initialised.

A layer class has the attribute `is_temporal = True` or `zero_init = True`; where it depends on the position of a layer,
its parent sets the mark. A mark applies to all parameters within.
"""

from mindspore import Parameter, nn


def temporal(layer: nn.Cell) -> nn.Cell:
    """Mark what a video model adds to its image model: temporal layers, their blends and frame embeddings."""
    layer.is_temporal = True
    return layer


def zero_init(layer: nn.Cell) -> nn.Cell:
    """Mark what begins at zero in training from scratch, so that the branch that it ends adds nothing yet."""
    layer.zero_init = True
    return layer


def temporal_parameters(network: nn.Cell) -> list[Parameter]:
    """The parameters of temporal layers, in the network's order."""
    return _marked(network, "is_temporal")


def spatial_parameters(network: nn.Cell) -> list[Parameter]:
    """All others: those of the image model."""
    temporal = {id(parameter) for parameter in temporal_parameters(network)}
    return [parameter for parameter in network.get_parameters() if id(parameter) not in temporal]


def zero_init_names(network: nn.Cell) -> set[str]:
    """Names of the zero-initialised parameters."""
    return {parameter.name for parameter in _marked(network, "zero_init")}


def _marked(network: nn.Cell, mark: str) -> list[Parameter]:
    layers = [cell for _, cell in network.cells_and_names() if getattr(cell, mark, False)]
    marked = {id(parameter) for layer in layers for parameter in layer.get_parameters()}
    return [parameter for parameter in network.get_parameters() if id(parameter) in marked]
