"""Every setting of the model and of sampling: one documented dataclass per component, and `load_config`."""

from svd.config.models import (
    ImageLDMConfig,
    LatentModel,
    Model,
    ModelConfig,
    UpsamplerConfig,
    VideoDiffusionConfig,
    VideoLDMConfig,
)
from svd.config.networks import AutoencoderConfig, ImageEncoderConfig, TextEncoderConfig, UNetConfig
from svd.config.reading import dump_config, load_config, parse_config
from svd.config.sampling import PixelSamplingConfig, SamplingConfig, ScheduleConfig, TextSamplingConfig, TrainedRange
from svd.config.temporal import ModelScopeLayers, MotionModules, TemporalConfig, TextAttentionLayers, VideoLDMLayers
from svd.config.upsampler import LowResolutionConfig, UpsamplerUNetConfig, UpsamplingConfig
from svd.errors import ConfigError
