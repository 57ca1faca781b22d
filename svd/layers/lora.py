"""Low-rank adapters of linear layers: LoRA (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Collection

import numpy as np
from mindspore import Parameter, Tensor, nn

from svd.checkpoints.formats import LORA_DOWN, LORA_UP
from svd.config import ConfigError
from svd.layers.basic import Linear
from svd.seeds import Purpose, generator


def adapters(network: nn.Cell) -> list[Parameter]:
    """The parameters of a network's adapters."""
    return [p for p in network.get_parameters() if p.name.endswith((f".{LORA_DOWN}", f".{LORA_UP}"))]


def add_adapters(network: nn.Cell, modules: Collection[str], rank: int, alpha: float, seed: int) -> None:
    """Add adapters to linear layers, without effect yet: down is random, up is zero (section 4.1 of the paper).

    Args:
        modules: parts of names, such as `temporal.attn1`; every linear layer with one of them in its name gets an
            adapter, except GEGLU's.
        rank, alpha: the adapter computes alpha / rank * up(down(x)).
        seed: of the initial values; uniform within 1 / sqrt(i) for i channels, as in a new linear layer.

    Raises:
        ConfigError: no linear layer has one of the modules in its name.
    """
    linears = {f".{name}.": cell for name, cell in network.cells_and_names() if isinstance(cell, Linear)}
    for module in modules:
        if not any(f".{module}." in name for name in linears):
            some = next((name for name in linears if ".temporal." in name), next(iter(linears))).strip(".")
            raise ConfigError(f"train.lora.modules: no linear layer has {module} in its name; one is {some}")
    chosen = [cell for name, cell in linears.items() if any(f".{module}." in name for module in modules)]
    for number, cell in enumerate(chosen):
        o, i = cell.weight.shape
        down = generator(seed, number, Purpose.ADAPTERS).uniform(-(i**-0.5), i**-0.5, (rank, i)).astype(np.float32)
        layer = cell.weight.name.removesuffix("weight")
        cell.lora_down = Parameter(Tensor(down), name=layer + LORA_DOWN)
        cell.lora_up = Parameter(Tensor(np.zeros((o, rank), np.float32)), name=layer + LORA_UP)
        cell.lora_scale = alpha / rank
