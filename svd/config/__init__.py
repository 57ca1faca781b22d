"""Every setting of the model and of sampling: one documented dataclass per component, and `load_config`."""

from svd.config.models import ModelConfig
from svd.config.networks import AutoencoderConfig, ImageEncoderConfig, UNetConfig
from svd.config.reading import dump_config, load_config, parse_config
from svd.config.sampling import SamplingConfig, TrainedRange
from svd.errors import ConfigError

__all__ = [
    "AutoencoderConfig",
    "ConfigError",
    "ImageEncoderConfig",
    "ModelConfig",
    "SamplingConfig",
    "TrainedRange",
    "UNetConfig",
    "dump_config",
    "load_config",
    "parse_config",
]
