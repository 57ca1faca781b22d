"""Bounds checks for settings, called by the dataclasses that own them.

Limits are far above all practical values, and far below what would exhaust any computer.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any

from svd.errors import check

LONGEST_LIST = 8
"""Levels of a network; each but one halves the resolution."""


def check_positive(component: Any, section: str) -> None:
    """Raise ConfigError unless all numbers of a component are positive and finite."""
    for name, value in vars(component).items():
        positive = not isinstance(value, (int, float)) or isinstance(value, bool) or 0 < value < inf
        check(positive, f"{section}.{name} must be positive, got {value}")


def check_most(component: Any, section: str, **most: float) -> None:
    """Raise ConfigError for a setting, or an item of one, above its limit; `section` may be empty."""
    for name, largest in most.items():
        value, where = getattr(component, name), f"{section}.{name}".lstrip(".")
        items = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        check(len(items) <= LONGEST_LIST, f"{where} must have at most {LONGEST_LIST} items, got {len(items)}")
        for item in items:
            check(abs(item) <= largest, f"{where} must be at most {largest:g}, got {_shown(item)}")


def check_levels(name: str, channels: int, channel_mult: list[int]) -> None:
    """Raise ConfigError unless the channels of all levels can be normalised in groups."""
    check(len(channel_mult) > 0, f"{name}.channel_mult must name at least one level")
    for level in (1, *channel_mult):
        check(
            level > 0 and level * channels % 32 == 0,
            f"{name}: the {level * channels} channels of a level are not a multiple of 32 (of the groups they are "
            "normalised in)",
        )


def check_unet_levels(unet: Any) -> None:
    """`check_levels` of a UNet, and raise ConfigError unless the levels that have attention exist."""
    check_levels("unet", unet.model_channels, unet.channel_mult)
    factors, chosen = [2**i for i in range(len(unet.channel_mult))], unet.attention_resolutions
    message = f"unet.attention_resolutions must be among the levels' factors {factors}, got {chosen}"
    check(set(chosen) <= set(factors), message)


def check_heads(name: str, divisor: int, channels: Iterable[int]) -> None:
    """Raise ConfigError unless attention heads, or the channels of one, divide these channels of levels."""
    for count in channels:
        check(count % divisor == 0, f"{name} {divisor} does not divide a level's {count} channels")


def check_divides(component: Any, section: str, divisor: str, of: str) -> None:
    """Raise ConfigError unless one setting of a component divides another."""
    part, whole = getattr(component, divisor), getattr(component, of)
    check(whole % part == 0, f"{section}.{divisor} {part} does not divide {section}.{of} {whole}")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"a number of {len(text)} digits"
