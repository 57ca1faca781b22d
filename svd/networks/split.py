"""A network as two graphs: what depends on neither latents nor noise level, evaluated once per video, and the rest."""

from typing import Optional

from mindspore import Tensor, nn

from svd.networks.unet import UNet


class Constants(nn.Cell):
    """The constants of a network, as nested tuples."""

    def __init__(self, network: UNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(
        self, context: Tensor, vector: Optional[Tensor], num_frames: int, temporal_context: Optional[Tensor] = None
    ) -> tuple:
        return self.network.constants(context, vector, num_frames, temporal_context)


class Evaluate(nn.Cell):
    """F(x; c_noise) of a network, given its constants, which are flat because graph inputs cannot be nested."""

    def __init__(self, network: UNet):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x: Tensor, c_noise: Tensor, image_only: bool, places: tuple, *flat: Tensor) -> Tensor:
        return self.network.evaluate(x, c_noise, _nested(places, flat), image_only)


class Split:
    """Both graphs, compiled once per size."""

    def __init__(self, network: UNet):
        self.constants, self.evaluate = Constants(network), Evaluate(network)

    def prepare(self, inputs: tuple, num_frames: int, image_only: bool) -> tuple:
        """The inputs of `evaluate` after x and c_noise, computed from these inputs with the current weights."""
        flat = []
        places = _flatten(self.constants(*inputs[:2], num_frames, *inputs[2:]), flat)
        return image_only, places, *flat


def _flatten(nested: tuple, flat: list[Tensor]) -> tuple:
    """Append all tensors to `flat`; returns the nested tuple with (start, stop) in place of each tuple of tensors."""
    if all(isinstance(part, Tensor) for part in nested):
        flat += nested
        return len(flat) - len(nested), len(flat)
    return tuple(_flatten(part, flat) for part in nested)


def _nested(places: tuple, flat: tuple[Tensor, ...]) -> tuple:
    """The inverse of `_flatten`, also inside a graph, where every call costs time to compile: none for each tensor."""
    if isinstance(places[0], int):
        return flat[places[0] : places[1]]
    nested = ()
    for part in places:
        nested = nested + (_nested(part, flat),)
    return nested
