"""Every setting of the model and of sampling: one documented dataclass per component, and `load_config`."""

from svd.config.models import ImageLDMConfig, LatentModel, Model, ModelConfig, VideoDiffusionConfig, VideoLDMConfig
from svd.config.networks import AutoencoderConfig, ImageEncoderConfig, TextEncoderConfig, UNetConfig
from svd.config.pixel_sampling import PixelSamplingConfig
from svd.config.reading import dump_config, load_config, parse_config
from svd.config.sampling import SamplingConfig, TrainedRange
from svd.config.schedule import ScheduleConfig
from svd.config.temporal import (
    ModelScopeLayers,
    MotionModules,
    TemporalConfig,
    TextAttentionLayers,
    VideoLDMLayers,
)
from svd.config.text_sampling import TextSamplingConfig
from svd.errors import ConfigError

__all__ = [
    "AutoencoderConfig",
    "ConfigError",
    "ImageEncoderConfig",
    "ImageLDMConfig",
    "LatentModel",
    "Model",
    "ModelConfig",
    "ModelScopeLayers",
    "MotionModules",
    "PixelSamplingConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "TemporalConfig",
    "TextAttentionLayers",
    "TextEncoderConfig",
    "TextSamplingConfig",
    "TrainedRange",
    "UNetConfig",
    "VideoDiffusionConfig",
    "VideoLDMConfig",
    "VideoLDMLayers",
    "dump_config",
    "load_config",
    "parse_config",
]
