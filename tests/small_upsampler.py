"""Small random upsamplers: of pixels, with temporal layers, and without."""

from dataclasses import replace
from pathlib import Path

from safetensors.numpy import save_file
from small_checkpoint import random_tensors

from svd.config import (
    LowResolutionConfig,
    TemporalConfig,
    UpsamplerConfig,
    UpsamplerUNetConfig,
    UpsamplingConfig,
    dump_config,
)

SMALL_UPSAMPLER = UpsamplerConfig(
    unet=UpsamplerUNetConfig(
        in_channels=6,
        out_channels=3,
        model_channels=32,
        channel_mult=[2],  # of 32 channels each would be a group, from which normalisation takes what is told
        num_res_blocks=1,
        attention_resolutions=[],
        cross_attention_only=[],
        num_heads=2,
        context_dim=16,
        noise_level="sinusoids",
    ),
    autoencoder=None,
    text_encoder=None,
    temporal=TemporalConfig(),
    low_resolution=LowResolutionConfig(factor=2),
    sampling=UpsamplingConfig(sampling_steps=2, guidance=1.0, window=4, window_overlap=1),
)
"""In pixel space, of a single level."""
SMALL_IMAGES = replace(SMALL_UPSAMPLER, temporal=None)
"""Its image model."""


def write_upsampler(path: Path, config: UpsamplerConfig = SMALL_UPSAMPLER) -> Path:
    tensors = random_tensors(config)
    save_file(tensors, path, {"format": "svd-mindspore", "config": dump_config(config)})
    return path
