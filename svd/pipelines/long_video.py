"""Long videos: key frames by prediction, frames between them by interpolation, twice (VideoLDM, arXiv 2304.08818)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from svd.config import ConfigError, LatentModel, TextSamplingConfig
from svd.config.models import different_settings
from svd.config.temporal import INTERPOLATION
from svd.errors import check
from svd.pipelines.given_frames import FramesSampler
from svd.pipelines.interpolate import Interpolate, LabelsAt
from svd.pipelines.streaming import Decode, Stage, State
from svd.pipelines.text_to_video import TextToVideo

PASSES = 2
"""How often interpolation makes four frames of one."""
CONTEXT = 2
"""Key frames that later predictions are given; the first is given one."""
FIRST, KEYS, BETWEEN = range(3)
"""What seeds are for: the noise of the first frame, of key frames, and of each interpolation from the third on."""


@dataclass(frozen=True)
class Label:
    """What a video shows from a time on."""

    time: float
    """Seconds."""
    prompt: str
    motion: float
    """Motion bucket."""


def labels_at(labels: Sequence[Label]) -> LabelsAt:
    """The prompt and motion bucket of the last label before a time; the first one begins at 0."""
    times = [label.time for label in labels]

    def at(time: float) -> tuple[str, float]:
        label = labels[max(bisect_right(times, time) - 1, 0)]
        return label.prompt, label.motion

    return at


class KeyFrames(Stage):
    """The first stage: key frames, each window continuing from the last two (at first from one).

    Args:
        sampler: of a model for prediction.
        first: the latents of the first frame, [1 c h w].
        seed: of the noise, with the number of the window.
        fps: key frames per second.
        labels: prompt and motion bucket by time.
        context: how many frames a window is given, but the first; 1 is the naive way, which forgets how things move.

    Raises:
        ConfigError: a window of the model is not longer than what it is given.
    """

    def __init__(
        self,
        sampler: FramesSampler,
        first: np.ndarray,
        seed: tuple[int, ...],
        fps: float,
        labels: LabelsAt,
        context: int = CONTEXT,
    ):
        super().__init__()
        self.window = sampler.pipe.config.sampling.num_frames
        if self.window <= context:
            raise ConfigError(
                f"sampling.num_frames of a model for prediction must be above {context}, got {self.window}"
            )
        self.sampler, self.seed, self.fps, self.labels, self.context = sampler, seed, fps, labels, context
        self.frames = 1
        self.pending = first

    def ready(self) -> bool:
        return True

    def make(self) -> np.ndarray:
        given = len(self.pending)
        latents = np.zeros((self.window, *self.pending.shape[1:]), np.float32)
        latents[:given] = self.pending
        mask = (np.arange(self.window) < given).astype(np.float32)
        told = self.labels(self.frames / self.fps)
        made = self.sampler(latents, mask, (*self.seed, self.windows), told[0], self.fps, told[1])
        made[:given] = self.pending
        new = made[given if self.windows else 0 :]
        self.pending, self.frames = made[-self.context :].copy(), self.frames + self.window - given
        return new

    @property
    def state(self) -> State:
        return super().state | {"frames": np.array([self.frames], np.int64)}

    @state.setter
    def state(self, state: State) -> None:
        Stage.state.fset(self, state)
        self.frames = int(state["frames"][0])


class LongVideo:
    """Videos of any length from a first frame; memory does not grow with the length.

    Args:
        prediction, interpolation: pipelines of models that are given frames, over the same latents.
        sampling: settings of the sampler of either; their size is that of the video.
        context_guidance: of predictions, see `FramesSampler`.
        context_noise: on the frames that predictions are given.
        chunk: frames decoded at a time.

    Raises:
        ConfigError: a model is given no frames, they do not fit together, or a setting is out of bounds.
    """

    def __init__(
        self,
        prediction: TextToVideo,
        interpolation: TextToVideo,
        sampling: tuple[TextSamplingConfig, TextSamplingConfig],
        context_guidance: float = 1.0,
        context_noise: int = 0,
        chunk: int = 16,
    ):
        check_same_latents(prediction.config, interpolation.config)
        self.prediction, self.interpolation, self.chunk = prediction, interpolation, chunk
        self.settings = sampling[0]
        self.keys = FramesSampler(prediction, sampling[0], context_guidance, context_noise)
        self.between = FramesSampler(interpolation, sampling[1])

    def first_frame(self, prompt: str, seed: int) -> np.ndarray:
        """Latents [1 c h w] of an image from words, by the spatial layers alone: the image model."""
        settings = replace(self.settings, num_frames=1)
        made = self.prediction(
            prompt, settings=settings, seed=(seed, FIRST), output="latents", image_only=True, progress=False
        )
        return made.reshape(1, *made.shape[-3:])

    def encoded(self, image: np.ndarray) -> np.ndarray:
        """Latents [1 c h w] of a picture uint8 [h w 3]."""
        pixels = image.transpose(2, 0, 1)[None, None].astype(np.float32) / 127.5 - 1
        return self.prediction.autoencoder.encode(pixels).asnumpy()[0]

    def stages(self, first: np.ndarray, seed: int, fps: float, labels: LabelsAt, context: int = CONTEXT) -> list[Stage]:
        """What makes a video of `fps` frames per second of its first frame's latents [1 c h w]."""
        stages: list[Stage] = [KeyFrames(self.keys, first, (seed, KEYS), fps / INTERPOLATION**PASSES, labels, context)]
        for number in range(PASSES):
            rate = fps / INTERPOLATION ** (PASSES - 1 - number)
            stages.append(Interpolate(self.between, (seed, BETWEEN + number), rate, labels))
        autoencoder, settings = self.interpolation.autoencoder, self.settings
        overlap = self.chunk // 3 if autoencoder.decoder.temporal else 0
        size = settings.height, settings.width
        return [*stages, Decode(autoencoder, self.chunk, overlap, settings.decode_tile_size, size)]


def check_same_latents(one: LatentModel, other: LatentModel) -> None:
    """Raise ConfigError unless two models have the same latents, as far as their configurations say."""
    different = different_settings("autoencoder", other.autoencoder, one.autoencoder, ("decoder",))
    check(not different, f"the models for prediction and interpolation are of other latents: {(*different, '')[0]}")
