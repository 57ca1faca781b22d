"""The UNet's symmetries: clips are independent, frames are so in image-only mode, and only there."""

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters
from small_model import SMALL, fill

from svd.config import UNetConfig
from svd.layers.blend import Blend
from svd.networks.video_unet import VideoUNet

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 8, 4, 6)).astype(np.float32)
C_NOISE = np.array([1.6, -0.4], np.float32)
CONTEXT = RNG.standard_normal((2, 1, 16)).astype(np.float32)
VECTOR = RNG.standard_normal((2, 24)).astype(np.float32)
ORDER = [2, 0, 1]


@pytest.fixture(scope="module")
def networks() -> dict[int, VideoUNet]:
    """One for each mode, so that its graphs are compiled once."""
    return {mode: fill(VideoUNet(SMALL.unet)) for mode in (0, 1)}


@pytest.fixture
def network(mode, networks) -> VideoUNet:
    return networks[mode]


@pytest.fixture(scope="module")
def _results() -> dict[int, np.ndarray]:
    return {}


@pytest.fixture
def result(mode, network, _results) -> np.ndarray:
    """What both clips give, computed once."""
    if mode not in _results:
        _results[mode] = run(network)
    return _results[mode]


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


def test_published_sizes():
    """All parameters, and those of the temporal layers, which training may restrict itself to."""
    with no_init_parameters():
        network = VideoUNet(UNetConfig())
    sizes = {parameter.name: int(np.prod(parameter.shape)) for parameter in network.get_parameters()}
    temporal = (".temporal.", ".blend.", ".frame_embedding.")
    assert sum(sizes.values()) == 1_524_623_082
    assert sum(size for name, size in sizes.items() if any(part in name for part in temporal)) == 656_076_838
