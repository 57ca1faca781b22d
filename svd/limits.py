"""How large settings may be: far beyond all that has been used, and far below what no computer could do."""

from __future__ import annotations

from typing import Any, Optional

MOST = {
    "UNetConfig": {
        "in_channels": 512,
        "out_channels": 256,
        "model_channels": 8192,
        "channel_mult": 64,
        "num_res_blocks": 16,
        "num_head_channels": 8192,
        "context_dim": 16384,
        "vector_dim": 65536,
    },
    "AutoencoderConfig": {
        "channels": 4096,
        "channel_mult": 64,
        "num_res_blocks": 16,
        "latent_channels": 256,
        "scale_factor": 1e6,
    },
    "ImageEncoderConfig": {
        "width": 16384,
        "layers": 256,
        "heads": 1024,
        "patch_size": 4096,
        "image_size": 4096,
        "output_dim": 16384,
    },
    "SamplingConfig": {
        "num_frames": 1024,
        "height": 8192,
        "width": 8192,
        "fps": 1000,
        "motion_bucket_id": 10_000,
        "noise_aug_strength": 100,
        "sampling_steps": 10_000,
        "churn": 100_000,
        "guidance": 1000,
        "sigma_max": 1e6,
        "rho": 1000,
        "decode_chunk_size": 1024,
        "decode_overlap": 1024,
        "decode_tile_size": 8192,
        "decode_memory_gb": 1e6,
    },
}
"""The largest value of a field, or of each item of a list, by the class of its configuration."""

LONGEST_LIST = 8
"""Levels of a network; each but one halves the resolution."""

MOST_PARAMETERS = 20e9
"""Stable Video Diffusion has 2.3 billion, all networks together."""

MOST_TOKENS = 2**16
"""Patches of an image."""


def beyond(component: Any) -> Optional[str]:
    """What is too large in a configuration, as `field must be at most ...`; None if nothing is."""
    for name, most in MOST[type(component).__name__].items():
        value = getattr(component, name)
        items = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if len(items) > LONGEST_LIST:
            return f"{name} must have at most {LONGEST_LIST} items, got {len(items)}"
        for item in items:
            if not abs(item) <= most:
                return f"{name} must be at most {most:g}, got {_shown(item)}"
    return None


def about_parameters(unet: Any, autoencoder: Any, image_encoder: Any) -> float:
    """How many parameters such networks have, within a factor of two, computed without building them."""
    return (
        sum(_ladder(unet.model_channels, unet.channel_mult, 2 * unet.num_res_blocks + 2, 64))
        + sum(_ladder(autoencoder.channels, autoencoder.channel_mult, 2 * autoencoder.num_res_blocks + 2, 30))
        + 12 * image_encoder.layers * image_encoder.width**2
    )


def _ladder(channels: int, mult: list[int], blocks: int, weights: int):
    """Of a ladder of levels the parameters of each, with so many blocks of `weights` * channels^2."""
    return (blocks * weights * (level * channels) ** 2 for level in mult)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"a number of {len(text)} digits"
