"""Which settings belong to which training: one that would be ignored is refused, unless it is as it is by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Optional

from svd.config import ConfigError
from svd.training.config import TrainConfig

UNET = ("image_to_video", "image_model")
"""The tasks of the UNet: it learns from noisy latents, and makes videos that can be looked at."""


@dataclasses.dataclass(frozen=True)
class Use:
    """Settings that some trainings use, and others do not."""

    settings: tuple[str, ...]
    """Names below `train`; that of a part stands for all that is in it."""
    by: Callable[[TrainConfig, Optional[int]], bool]
    """Whether a training of this configuration, on so many cards (None: not known yet), uses them."""
    what: str
    """What they are for, where `by` says no; {task} is the task."""


def _loss(*names: str) -> tuple[str, ...]:
    return tuple(f"loss.{name}" for name in names)


USES = (
    Use(("lora",), lambda t, _: t.task == "image_to_video", "lora is for the task image_to_video, not for {task}"),
    Use(
        ("lora.alpha", "lora.modules"),
        lambda t, _: t.lora.rank > 0,
        "there are no adapters to train: give train.lora.rank",
    ),
    Use(
        ("temporal_only",),
        lambda t, _: t.task == "image_to_video" and not t.lora.rank,
        "it chooses between the layers of the task image_to_video, where it trains no adapters (lora.rank)",
    ),
    Use(
        _loss("p_mean", "p_std", "noise_aug_mean", "noise_aug_std", "drop_context", "drop_concat"),
        lambda t, _: t.task in UNET,
        "the task {task} has no noise levels and no conditioning",
    ),
    Use(
        _loss("kl_weight"),
        lambda t, _: t.task == "autoencoder",
        "it is for the task autoencoder: only there the encoder learns",
    ),
    Use(("preview.images",), lambda t, _: t.task in UNET, "previews are videos: the task {task} makes none"),
    Use(
        ("preview.every", "preview.format", "preview.sampling_steps", "preview.seed"),
        lambda t, _: bool(t.preview.images),
        "there are no previews: give train.preview.images",
    ),
    Use(
        ("item_seconds",),
        lambda t, _: t.workers > 0,
        "clips are loaded in the training process, which has no limit: give train.workers",
    ),
    Use(
        ("shard_optimizer",),
        lambda t, cards: cards != 1,
        "there is one card, which has all states: it is for several (scripts/train_ascend.sh)",
    ),
)
"""All that is not named here is used by every training."""


def check_used(train: TrainConfig, cards: Optional[int] = None) -> None:
    """Raise ConfigError for a setting that this training would ignore and that differs from its default."""
    default = dict(settings(TrainConfig(train.dataset)))
    for name, value in settings(train):
        for use in USES:
            named = any(name == setting or name.startswith(f"{setting}.") for setting in use.settings)
            if named and value != default[name] and not use.by(train, cards):
                what = use.what.format(task=train.task)
                raise ConfigError(f"train.{name} is {value}, but {what}; leave it at {default[name]}")


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of every setting; those of a part are named `part.setting`. The dataset's are its own."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value
