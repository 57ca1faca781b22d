"""No setting of a model, or of sampling, is ignored: each changes the networks, the video or what is said of it."""

import warnings
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from small_model import SMALL, build_small_pipe

from svd import runtime
from svd.autoencoder.autoencoder import Autoencoder
from svd.build import build_networks
from svd.config import ConfigError, ModelConfig, SamplingConfig
from svd.diffusion.loss import loss_coefficients
from svd.diffusion.preconditioning import PRECONDITIONINGS

WIDER = replace(SMALL, unet=replace(SMALL.unet, model_channels=64))
"""Of channels that divide into other heads too."""
MODEL = {
    "unet.in_channels": 10,
    "unet.out_channels": 5,
    "unet.model_channels": 96,
    "unet.channel_mult": [2, 2],
    "unet.num_res_blocks": 2,
    "unet.attention_resolutions": [1],
    "unet.num_head_channels": 32,
    "unet.num_heads": 2,
    "unet.context_dim": 32,
    "unet.vector_dim": 48,
    "unet.upcast_attention": True,
    "unet.convolution_projection": True,
    "autoencoder.channels": 64,
    "autoencoder.channel_mult": [1, 1],
    "autoencoder.num_res_blocks": 2,
    "autoencoder.latent_channels": 8,
    "autoencoder.scale_factor": 0.5,
    "autoencoder.decoder": "image",
    "image_encoder.width": 64,
    "image_encoder.layers": 2,
    "image_encoder.heads": 4,
    "image_encoder.patch_size": 2,
    "image_encoder.image_size": 16,
    "image_encoder.output_dim": 32,
    "preconditioning": "edm",
}
"""Another value for each setting of the networks and of the noise model."""


def observed(config: ModelConfig) -> list:
    """The networks' parameters and numbers, with the heads of attentions in cells that are shared; the latents' scale;
    and the coefficients of the noise model."""
    numbers, shapes = [], []
    for prefix, network in build_networks(config).items():
        shapes += [(prefix, parameter.name, parameter.shape) for parameter in network.get_parameters()]
        for name, cell in network.cells_and_names():
            numbers += [(prefix, name, k, v) for k, v in sorted(vars(cell).items()) if k in ("heads", "temporal")]
            if isinstance(getattr(cell, "attention", None), nn.Cell):
                numbers.append((prefix, name, getattr(cell.attention, "heads", None)))
    halved = Autoencoder(lambda x: x, None, config.autoencoder).encode(np.ones((1, 1, 4, 2, 2), np.float32))
    coefficients = loss_coefficients(PRECONDITIONINGS[config.preconditioning], np.array([1.5]))
    return [shapes, numbers, halved.asnumpy().tolist(), coefficients.asnumpy().tolist()]


@pytest.fixture(scope="module")
def unchanged() -> list:
    """What is observed of `WIDER`."""
    runtime.setup("CPU", ms.PYNATIVE_MODE)
    return observed(WIDER)


def test_every_setting_of_a_model_is_named():
    parts = ("unet", "autoencoder", "image_encoder")
    names = {f"{part}.{field.name}" for part in parts for field in fields(getattr(SMALL, part))}
    assert names | {"preconditioning"} == MODEL.keys()
    assert {field.name for field in fields(ModelConfig)} == {*parts, "preconditioning", "sampling", "trained_range"}
    assert {field.name for field in fields(SamplingConfig)} == SAMPLING.keys()


@pytest.mark.parametrize("name", MODEL)
def test_a_setting_of_a_model_changes_it(eager, unchanged, name):
    part, _, field = name.rpartition(".")
    try:
        changed = replace(getattr(WIDER, part), **{field: MODEL[name]}) if part else MODEL[name]
        config = replace(WIDER, **{part or field: changed})
    except ConfigError as error:
        # Two parts have to fit: alone, neither can be another.
        assert name in str(error)
        return
    assert observed(config) != unchanged


SAMPLING = {
    "num_frames": (2, {}),
    "height": (24, {}),
    "width": (32, {}),
    "fps": (11, {}),
    "motion_bucket_id": (10.0, {}),
    "noise_aug_strength": (0.3, {}),
    "sampling_steps": (2, {}),
    "sampler": ("heun", {"sampling_steps": 2}),
    "churn": (1.0, {}),
    "consistency_levels": (20, {"sampling_steps": 2, "sampler": "consistency"}),
    "eta": (0.5, {"sampling_steps": 2, "sampler": "dpmpp_2m_sde"}),
    "guidance": ((2.0, 5.0), {}),
    "guidance_shape": ("triangular", {}),
    "guidance_interval": ((0.0, 1.0), {}),
    "sigma_min": (0.1, {"sampling_steps": 2}),
    "sigma_max": (80.0, {}),
    "rho": (3.0, {"sampling_steps": 3}),
    "window": (2, {}),
    "window_overlap": (0, {"num_frames": 5, "window": 4}),
    "renoise": (1, {"sampling_steps": 2}),
    "renoise_part": (1.0, {"sampling_steps": 2, "renoise": 1}),
    "reuse_every": (2, {"sampling_steps": 3}),
    "reuse_depth": (2, {"sampling_steps": 3, "reuse_every": 2}),
    "fusion": ("linear", {"last_image": Path(__file__).parents[1] / "assets/three.png"}),
    "decode_chunk_size": (2, {}),
    "decode_overlap": (2, {"decode_chunk_size": 3, "num_frames": 5}),
    "decode_tile_size": (8, {}),
    "decode_memory_gb": (1e-9, {}),
}
"""Another value for each setting of sampling, and what it needs beside it."""


@pytest.fixture(scope="module")
def pipe():
    runtime.setup("CPU", ms.PYNATIVE_MODE)
    return build_small_pipe()


@pytest.fixture(scope="module")
def draw(pipe):
    """draw(**settings): a video of one step, or its latents; each is made once."""
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return cache(lambda **settings: pipe(image, progress=False, **{"sampling_steps": 1, **settings}))


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.filterwarnings("ignore")
def test_a_setting_of_sampling_changes_the_video(eager, draw, name):
    """In latents, if it is not of decoding."""
    value, more = SAMPLING[name]
    more = {"output": "float" if name.startswith("decode") else "latents", **more}
    expected, video = draw(**more), draw(**{**more, name: value})
    assert video.shape != expected.shape or np.abs(video - expected).max() > 1e-6


@pytest.mark.parametrize("name", ["fps", "motion_bucket_id", "noise_aug_strength"])
def test_the_trained_range_decides_what_is_warned_of(eager, pipe, name):
    for bounds, count in (([0.0, 1000.0], 0), ([200.0, 300.0], 1)):
        pipe.config = replace(SMALL, trained_range=replace(SMALL.trained_range, **{name: bounds}))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            pipe._warn_outside_training(settings := pipe.settings(), [settings.motion_bucket_id])
        assert sum(str(warning.message).startswith(f"{name} ") for warning in found) == count
    pipe.config = SMALL
