"""The kinds of models. The module of a kind says which networks it has, `parts(config)`, and puts them together,
`pipeline(config, networks, free_memory)`.
"""

from types import ModuleType

from svd.config import ModelConfig
from svd.models import svd

MODELS: dict[type, ModuleType] = {ModelConfig: svd}
"""By the class of a model's settings (svd.config.models.KINDS)."""


def model_of(config: ModelConfig) -> ModuleType:
    """The module of the kind of model that these settings are of."""
    return MODELS[type(config)]
