"""VideoLDM and its kin: text to video, by temporal layers between the spatial ones of an image model."""

from __future__ import annotations

from svd.config import VideoLDMConfig
from svd.models.image_ldm import build_conditioner, pipeline, text_parts
from svd.models.part import Part
from svd.networks.blocks.video_ldm import video_unet

__all__ = ["build_conditioner", "parts", "pipeline"]


def parts(config: VideoLDMConfig) -> tuple[Part, ...]:
    """The networks."""
    return text_parts(config, lambda: video_unet(config))
