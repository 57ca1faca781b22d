"""Every setting of the model and of sampling: one documented dataclass per component, and `load_config`."""

from svd.config.models import ImageLDMConfig, LatentModel, ModelConfig, VideoLDMConfig
from svd.config.networks import AutoencoderConfig, ImageEncoderConfig, TextEncoderConfig, UNetConfig
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
    "ModelConfig",
    "ModelScopeLayers",
    "MotionModules",
    "SamplingConfig",
    "ScheduleConfig",
    "TemporalConfig",
    "TextAttentionLayers",
    "TextEncoderConfig",
    "TextSamplingConfig",
    "TrainedRange",
    "UNetConfig",
    "VideoLDMConfig",
    "VideoLDMLayers",
    "dump_config",
    "load_config",
    "parse_config",
]
