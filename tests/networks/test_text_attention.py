"""srpkdyy/VideoLDM: the values of tests/golden_family/videoldm_srpkdyy, at the tolerances that the set comes with."""

import re
from pathlib import Path

import numpy as np
import pytest
from comparison import assert_close
from foreign_weights import diffusers_names, load_foreign
from mindspore import Tensor
from mindspore.nn import Cell
from safetensors.numpy import load_file

from svd.config import TemporalConfig, TextAttentionLayers, TextEncoderConfig, UNetConfig, VideoLDMConfig
from svd.layers.blend import Blend
from svd.layers.temporal import FrameConvolutions
from svd.networks.blocks.image import image_unet
from svd.networks.blocks.text_attention import TextAttention
from svd.networks.blocks.video_ldm import video_unet
from svd_tools.checkpoints.names.text_unet import TEXT_ATTENTION

FOLDER = Path(__file__).parents[1] / "golden_family" / "videoldm_srpkdyy"
CLIPS, FRAMES = 2, 5
LAYER, NETWORK = 2e-5, 1e-4
CONFIG = VideoLDMConfig(
    unet=UNetConfig(
        in_channels=4,
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[1],
        num_heads=4,
        context_dim=24,
        vector_dim=None,
        convolution_projection=True,
    ),
    text_encoder=TextEncoderConfig(width=24, heads=2),
    temporal=TemporalConfig(text_attention=TextAttentionLayers(heads=4)),
)
NAMES = diffusers_names(TEXT_ATTENTION, CONFIG)


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "values.npz") as values:
        return dict(values)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return load_file(FOLDER / "weights.safetensors")


@pytest.fixture(scope="module")
def layer_weights() -> dict[str, np.ndarray]:
    return load_file(FOLDER / "weights_layers.safetensors")


def clips(x: np.ndarray) -> Tensor:
    """[(b t) ...] -> [b t ...]"""
    return Tensor(x.reshape(CLIPS, FRAMES, *x.shape[1:]))


class Blended(Cell):
    """A temporal layer and its blend by themselves."""

    def __init__(self, temporal: Cell):
        super().__init__()
        self.temporal, self.blend = temporal, Blend(clamped=True)

    def construct(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.blend(x, self.temporal(x, *others))


def load_layer(layer: Blended, weights: dict[str, np.ndarray], place: str, name: str) -> Blended:
    """The weights of this name; in the network, the layer would be at this place, under theirs."""

    def names(ours: str) -> tuple[str, str]:
        theirs, transform = NAMES(f"down_blocks.0.{place}.0.{ours}")
        return theirs.split(".0.", 2)[2], transform

    prefix = f"{name}."
    state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return load_foreign(layer, state, names, "dummy")


def test_convolutions(mode, values, layer_weights):
    layer = load_layer(Blended(FrameConvolutions(64, 2, residual=False)), layer_weights, "resnets", "conv3d")
    result = layer(clips(values["layer_x"]))
    assert_close(result.reshape(values["conv3d_out"].shape), values["conv3d_out"], LAYER)


def test_attention_of_two_clips(mode, values, layer_weights):
    """Each attends to its own text, for which the reference had to be repaired."""
    layer = load_layer(Blended(TextAttention(64, 4, 24)), layer_weights, "attentions", "text_attn")
    constants = layer.temporal.constants(Tensor(values["layer_text"]), FRAMES)
    result = layer(clips(values["layer_x"]), *constants)
    assert_close(result.reshape(values["text_attn_out"].shape), values["text_attn_out"], LAYER)


def inputs_of(values: dict[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    return clips(values["unet_x"]), Tensor(values["unet_timestep"].astype(np.float32)), Tensor(values["unet_text"])


def test_network(mode, values, weights):
    network = load_foreign(video_unet(CONFIG), weights, NAMES, "dummy")
    result = network(*inputs_of(values))
    assert_close(result.reshape(values["unet_out"].shape), values["unet_out"], NETWORK)


def test_image_network(eager, values, weights):
    """By itself, and within the video network."""
    spatial = {name: value for name, value in weights.items() if not re.search("conv3ds|tempo_attns", name)}
    image = load_foreign(image_unet(CONFIG), spatial, NAMES)
    video = load_foreign(video_unet(CONFIG), weights, NAMES, "dummy")
    for result in (image(*inputs_of(values)), video(*inputs_of(values), None, True)):
        assert_close(result.reshape(values["image_out"].shape), values["image_out"], NETWORK)
