"""Which parameters are trained: those of the layers over time, and in the real network nothing else moves."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import relative_error
from device import DEVICE
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters
from small_model import SMALL, fill
from tiny_task import assert_same, values

from svd import runtime
from svd.config import ModelConfig
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.loss import loss_coefficients
from svd.diffusion.preconditioning import v_scaling
from svd.layers.marks import temporal_parameters
from svd.layers.recompute import recompute_blocks
from svd.layers.resblock import VideoResBlock
from svd.layers.transformer import VideoTransformer
from svd.networks.blocks.svd import svd_unet
from svd.networks.unet import UNet
from svd.training.config import LossConfig, OptimizerConfig
from svd.training.optimizer import AdamW, WeightAverage
from svd.training.step import TrainStep, host_scalar
from svd.training.tasks.video import DenoisingObjective, trained_parameters

ONE_LEVEL = replace(SMALL.unet, model_channels=64, channel_mult=[1], attention_resolutions=[])
"""Three kinds of blocks, a transformer in the middle, and two channels in each group that is normalised: one channel
alone would make a convolution's bias without effect."""


def random(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


class Updated:
    """The network after one update of its temporal layers."""

    def __init__(self, recompute: bool):
        network = fill(svd_unet(ONE_LEVEL))
        if recompute:
            recompute_blocks(network)
        self.trained = {f"network.{p.name}": p for p in trained_parameters(network, temporal_only=True)}
        self.frozen = [p for p in network.get_parameters() if f"network.{p.name}" not in self.trained]
        task = DenoisingObjective(None, None, Denoiser(network, v_scaling()), self.trained, LossConfig(), seed=0)
        trained = list(self.trained.values())
        self.optimizer, self.average = AdamW(trained, OptimizerConfig(weight_decay=0)), WeightAverage(trained, 0.9)
        step = TrainStep(task.loss, self.optimizer, trained, self.average)
        self.trainable = {p.name for p in network.trainable_params()}
        self.frozen_before, self.trained_before = values(self.frozen), values(trained)
        coefficients = Tensor(np.array([1e-3, 1e-12, 0], np.float32))
        shape, levels = (1, 3, 4, 4, 4), loss_coefficients(v_scaling(), [1.5])
        # Two tokens: of a single one, cross-attention's queries and keys have no effect.
        inputs = (random(*shape), random(*shape) * -0.5, levels, random(1, 2, 16), random(*shape), random(1, 24))
        loss, norm = step(host_scalar(1.0), host_scalar(True), coefficients, host_scalar(0.5), *inputs)
        self.result = [loss.asnumpy(), norm.asnumpy()]
        self.states = values([*trained, *self.optimizer.exp_avg, *self.optimizer.exp_avg_sq, *self.average.averages])


@pytest.fixture(scope="module")
def updated() -> Updated:
    runtime.setup(DEVICE, 0)
    return Updated(recompute=False)


def test_frozen_parameters_do_not_move(updated):
    """Bit for bit; and they have neither states nor averages."""
    assert len(updated.frozen) > 50
    assert_same(values(updated.frozen), updated.frozen_before)
    sizes = {f"network.{p.name}": p.shape for p in updated.optimizer.parameters}
    assert sizes == {name: p.shape for name, p in updated.trained.items()}
    for kept in (updated.optimizer.exp_avg, updated.optimizer.exp_avg_sq, updated.average.averages):
        assert [p.shape for p in kept] == list(sizes.values())
    assert not any(p.requires_grad for p in updated.frozen)
    assert {f"network.{name}" for name in updated.trainable} == updated.trained.keys()


def test_every_trained_parameter_moves(updated):
    assert len(updated.trained) > 50
    for (name, parameter), before in zip(updated.trained.items(), updated.trained_before):
        moved = np.abs(parameter.asnumpy() - before)
        assert moved.max() > 1e-4, name
        assert moved.max() < 0.01, name


def test_recomputed_blocks_give_the_same_update(updated, _graph):
    """Loss, norm, weights, states and averages, to the last bits."""
    again = Updated(recompute=True)
    for result, expected in zip([*again.result, *again.states], [*updated.result, *updated.states]):
        assert relative_error(result, expected) < 1e-6


@pytest.fixture
def _graph() -> None:
    runtime.setup(DEVICE, 0)


def test_what_is_recomputed_are_the_blocks():
    """What goes from one to the next is kept."""
    with no_init_parameters():
        network = svd_unet(SMALL.unet)
    assert "recompute" not in (network.mid_block.resnets[0].get_scope() or "")
    recompute_blocks(network)
    blocks = [cell for _, cell in network.cells_and_names() if isinstance(cell, (VideoResBlock, VideoTransformer))]
    inside = {id(cell) for block in blocks for _, cell in block.cells_and_names()}
    assert len(blocks) == 12
    for name, cell in network.cells_and_names():
        assert ("recompute" in (cell.get_scope() or "")) == (id(cell) in inside), name


# --- the set ---


@pytest.fixture(scope="module")
def published() -> UNet:
    """The network of Stable Video Diffusion, without values."""
    with no_init_parameters():
        return svd_unet(ModelConfig().unet)


def test_published_numbers(published):
    """The layers over time are 656 million of 1,525 million parameters."""
    assert temporal_parameters(published) == trained_parameters(published, temporal_only=True)
    assert sum(p.size for p in temporal_parameters(published)) == 656_076_838
    assert sum(p.size for p in trained_parameters(published, temporal_only=False)) == 1_524_623_082


def test_the_image_model_uses_none_of_them(eager):
    """Whatever they are, it gives the same images: they are all that the video model adds, and nothing of it."""
    network = fill(svd_unet(SMALL.unet))
    inputs = [random(2, 3, 8, 4, 6), random(2), random(2, 1, 16), random(2, 24)]
    images = network(*inputs, True).asnumpy()
    for parameter in temporal_parameters(network):
        parameter.set_data(Tensor(np.full(parameter.shape, np.nan, np.float32)))
    assert_same([network(*inputs, True).asnumpy()], [images])


def test_the_image_model_uses_all_others(published):
    """Their names are those of Stable Diffusion's parts: no layer over time is missed for its name."""
    temporal = {id(p) for p in temporal_parameters(published)}
    others = [p.name for p in published.get_parameters() if id(p) not in temporal]
    blocks = (VideoResBlock, VideoTransformer)
    image = {"spatial", "norm", "proj_in", "proj_out"}
    for name, cell in published.cells_and_names():
        if isinstance(cell, blocks):
            parts = {p.name.removeprefix(f"{name}.").split(".")[0] for p in cell.get_parameters()}
            kept = {n.removeprefix(f"{name}.").split(".")[0] for n in others if n.startswith(f"{name}.")}
            assert kept <= image and parts - kept <= {"temporal", "blend", "frame_embedding"}, name
