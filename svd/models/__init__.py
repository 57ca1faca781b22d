"""The kinds of models. The module of a kind has `parts(config)`, its networks, and `pipeline(config, networks,
free_memory)`, which assembles them.
"""

from types import ModuleType

from svd.config import ModelConfig
from svd.models import svd

MODELS: dict[type, ModuleType] = {ModelConfig: svd}
"""Modules by the configuration class of a kind (svd.config.models.KINDS)."""


def model_of(config: ModelConfig) -> ModuleType:
    """The module of a configuration's kind of model."""
    return MODELS[type(config)]
