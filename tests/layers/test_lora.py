"""Adapters of linear layers: they begin without effect, learn alone, and can be merged into the weights."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters
from small_model import SMALL, fill

from svd import runtime
from svd.config import ConfigError, ModelConfig
from svd.layers.attention import TransformerBlock
from svd.layers.lora import adapters, add_adapters
from svd.networks.blocks.svd import svd_unet
from svd.placement import place
from svd.training.config import LoRAConfig
from svd.training.tasks.video import trained_parameters

C, CONTEXT = 32, 16
ATTENTION = ["attn1", "attn2"]


class Block(nn.Cell):
    """A transformer block and what prepares its context, as in the network."""

    def __init__(self):
        super().__init__()
        self.block = TransformerBlock(C, 2, CONTEXT)

    def construct(self, x: Tensor, context: Tensor) -> Tensor:
        return self.block(x, self.block.constant(context))


def random(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def block() -> Block:
    """With random weights; by the operators of the device in float32."""
    return place(fill(Block()), DEVICE, ms.float32)


def shift(cell: nn.Cell) -> None:
    """As if every adapter had been trained."""
    for number, parameter in enumerate(adapters(cell)):
        parameter.set_data(0.2 * random(*parameter.shape, seed=number))


def merge(cell: nn.Cell, alpha: float, rank: int) -> nn.Cell:
    """A block with the adapters' products in its weights, computed in NumPy."""
    merged, found = block(), {p.name: p.asnumpy() for p in adapters(cell)}
    for parameter in merged.get_parameters():
        layer = parameter.name.removesuffix("weight")
        if f"{layer}lora_up" in found:
            change = found.pop(f"{layer}lora_up").astype(np.float64) @ found.pop(f"{layer}lora_down")
            parameter.set_data(Tensor((parameter.asnumpy() + alpha / rank * change).astype(np.float32)))
    assert not found
    return merged


INPUTS = {"one token": (random(2, 3, 5, C), random(2, 1, CONTEXT)), "two": (random(2, 3, 5, C), random(2, 2, CONTEXT))}


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "portable"])
@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_new_adapters_change_nothing_and_trained_ones_are_as_if_merged(eager, monkeypatch, inputs, kernels):
    """On every way through the block, with the kernels and without them, over one token of context and over two."""
    if not kernels:
        monkeypatch.setattr("svd.operators.table.library", lambda: None)
    cell = block()
    expected = cell(*inputs).asnumpy()
    add_adapters(cell, ATTENTION, rank=3, alpha=6, seed=0)
    assert len(adapters(cell)) == 16
    assert cell(*inputs).asnumpy().tobytes() == expected.tobytes()
    shift(cell)
    result = cell(*inputs)
    assert np.abs(result.asnumpy() - expected).max() > 0.1
    assert_close(result, merge(cell, 6, 3)(*inputs), 1e-5)


def test_in_graph_mode():
    """With values that change after the compilation."""
    runtime.setup(DEVICE, 0)
    cell = block()
    add_adapters(cell, ATTENTION, rank=3, alpha=3, seed=0)
    inputs = INPUTS["one token"]
    assert_close(cell(*inputs), block()(*inputs), 1e-6)
    shift(cell)
    assert_close(cell(*inputs), merge(cell, 3, 3)(*inputs), 1e-5)


def test_gradients_are_the_adapters_alone(eager):
    """Of up at first, as it is zero; of both as soon as it is not. Base weights in float16 stay as they are."""
    cell = place(fill(Block()), DEVICE, ms.float16)
    names = {p.name for p in cell.get_parameters()}
    add_adapters(cell, ["attn1"], rank=2, alpha=2, seed=0)
    trained = trained_parameters(cell, temporal_only=True)
    assert {p.name for p in cell.get_parameters()} - names == {p.name for p in trained} and len(trained) == 8
    assert {p.name for p in trained if "to_q" in p.name} == {f"block.attn1.to_q.lora_{end}" for end in ("down", "up")}
    inputs = [x.astype(ms.float16) for x in INPUTS["one token"]]

    def loss(x: Tensor, context: Tensor) -> Tensor:
        return (cell(x, context).astype(ms.float32) ** 2).mean()

    gradients = ms.value_and_grad(loss, None, trained)(*inputs)[1]
    for parameter, gradient in zip(trained, gradients):
        assert gradient.dtype == parameter.dtype == ms.float32
        assert bool(gradient.asnumpy().any()) == parameter.name.endswith("up"), parameter.name
    shift(cell)
    assert all(g.asnumpy().any() for g in ms.value_and_grad(loss, None, trained)(*inputs)[1])


def test_the_default_modules_of_the_published_network():
    """Six layers of each of the 16 transformers over time; at rank 16 not a hundredth of the weights over time."""
    with no_init_parameters():
        network = svd_unet(ModelConfig().unet)
    add_adapters(network, LoRAConfig().modules, rank=16, alpha=16, seed=0)
    names = [p.name for p in adapters(network)]
    assert len(names) == 2 * 6 * 16 and all(".temporal.attn" in name for name in names)
    assert not any("attn2.to_q" in name or "attn2.to_k" in name for name in names)
    assert sum(p.size for p in adapters(network)) < 656_076_838 / 100


def test_what_they_begin_with(eager):
    """The seed decides; the bound is that of a new linear layer, and no two layers begin alike."""

    def downs(seed: int) -> list[np.ndarray]:
        network = fill(svd_unet(SMALL.unet))
        add_adapters(network, ["temporal.attn1"], rank=4, alpha=4, seed=seed)
        return [p.asnumpy() for p in adapters(network) if p.name.endswith("down")]

    first, again, other = downs(1), downs(1), downs(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other))
    assert not np.array_equal(first[0], first[1])
    for down in first:
        assert 0.8 < np.abs(down).max() * down.shape[1] ** 0.5 <= 1


@pytest.mark.parametrize("module", ["atn1", "ff.proj_in", "to", "norm1"])
def test_modules_that_are_not_there(module):
    """Parts of names are whole words; a GELU follows within `proj_in`, and a normalisation is not linear."""
    with pytest.raises(ConfigError, match=f"no linear layer has {module} in its name"):
        add_adapters(fill(Block()), ["attn1", module], rank=2, alpha=2, seed=0)
