"""What can be trained, each found by its name or, outside of this project, by the path of its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Optional, Protocol

from svd.console import one_line
from svd.errors import ConfigError, check

if TYPE_CHECKING:  # MindSpore takes seconds to import, and the names are known without it
    from mindspore import Parameter, nn

    from svd.config import ModelConfig
    from svd.training.config import TrainConfig
    from svd.training.trainer import Objective

TASKS = {
    "image_to_video": "svd.training.tasks.video.IMAGE_TO_VIDEO",
    "image_model": "svd.training.tasks.video.IMAGE_MODEL",
    "autoencoder": "svd.training.tasks.autoencoder.AUTOENCODER",
    "temporal_decoder": "svd.training.tasks.autoencoder.TEMPORAL_DECODER",
}
"""Where they are; imported when they are asked for. A program may add its own."""


@dataclass(frozen=True)
class Plan:
    """A training that can be done: what learns is known, also where its networks have no values yet."""

    train: TrainConfig
    model: ModelConfig
    networks: Mapping[str, nn.Cell]
    """By the prefix of their parameters' names in a checkpoint."""
    chosen: dict[str, list[Parameter]]
    """The parameters to train, of each network that learns."""

    @cached_property
    def trained(self) -> dict[str, Parameter]:
        """The parameters to train, by their names in a checkpoint (an objective may rename them)."""
        return {f"{prefix}.{p.name}": p for prefix, parameters in self.chosen.items() for p in parameters}


class Task(Protocol):
    """What can be trained."""

    settings: tuple[str, ...]
    """What it uses of the settings below `train` that not every task uses; `lora` stands for all that begins so."""
    complete: bool
    """Whether what it trains makes videos as it is; otherwise another training follows."""

    def check(self, train: TrainConfig, model: ModelConfig) -> None:
        """Raise ConfigError where it cannot be done with these data, or by this model."""

    def needs(self, train: TrainConfig) -> Optional[tuple[str, ...]]:
        """The prefixes of the networks that it cannot do without; None for all."""

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        """The parameters to train, of each network that learns, by its prefix."""

    def build(self, plan: Plan) -> Objective:
        """What is minimised, once the networks have their values."""


def find_task(name: str) -> Task:
    """A task by its name, or by the path of its class; raises ConfigError."""
    known = f"train.task must be one of {', '.join(TASKS)}, or the path of a class, got {name}"
    check(name in TASKS or "." in name, known)
    module, _, attribute = TASKS.get(name, name).rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
        task = found() if isinstance(found, type) else found
        if not hasattr(task, "settings"):
            raise TypeError("it is no task")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"train.task {name} cannot be found: {one_line(error)}", setting="train.task") from error
    return task
