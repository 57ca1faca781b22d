"""The UNet in pixel space: images beside videos, independent clips, temporal layers apart."""

import mindspore as ms
import numpy as np
import pytest
from comparison import assert_close
from device import DEVICE
from mindspore import Tensor, ops
from small_model import fill

from svd import runtime
from svd.config import ConfigError
from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig, PixelVideoLDMLayers
from svd.layers.marks import temporal_parameters, zero_init_names
from svd.networks.pixel_unet import PixelUNet

CONFIG = PixelUNetConfig(2, 32, [1, 2], 1, [2], num_head_channels=16, context_dim=12)
VIDEO = PixelTemporalConfig(FactorisedAttention(distance=3))
RNG = np.random.default_rng(0)
CLIP = RNG.standard_normal((2, 4, 2, 8, 8)).astype(np.float32)
IMAGES = RNG.standard_normal((2, 2, 2, 8, 8)).astype(np.float32)
C_NOISE = np.array([120.0, 800.0], np.float32)
TEXT = RNG.standard_normal((2, 3, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> PixelUNet:
    return fill(PixelUNet(CONFIG, VIDEO))


def run(network, x, c_noise=C_NOISE, text=TEXT, image_only=False, independent=None) -> np.ndarray:
    independent = None if independent is None else Tensor(independent)
    return network(Tensor(x), Tensor(c_noise), Tensor(text), None, image_only, independent).asnumpy()


def test_images_that_are_appended_change_no_video_and_no_other_image(eager, network):
    """Joint training on images and videos (arXiv 2204.03458, section 4.3.1); the graph computes the same."""
    frames, independent = np.concatenate([CLIP, IMAGES], 1), np.repeat([[False] * 4 + [True] * 2], 2, 0)
    both = run(network, frames, independent=independent)
    assert_close(both[:, :4], run(network, CLIP))
    alone = [run(network, IMAGES[:, i : i + 1]) for i in range(2)]
    assert_close(both[:, 4:], np.concatenate(alone, 1))
    runtime.setup(DEVICE, 0)
    assert_close(run(network, frames, independent=independent), both)


def test_without_its_temporal_layers_it_is_the_image_network(eager, network):
    image = fill(PixelUNet(CONFIG, PixelTemporalConfig()))
    for name, parameter in image.parameters_dict().items():
        parameter.set_data(network.parameters_dict()[name])
    result = run(network, CLIP, image_only=True)
    np.testing.assert_array_equal(result, run(image, CLIP))
    frames = CLIP.reshape(8, 1, 2, 8, 8)
    assert_close(result.reshape(frames.shape), run(image, frames, C_NOISE.repeat(4), TEXT.repeat(4, 0)))
    assert np.abs(result - run(network, CLIP)).max() > 0.01


def test_clips_are_independent_and_of_any_length(eager, network):
    long = np.concatenate([CLIP, IMAGES], 1)
    alone = [run(network, long[i : i + 1], C_NOISE[i : i + 1], TEXT[i : i + 1]) for i in (0, 1)]
    assert_close(run(network, long), np.concatenate(alone))


def test_frames_may_have_noise_levels_of_their_own(eager, network):
    per_frame = np.repeat(C_NOISE[:, None], 4, 1)
    assert_close(run(network, CLIP, per_frame), run(network, CLIP))
    per_frame[:, 2] = 5.0
    assert np.abs(run(network, CLIP, per_frame) - run(network, CLIP)).max() > 0.01


def test_video_ldm_begins_as_its_image_model_and_blends_its_layers(eager, network):
    layers = PixelVideoLDMLayers(distance=3, alpha="clamped")
    video = fill(PixelUNet(CONFIG, PixelTemporalConfig(video_ldm=layers)))
    result, image = run(video, CLIP), run(video, CLIP, image_only=True)
    assert np.abs(result - image).max() > 0.01
    assert_close(run(video, CLIP[:, [1, 0, 2, 3]], image_only=True), image[:, [1, 0, 2, 3]])
    for parameter in video.get_parameters():
        if parameter.name.endswith("blend.alpha"):
            parameter.set_data(Tensor([1.0], ms.float32))
    assert_close(run(video, CLIP), image)
    silent = fill(PixelUNet(CONFIG, PixelTemporalConfig(video_ldm=PixelVideoLDMLayers())))
    for name in zero_init_names(silent):
        if ".temporal." in name:
            parameter = silent.parameters_dict()[name]
            parameter.set_data(ops.zeros_like(parameter))
    assert_close(run(silent, CLIP), run(silent, CLIP, image_only=True))
    with pytest.raises(ValueError, match="not in convolutions"):
        run(video, CLIP, independent=np.ones((2, 4), bool))


def test_temporal_layers_are_marked(network):
    marked = {parameter.name for parameter in temporal_parameters(network)}
    assert (
        marked == {name for name in network.parameters_dict() if ".temporal." in name or ".blend." in name} and marked
    )


def test_a_reference_network_takes_one_number_of_frames(eager):
    network = fill(PixelUNet(CONFIG, PixelTemporalConfig(FactorisedAttention(distance=3, reference=True))))
    run(network, CLIP)
    with pytest.raises(ValueError, match="takes 4 frames"):
        run(network, CLIP[:, :3])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_head_channels": 24}, "num_head_channels 24 does not divide"),
        ({"attention_resolutions": [3]}, "attention_resolutions must be among"),
        ({"model_channels": 30}, "not a multiple of 32"),
        ({"num_res_blocks": 0}, "num_res_blocks must be positive"),
    ],
)
def test_networks_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PixelUNetConfig(**settings)
