"""Interpolation: of every frame four (VideoLDM, arXiv 2304.08818, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from svd.autoencoder.autoencoder import Autoencoder
from svd.conditioning.given_frames import check_window, every_fourth
from svd.config.temporal import INTERPOLATION
from svd.data.whole_video import WholeVideo
from svd.pipelines.given_frames import FramesSampler
from svd.pipelines.streaming import Decode, Stage, State

LabelsAt = Callable[[float], tuple[str, float]]
"""Prompt and motion bucket at a time, in seconds."""


class Interpolate(Stage):
    """Latents [n c h w] -> four times as many: given frames stay as they are, and three come between two of them.

    Windows meet in a given frame. The last one reaches back if there are too few frames left for it, so that all have
    the length that the model has learned; a video that is shorter than that is made in one of its own length.

    Args:
        sampler: of a model for interpolation.
        seed: of the noise, with the number of the window.
        fps: frames per second of the result.
        labels: prompt and motion bucket by time.

    Raises:
        ConfigError: a window of the model does not begin and end with a given frame.
    """

    growth = INTERPOLATION

    def __init__(self, sampler: FramesSampler, seed: tuple[int, ...], fps: float, labels: LabelsAt):
        super().__init__()
        check_window(sampler.pipe.config)
        self.sampler, self.seed, self.fps, self.labels = sampler, seed, fps, labels
        self.intervals = (sampler.pipe.config.sampling.num_frames - 1) // INTERPOLATION
        self.done, self.given, self.last = 0, 0, False

    def _left(self) -> int:
        """Intervals between frames that are there and not made yet."""
        return 0 if self.pending is None else len(self.pending) - 1 - self.done

    def ready(self) -> bool:
        return self._left() >= self.intervals or (self.ended and not self.last and self.pending is not None)

    def make(self) -> np.ndarray:
        left = min(self._left(), self.intervals)
        if left == 0:  # the last frame of all
            self.last = True
            return self.pending[-1:]
        start = max(self.done + left - self.intervals, 0)
        given = self.pending[start : self.done + left + 1]
        frames = self._window(given)[INTERPOLATION * (self.done - start) : -1]
        self.given += left
        drop = max(self.done + left - self.intervals, 0)
        self.pending, self.done = self.pending[drop:], self.done + left - drop
        return frames

    def _window(self, given: np.ndarray) -> np.ndarray:
        """n + 1 frames -> 4 n + 1"""
        frames = np.zeros((INTERPOLATION * (len(given) - 1) + 1, *given.shape[1:]), np.float32)
        frames[::INTERPOLATION] = given
        told = self.labels(INTERPOLATION * self.given / self.fps)
        seed = (*self.seed, self.windows)
        made = self.sampler(frames, every_fourth(len(frames)), seed, told[0], self.fps, told[1])
        made[::INTERPOLATION] = given
        return made

    @property
    def state(self) -> State:
        return super().state | {"place": np.array([self.done, self.given, self.last], np.int64)}

    @state.setter
    def state(self, state: State) -> None:
        Stage.state.fset(self, state)
        self.done, self.given, self.last = (int(number) for number in state["place"])


def interpolation_stages(
    sampler: FramesSampler, video: WholeVideo, passes: int, seed: int, told: tuple[str, float], chunk: int
) -> list[Stage]:
    """What makes of every frame of a video four, `passes` times; the last is held, so that the length stays.

    Args:
        told: the prompt and the motion bucket.
        chunk: frames encoded and decoded at a time.

    Raises:
        ConfigError: the model is not one for interpolation.
    """
    config, autoencoder = sampler.pipe.config, sampler.pipe.autoencoder
    stages: list[Stage] = [Encode(autoencoder, video.pictures(), chunk, config.size_multiple)]
    for number in range(passes):
        fps = video.fps * INTERPOLATION ** (number + 1)
        stages.append(Interpolate(sampler, (seed, number), fps, lambda time: told))
    overlap = chunk // 3 if autoencoder.decoder.temporal else 0
    size, tile, held = (video.height, video.width), sampler.settings.decode_tile_size, INTERPOLATION**passes - 1
    return [*stages, Decode(autoencoder, chunk, overlap, tile, size, held)]


class Encode(Stage):
    """The first stage of a given video: its frames, uint8 [h w 3], as latents; `pending` has none of them.

    Args:
        frames: iterates over the frames from the start.
        chunk: frames at a time.
        multiple: pixels that height and width are padded to a multiple of, by repetition.
    """

    def __init__(self, autoencoder: Autoencoder, frames: Iterator[np.ndarray], chunk: int, multiple: int):
        super().__init__()
        self.autoencoder, self.frames, self.chunk, self.multiple = autoencoder, frames, chunk, multiple
        self.read = 0
        self._next: list[np.ndarray] = []

    def ready(self) -> bool:
        if not self._next and not self.ended:
            self._next = list(islice(self.frames, self.chunk))
            self.ended = not self._next
        return bool(self._next)

    def make(self) -> np.ndarray:
        video = np.stack(self._next).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        self.read += len(self._next)
        self._next = []
        sides = [(0, -side % self.multiple) for side in video.shape[2:]]
        video = np.pad(video, ((0, 0), (0, 0), *sides), mode="edge")
        return self.autoencoder.encode(video[None]).asnumpy()[0]

    @property
    def state(self) -> State:
        return super().state | {"read": np.array([self.read], np.int64)}

    @state.setter
    def state(self, state: State) -> None:
        Stage.state.fset(self, state)
        self.read, self.ended = int(state["read"][0]), False
        for _ in islice(self.frames, self.read):
            pass
