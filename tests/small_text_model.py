"""Small random models that are given text: their graphs compile in seconds."""

from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from small_checkpoint import random_tensors
from small_model import fill
from small_text import SMALL_TEXT, small_tokenizer

from svd.build import build_networks
from svd.config import (
    AutoencoderConfig,
    ImageLDMConfig,
    TextSamplingConfig,
    UNetConfig,
    VideoLDMConfig,
    dump_config,
)
from svd.models import model_of
from svd.pipelines.text_to_video import TextToVideo

PARTS = {
    "unet": UNetConfig(
        in_channels=4,
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[2],
        num_heads=2,
        context_dim=16,
        vector_dim=None,
    ),
    "autoencoder": AutoencoderConfig(channels=32, channel_mult=[1, 2], num_res_blocks=1, decoder="image"),
    "text_encoder": SMALL_TEXT,
}
SMALL_IMAGE = ImageLDMConfig(**PARTS, sampling=TextSamplingConfig(height=16, width=24, sampling_steps=2))
"""Its images are 16 x 24, its latents 8 x 12."""
SMALL_VIDEO = VideoLDMConfig(**PARTS, sampling=TextSamplingConfig(num_frames=3, height=16, width=24, sampling_steps=2))
"""VideoLDM's own temporal layers over the same networks."""
METADATA = {"tokenizer": small_tokenizer().to_metadata()}


@cache
def small_text_pipe(kind: str, mode: int) -> TextToVideo:
    """A pipeline of SMALL_IMAGE or SMALL_VIDEO for a mode, with the same weights every time; its graphs are kept."""
    return build_text_pipe({"image": SMALL_IMAGE, "video": SMALL_VIDEO}[kind])


def build_text_pipe(config: ImageLDMConfig) -> TextToVideo:
    networks = build_networks(config)
    for seed, network in enumerate(networks.values()):
        fill(network, seed)
    return model_of(config).pipeline(config, networks, lambda: 10**9, METADATA)


def write_text_checkpoint(path: Path, config: ImageLDMConfig, metadata: dict[str, str] | None = None) -> Path:
    """A checkpoint of the random model, with a tokenizer unless other metadata are given."""
    metadata = METADATA if metadata is None else metadata
    tensors: dict[str, np.ndarray] = random_tensors(config)
    save_file(tensors, path, {"format": "svd-mindspore", "config": dump_config(config), **metadata})
    return path
