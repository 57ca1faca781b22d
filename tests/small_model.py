"""A small random model, for tests that need a network but no particular one: its graphs compile in seconds."""

import numpy as np
from mindspore import Tensor, nn

from svd.build import build_networks
from svd.config import AutoencoderConfig, ImageEncoderConfig, ModelConfig, SamplingConfig, UNetConfig
from svd.models.svd import pipeline
from svd.pipelines.image_to_video import ImageToVideo

SMALL = ModelConfig(
    unet=UNetConfig(
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[2],
        num_head_channels=16,
        context_dim=16,
        vector_dim=24,
    ),
    autoencoder=AutoencoderConfig(channels=32, channel_mult=[1, 2], num_res_blocks=1),
    image_encoder=ImageEncoderConfig(width=32, layers=1, heads=2, patch_size=4, image_size=8, output_dim=16),
    sampling=SamplingConfig(num_frames=3, height=16, width=24, sampling_steps=2, guidance=[1.0, 2.5]),
)
"""Two levels, of which one has transformers; its videos are 3 frames of 16 x 24, its latents 8 x 12."""


def fill(network: nn.Cell, seed: int = 0) -> nn.Cell:
    """Give every parameter a random value that keeps activations near 1, and return the network."""
    generator = np.random.default_rng(seed)
    for parameter in network.get_parameters():
        noise = generator.standard_normal(parameter.shape)
        if parameter.ndim > 1:
            value = noise / np.sqrt(np.prod(parameter.shape[1:]))
        elif parameter.name.endswith("mix_factor"):
            value = noise  # blends well apart, so that a swap of their branches shows
        elif "norm" in parameter.name and parameter.name.endswith("weight"):
            value = 1 + 0.2 * noise
        else:
            value = 0.2 * noise
        parameter.set_data(Tensor(value.astype(np.float32)))
    return network.set_train(False)


def build_small_pipe() -> ImageToVideo:
    """A pipeline of `SMALL`, with the same weights every time."""
    networks = build_networks(SMALL)
    for seed, network in enumerate(networks.values()):
        fill(network, seed)
    return pipeline(SMALL, networks, free_memory=lambda: 10**9)
