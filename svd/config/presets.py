"""Presets: named combinations of sampling settings, from the fewest evaluations of the network to all of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Optional, get_args

from svd.config.models import ModelConfig
from svd.errors import ConfigError

Preset = Literal["fast", "balanced", "reference"]
_WITHOUT_NOISE = {"churn": 0.0, "eta": 1.0, "renoise": 0, "renoise_part": 0.5}
"""What other solvers than euler and heun do not have."""
PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType({
    "fast": {"sampler": "dpmpp_2m", "sampling_steps": 8, **_WITHOUT_NOISE},
    "balanced": {"sampler": "unipc", "sampling_steps": 15, **_WITHOUT_NOISE},
    "reference": {},
})  # fmt: skip
"""Their settings; all others are the model's own."""


def with_preset(model: ModelConfig, preset: Optional[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a preset, and what was given, which overrides them.

    Raises ConfigError for a preset that does not exist, that is not for this model, or of which nothing is left.
    """
    if preset is None:
        return dict(given)
    if preset not in get_args(Preset):
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {preset}", "preset")
    settings = PRESETS[preset]
    if settings and model.sampling.sampler == "consistency":
        raise ConfigError(
            f"the model is distilled, to few steps of the sampler consistency: preset {preset} is for others, leave it "
            "out",
            "preset",
        )
    if settings and settings.keys() <= given.keys():
        raise ConfigError(
            f"preset {preset} is given, and each of its settings too ({', '.join(settings)}): leave out either",
            "preset",
        )
    return {**settings, **given}


def overridden(preset: Optional[str], given: Mapping[str, Any]) -> list[str]:
    """The settings of a preset that were given with another value."""
    settings = PRESETS.get(preset, {})
    return [name for name, value in given.items() if name in settings and value != settings[name]]
