"""The task prediction: a clip from its first frames (VideoLDM, arXiv 2304.08818, section 3.2)."""

from __future__ import annotations

import numpy as np

from svd.config import VideoLDMConfig
from svd.errors import check
from svd.training.config import TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.given_frames import GivenFramesTask


class PredictionTask(GivenFramesTask):
    """Trains a model to continue videos: of a clip, 0, 1 or 2 first frames are given, as drawn."""

    settings = (
        "loss.drop_context",
        "loss.given_frames",
        "loss.all_frames",
        "loss.frames_noise",
        "temporal_only",
    )

    def check(self, train: TrainConfig, model: VideoLDMConfig) -> None:
        super().check(train, model)
        most, frames = len(train.loss.given_frames) - 1, train.dataset.frames
        check(most < frames, f"loss.given_frames has {most} given frames, and clips are of {frames}: none would be new")

    def draws(self, plan: Plan):
        weights = np.array(plan.train.loss.given_frames)
        shares = weights / weights.sum()

        def mask(rng: np.random.Generator, frames: int) -> np.ndarray:
            return (np.arange(frames) < rng.choice(len(shares), p=shares)).astype(np.float32)

        return mask, lambda clip, rng: clip
