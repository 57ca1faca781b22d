"""The task interpolation: three frames between two given ones (VideoLDM, arXiv 2304.08818, section 3.3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from svd.conditioning.given_frames import check_window, every_fourth
from svd.config import ConfigError, VideoLDMConfig
from svd.data.latents_dataset import EncodedClip
from svd.errors import check
from svd.training.config import TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.given_frames import AnyClip, GivenFramesTask


class InterpolationTask(GivenFramesTask):
    """Trains a model to make of every frame four: every fourth of a window is given, the first and the last among them.

    A window has as many frames as the model samples, 5 or more. If the model tells several frame rates apart, one of
    them is drawn, and the window is of every so many-th frame of the clip.
    """

    settings = (
        "loss.drop_context",
        "loss.drop_concat",
        "loss.all_frames",
        "loss.frames_noise",
        "temporal_only",
    )

    def check(self, train: TrainConfig, model: VideoLDMConfig) -> None:
        super().check(train, model)
        check_window(model)
        window, frames = model.sampling.num_frames, train.dataset.frames
        message = f"sampling.num_frames is {window}, and clips have {frames} frames: give dataset.frames of as many"
        check(window <= frames, message)

    def draws(self, plan: Plan):
        loss, window, rates = plan.train.loss, plan.model.sampling.num_frames, plan.model.own_layers.rates

        def mask(rng: np.random.Generator, frames: int) -> np.ndarray:
            return every_fourth(frames) * (rng.random() >= loss.drop_concat)

        def cut(clip: AnyClip, rng: np.random.Generator) -> AnyClip:
            steps = [max(round(clip.fps / rate), 1) for rate in rates] or [1]
            return part(clip, window, steps, rng)

        return mask, cut


def part(clip: AnyClip, window: int, steps: list[int], rng: np.random.Generator) -> AnyClip:
    """A window of every step-th frame of a clip, with one of these steps, from anywhere in it.

    Raises:
        ConfigError: the clip is too short for one of them.
    """
    name = "moments" if isinstance(clip, EncodedClip) else "frames"
    frames, needed = getattr(clip, name), (window - 1) * max(steps) + 1
    if len(frames) < needed:
        raise ConfigError(
            f"{clip.path}: {window} frames at the lowest of temporal.video_ldm.rates are every {max(steps)}-th of "
            f"{needed}, and clips have {len(frames)}: give dataset.frames of as many"
        )
    step = steps[rng.integers(len(steps))]
    start = rng.integers(len(frames) - (window - 1) * step)
    return replace(clip, fps=clip.fps / step, **{name: frames[start : start + (window - 1) * step + 1 : step]})
