"""The kinds of models. The module of a kind has `parts(config)`, its networks, and `pipeline(config, networks,
free_memory, metadata)`, which assembles them; the metadata are those of their checkpoint.
"""

from types import ModuleType

from svd.config import ImageLDMConfig, Model, ModelConfig, UpsamplerConfig, VideoDiffusionConfig, VideoLDMConfig
from svd.models import image_ldm, svd, upsampler, video_diffusion, video_ldm

MODELS: dict[type, ModuleType] = {
    ModelConfig: svd,
    ImageLDMConfig: image_ldm,
    VideoLDMConfig: video_ldm,
    VideoDiffusionConfig: video_diffusion,
    UpsamplerConfig: upsampler,
}
"""Modules by the configuration class of a kind (svd.config.models.KINDS)."""


def model_of(config: Model) -> ModuleType:
    """The module of a configuration's kind of model."""
    return MODELS[type(config)]
