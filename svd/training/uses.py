"""Which settings a training uses: an unused one is refused unless it has its default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Optional

from svd.errors import ConfigError
from svd.records import differing
from svd.training.config import TrainConfig
from svd.training.tasks import TASKS, find_task


@dataclass(frozen=True)
class Use:
    """Settings that need others, in every task that has them."""

    settings: tuple[str, ...]
    """Names below `train`."""
    by: Callable[[TrainConfig, Optional[int]], bool]
    """Whether a training with this configuration and number of cards (None: unknown) uses them."""
    what: str
    """Message if they are not used."""


USES = (
    Use(
        ("lora.alpha", "lora.modules"),
        lambda t, _: t.lora.rank > 0,
        "there are no adapters to train: give train.lora.rank",
    ),
    Use(
        ("temporal_only",),
        lambda t, _: not t.lora.rank,
        "it chooses between layers, and adapters (lora.rank) are trained instead of them",
    ),
    Use(
        ("text_encoder",),
        lambda t, _: not t.lora.rank,
        "adapters (lora.rank) are trained alone",
    ),
    Use(
        ("loss.perceptual_weight",),
        lambda t, _: t.loss.perceptual != "none",
        "it weights a perceptual loss: give train.loss.perceptual",
    ),
    Use(
        ("loss.lpips",),
        lambda t, _: t.loss.perceptual == "lpips",
        "it is for train.loss.perceptual=lpips",
    ),
    Use(
        ("consistency.huber",),
        lambda t, _: t.consistency.distance == "huber",
        "it is for train.consistency.distance=huber",
    ),
    Use(
        tuple(f"discriminator.{name}" for name in ("weight", "start", "learning_rate", "channels", "layers")),
        lambda t, _: t.discriminator.kind != "none",
        "there is no discriminator: give train.discriminator.kind",
    ),
    Use(
        ("preview.every", "preview.format", "preview.seed"),
        lambda t, _: t.preview.wanted,
        "there are no previews: give train.preview.images, train.preview.prompts for a model that is given text, or "
        "train.preview.clips for a decoder",
    ),
    Use(
        ("preview.sampling_steps",),
        lambda t, _: t.preview.sampled,
        "there are no previews that are sampled: give train.preview.images, or train.preview.prompts for a model that "
        "is given text",
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
"""All settings that are neither here nor in a task's own are used by every training."""


def check_used(train: TrainConfig, cards: Optional[int] = None) -> None:
    """Raise ConfigError for a setting that is unused here and differs from its default."""
    defaults, given = (asdict(config) for config in (TrainConfig(None), replace(train, dataset=None)))
    for name, default, value in differing(defaults, given):
        if reason := _ignored(name, train, cards):
            message = f"train.{name} is {value}, but {reason}; leave it at {default}"
            raise ConfigError(message, setting=f"train.{name}")


def _ignored(name: str, train: TrainConfig, cards: Optional[int]) -> str:
    """Why a training ignores a setting; empty if it does not."""
    users = [task for task in TASKS if _among(name, find_task(task).settings)]
    if users and not _among(name, find_task(train.task).settings):
        return f"it is for the task {' or '.join(users)}, not for {train.task}"
    return next((use.what for use in USES if name in use.settings and not use.by(train, cards)), "")


def _among(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
