"""Loading a network's weights of another program into ours, by the tables of the conversion."""

import re
from collections.abc import Callable, Mapping

import numpy as np
from mindspore import Tensor, nn

from svd.config import Model, TextEncoderConfig
from svd_tools.checkpoints.tables import TRANSFORMS, Table

Names = Callable[[str], tuple[str, str]]
"""Our name -> theirs, and the transform of the conversion."""


def diffusers_names(table: Table, config: Model | TextEncoderConfig) -> Names:
    """Those of diffusers and transformers, or of what is built on them."""
    return lambda name: table.translate(name, "diffusers", config)


def load_foreign(network: nn.Cell, weights: Mapping[str, np.ndarray], names: Names, unused: str = "") -> nn.Cell:
    """Load all weights, and return the network; names in which `unused` is found have no place in ours."""
    left = {name for name in weights if not unused or not re.search(unused, name)}
    for parameter in network.get_parameters():
        theirs, transform = names(parameter.name)
        value = TRANSFORMS[transform].to_ours(weights[theirs])
        assert value.shape == parameter.shape, parameter.name
        parameter.set_data(Tensor(value))
        left.remove(theirs)
    assert not left
    return network.set_train(False)
