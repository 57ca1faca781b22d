"""The UNet's symmetries: clips are independent, frames are so in image-only mode, and only there."""

from typing import Optional

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.utils import no_init_parameters
from small_model import SMALL, fill

from svd.config import UNetConfig
from svd.layers.axes import fold_frames
from svd.layers.blend import Blend
from svd.layers.resblock import ResBlock
from svd.networks.blocks.svd import svd_unet
from svd.networks.split import Split
from svd.networks.unet import Place, UNet

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 8, 4, 6)).astype(np.float32)
C_NOISE = np.array([1.6, -0.4], np.float32)
CONTEXT = RNG.standard_normal((2, 1, 16)).astype(np.float32)
VECTOR = RNG.standard_normal((2, 24)).astype(np.float32)
ORDER = [2, 0, 1]


@pytest.fixture(autouse=True)
def _eagerly(eager) -> None:
    """Graph mode computes the same: test_golden, parity/test_diffusers and test_option_pairs_training show it."""


@pytest.fixture(scope="module")
def network() -> UNet:
    return fill(svd_unet(SMALL.unet))


@pytest.fixture
def result(network) -> np.ndarray:
    """What both clips give."""
    return run(network)


def run(network: nn.Cell, x=X, c_noise=C_NOISE, context=CONTEXT, vector=VECTOR, image_only=False) -> np.ndarray:
    return network(*map(Tensor, (x, c_noise, context, vector)), image_only).asnumpy()


def test_two_clips_equal_two_batches_of_one(network, result):
    alone = [run(network, *(a[i : i + 1] for a in (X, C_NOISE, CONTEXT, VECTOR))) for i in (0, 1)]
    assert_close(result, np.concatenate(alone))
    assert np.abs(result[0] - result[1]).max() > 0.1


def test_image_only_equals_frame_by_frame(network):
    """The frames of both clips as six clips of one frame."""
    alone = run(
        network, X.reshape(6, 1, 8, 4, 6), *(a.repeat(3, 0) for a in (C_NOISE, CONTEXT, VECTOR)), image_only=True
    )
    assert_close(run(network, image_only=True), alone.reshape(2, 3, 4, 4, 6))


def test_frames_are_exchangeable_in_image_only_mode_and_only_there(network, result):
    images = run(network, image_only=True)
    assert_close(run(network, X[:, ORDER], image_only=True), images[:, ORDER])
    assert np.abs(run(network, X[:, ORDER]) - result[:, ORDER]).max() > 0.01


def test_image_only_equals_alpha_1(network):
    """Blends that are all space leave the temporal layers out as image-only mode does."""
    factors = [cell.mix_factor for _, cell in network.cells_and_names() if isinstance(cell, Blend)]
    assert len(factors) == 12  # 8 residual blocks and 4 transformers
    learned = [factor.asnumpy().copy() for factor in factors]
    for factor in factors:
        factor.set_data(Tensor(np.array([100], np.float32)))
    result = run(network)
    for factor, value in zip(factors, learned):
        factor.set_data(Tensor(value))
    assert_close(result, run(network, image_only=True))


def test_every_condition_counts(network, result):
    """The second clip's image, context, noise level or numbers in the first: its frames change, the second's do not."""
    inputs = {"x": X, "c_noise": C_NOISE, "context": CONTEXT, "vector": VECTOR}
    for name, value in inputs.items():
        changed = run(network, **{**inputs, name: value[[1, 1]]})
        assert np.abs(changed[0] - result[0]).max() > 0.01, name
        assert_close(changed[1], result[1])


def test_noise_levels_per_frame(network, result):
    """Frames of equal noise levels, [b t], are a clip of that level, [b]; others are not."""
    assert_close(run(network, c_noise=C_NOISE[:, None].repeat(3, 1)), result)
    different = run(network, c_noise=np.stack([C_NOISE, C_NOISE[::-1], C_NOISE], 1))
    assert np.abs(different - result)[:, 1].max() > 0.1


class Spatial(nn.Cell):
    """A residual block of an image model, frame by frame."""

    def __init__(self, in_channels: int, channels: int, emb_dim: int):
        super().__init__()
        self.spatial = ResBlock(in_channels, channels, emb_dim=emb_dim)

    def construct(self, x: Tensor, emb: Tensor, temporal_emb: Tensor, image_only: bool) -> Tensor:
        b, t, _, h, w = x.shape
        y = self.spatial(fold_frames(x), ops.expand_dims(fold_frames(emb), 1))
        return ops.reshape(y, (b, t, -1, h, w))


class PlusContext(nn.Cell):
    """In place of attention: adds a number that is learned of the context's mean, one constant."""

    def __init__(self):
        super().__init__()
        self.scale = Parameter(Tensor(np.ones(1, np.float32)), name="scale")

    def constants(self, context: Tensor, temporal_context: Tensor, num_frames: int) -> tuple[Tensor]:
        return (ops.mean(context, (1, 2)),)

    def construct(self, x: Tensor, mean: Tensor, image_only: bool) -> Tensor:
        return x + self.scale * ops.reshape(mean, (-1, 1, 1, 1, 1))


class ImageBlocks:
    """Blocks of another kind: no vector, no layers over time, and what is at a level without attention too."""

    temporal_vector = False

    def vector_embedding(self) -> None:
        return None

    def entry(self, channels: int) -> None:
        return None

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        return Spatial(in_channels, channels, 4 * SMALL.unet.model_channels)

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        return None if place.attends else PlusContext()


def test_a_ladder_of_other_blocks():
    """As a whole and in two halves; it knows of neither vector nor attention what it was not given."""
    network = fill(UNet(SMALL.unet, ImageBlocks()))
    names = [parameter.name for parameter in network.get_parameters()]
    assert {name.split(".")[1] for name in names if ".attentions." in name} == {"0", "1"}
    assert not any(name.startswith(("vector_embedding", "mid_block.attentions")) for name in names)
    x, c_noise, context = map(Tensor, (X, C_NOISE, CONTEXT))
    result = network(x, c_noise, context)
    split = Split(network)
    prepared = split.prepare((context, None), 3, False)
    assert len(prepared) == 2 + 3, "a constant for each attention"
    assert_close(split.evaluate(x, c_noise, *prepared), result, 2e-6)
    assert_close(network(x[:, :1], c_noise, context), result[:, :1])
    assert np.abs((network(x, c_noise, context[[1, 0]]) - result).asnumpy()).max() > 0.01


def test_published_sizes():
    """All parameters, and those of the temporal layers, which training may restrict itself to."""
    with no_init_parameters():
        network = svd_unet(UNetConfig())
    sizes = {parameter.name: int(np.prod(parameter.shape)) for parameter in network.get_parameters()}
    temporal = (".temporal.", ".blend.", ".frame_embedding.")
    assert sum(sizes.values()) == 1_524_623_082
    assert sum(size for name, size in sizes.items() if any(part in name for part in temporal)) == 656_076_838
