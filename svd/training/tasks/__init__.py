"""Training tasks, found by name or by the path of their class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Optional, Protocol

import numpy as np

from svd.console import one_line
from svd.errors import ConfigError, check

if TYPE_CHECKING:  # MindSpore takes seconds to import, which the names do not need
    from mindspore import Parameter, nn

    from svd.config import LatentModel
    from svd.data.latents_dataset import EncodedClip
    from svd.data.video_dataset import Clip
    from svd.training.config import TrainConfig
    from svd.training.trainer import Objective

TASKS = {
    "image_to_video": "svd.training.tasks.video.IMAGE_TO_VIDEO",
    "consistency": "svd.training.tasks.consistency.ConsistencyTask",
    "image_model": "svd.training.tasks.video.IMAGE_MODEL",
    "text_to_image": "svd.training.tasks.text.TEXT_TO_IMAGE",
    "text_to_video": "svd.training.tasks.text.TEXT_TO_VIDEO",
    "prediction": "svd.training.tasks.prediction.PredictionTask",
    "interpolation": "svd.training.tasks.interpolation.InterpolationTask",
    "autoencoder": "svd.training.tasks.autoencoder.AUTOENCODER",
    "temporal_decoder": "svd.training.tasks.autoencoder.TEMPORAL_DECODER",
    "pixels": "svd.training.tasks.pixels.PixelTask",
    "upsampling": "svd.training.tasks.upsampling.UPSAMPLING",
}
"""Paths of their classes by name, imported on use. A program may add its own."""


@dataclass(frozen=True)
class Plan:
    """Networks and parameters of a training, known before weights are loaded."""

    train: TrainConfig
    model: LatentModel
    networks: Mapping[str, nn.Cell]
    """Networks by the prefix of their parameters in a checkpoint."""
    chosen: dict[str, list[Parameter]]
    """The parameters to train, by network."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """That of the pretrained checkpoint."""

    @cached_property
    def trained(self) -> dict[str, Parameter]:
        """The parameters to train, by their names in a checkpoint (an objective may rename them)."""
        return {f"{prefix}.{p.name}": p for prefix, parameters in self.chosen.items() for p in parameters}


class Task(Protocol):
    """A training task. One after which a model is sampled in another way has a method `result`: (train, model) -> the
    configuration of the trained model, with the same networks.
    """

    kinds: tuple[str, ...]
    """The kinds of models that it is for."""
    settings: tuple[str, ...]
    """Settings below `train` that this task uses and others may not; `lora` stands for the whole section."""
    complete: bool
    """Whether the trained model can generate videos, without a further training."""

    def check(self, train: TrainConfig, model: LatentModel) -> None:
        """Raise ConfigError if the task is not possible with this model and these data."""

    def needs(self, train: TrainConfig) -> Optional[tuple[str, ...]]:
        """Prefixes of the required networks; None for all."""

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        """The parameters to train, by the prefix of their network."""

    def build(self, plan: Plan) -> Objective:
        """The objective, given loaded networks."""


class LatentsTask(Task, Protocol):
    """One that learns from cached latents, too."""

    def encoders(self, train: TrainConfig) -> tuple[str, ...]:
        """Prefixes of the networks that encode what is cached."""

    def cached(self, train: TrainConfig, model: LatentModel, metadata: Mapping[str, str]) -> dict[str, Any]:
        """What cached latents depend on beside the clips, the autoencoder's settings and the encoders' weights."""

    def clip_encoder(self, plan: Plan) -> ClipEncoder:
        """Encodes clips for the cache, given loaded encoders."""


class ClipEncoder(Protocol):
    """Encodes clips as a training would."""

    empty_prompt: Optional[np.ndarray]
    """The embedding of the empty prompt [n d] in float16, if captions are embedded."""

    def __call__(self, clip: Clip, sample: int) -> EncodedClip:
        """Encode the clip of a sample; raises BadItem if the result overflows float16."""


def encodes(task: Task) -> bool:
    """Whether a task is a LatentsTask."""
    return hasattr(task, "encoders")


def find_task(name: str) -> Task:
    """The task of this name or class path; raises ConfigError."""
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
