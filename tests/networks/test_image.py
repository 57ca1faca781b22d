"""The UNet of an image model: frames are images, and its weights are the spatial ones of a video model."""

from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_close
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters
from small_model import SMALL, fill

from svd.config import ImageLDMConfig, TextEncoderConfig, UNetConfig
from svd.layers.attention import DotProductAttention
from svd.layers.marks import spatial_parameters, temporal_parameters, zero_init_names
from svd.networks.blocks.image import image_unet
from svd.networks.blocks.svd import svd_unet
from svd.networks.unet import UNet

RNG = np.random.default_rng(0)
TEXT = TextEncoderConfig(width=16, heads=2)
UNET = replace(SMALL.unet, in_channels=4, vector_dim=None)
X = RNG.standard_normal((2, 2, 4, 4, 6)).astype(np.float32)
C_NOISE = np.array([901, 3], np.float32)
CONTEXT = RNG.standard_normal((2, 7, 16)).astype(np.float32)


def small_unet(unet: UNetConfig = UNET) -> UNet:
    return fill(image_unet(ImageLDMConfig(unet=unet, text_encoder=TEXT)))


@pytest.fixture(scope="module")
def networks() -> dict[int, UNet]:
    return {mode: small_unet() for mode in (0, 1)}


def run(network: UNet, x=X, c_noise=C_NOISE, context=CONTEXT) -> np.ndarray:
    return network(*map(Tensor, (x, c_noise, context))).asnumpy()


def test_frames_are_images_of_their_clips_prompt_and_noise_level(mode, networks):
    network = networks[mode]
    together = run(network)
    alone = run(network, X.reshape(4, 1, 4, 4, 6), C_NOISE.repeat(2), CONTEXT.repeat(2, 0))
    assert_close(together, alone.reshape(together.shape))
    for changed in ({"x": X[[1, 1]]}, {"c_noise": C_NOISE[[1, 1]]}, {"context": CONTEXT[[1, 1]]}):
        result = run(network, **changed)
        assert np.abs(result[0] - together[0]).max() > 0.01, changed
        assert_close(result[1], together[1])


def test_weights_are_the_spatial_ones_of_a_video_model():
    """By name and shape, but for what a vector and an image add."""
    with no_init_parameters():
        image, video = small_unet(), svd_unet(SMALL.unet)
    spatial = {parameter.name: parameter.shape for parameter in spatial_parameters(video)}
    spatial = {name: shape for name, shape in spatial.items() if not name.startswith(("vector_embedding", "conv_in"))}
    ours = {parameter.name: parameter.shape for parameter in image.get_parameters()}
    assert {name: shape for name, shape in ours.items() if not name.startswith("conv_in")} == spatial
    assert temporal_parameters(image) == []
    assert zero_init_names(image) == {name for name in zero_init_names(video) if name in ours}


def test_scores_are_upcast_where_the_configuration_says_so():
    for upcast in (False, True):
        with no_init_parameters():
            network = small_unet(replace(UNET, upcast_attention=upcast))
        cells = [cell for _, cell in network.cells_and_names() if isinstance(cell, DotProductAttention)]
        assert len(cells) == 8 and {cell.attention.upcast for cell in cells} == {upcast}


@pytest.mark.parametrize(
    "heads, width, parameters",
    [({"num_heads": 8}, 768, 859_520_964), ({"num_head_channels": 64}, 1024, 865_910_724)],
    ids=["sd1", "sd2"],
)
def test_published_sizes(heads, width, parameters):
    unet = UNetConfig(in_channels=4, context_dim=width, vector_dim=None, **heads)
    with no_init_parameters():
        network = image_unet(ImageLDMConfig(unet=unet, text_encoder=TextEncoderConfig(width=width, heads=8)))
    assert sum(int(np.prod(parameter.shape)) for parameter in network.get_parameters()) == parameters
