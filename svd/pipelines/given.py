"""What is known of videos that are drawn in pixel space, and long videos of windows that overlap (Video Diffusion
Models, arXiv 2204.03458, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Optional

import numpy as np

from svd.config import ConfigError, PixelSamplingConfig
from svd.errors import check
from svd.pipelines.pipeline import Seed

if TYPE_CHECKING:
    from svd.pipelines.video_diffusion import VideoDiffusion

WEIGHT = 3.0
"""Of reconstruction guidance, if nothing is said. Where a known frame is correlated with one that is drawn, the mean of
Gaussian data is then right within 3 %; the paper's weights are 9 to 50, found for each model."""


@dataclass(frozen=True)
class Given:
    """What is known of b videos; floats are in [0, 1]."""

    frames: Optional[np.ndarray] = None
    """uint8 or float [b t h w c]; frames that are not known may have any value."""
    known: Sequence[int] = ()
    """The numbers of known frames."""
    low: Optional[np.ndarray] = None
    """All frames at a fraction of the size, uint8 or float [b t h/k w/k c]."""
    weight: float = WEIGHT
    """Of reconstruction guidance; with 0, known frames are replaced by noised ones alone."""

    def checked(self, clips: int, settings: PixelSamplingConfig, channels: int) -> Given:
        """The same with float videos [b t c h w] in [-1, 1]; raises ConfigError if it does not fit."""
        frames, low, size = None, None, (settings.height, settings.width)
        wanted, t = (clips, settings.num_frames), settings.num_frames
        check(0 <= self.weight <= 1e4, f"weight must be from 0 to 10,000, got {self.weight}")
        check((self.frames is None) == (not self.known), "frames and the numbers of known ones belong together")
        check(self.low is not None or self.known, "nothing is given: give known frames, or a lower resolution")
        if self.known:
            frames = as_video(self.frames)
            check(frames.shape == (*wanted, channels, *size), _form("frames", self.frames, *wanted, *size, channels))
            check(set(self.known) <= set(range(t)), f"known frames must be among 0 to {t - 1}, got {list(self.known)}")
        if self.low is not None:
            low = as_video(self.low)
            factor = size[0] // max(low.shape[3], 1)
            smaller = tuple(side // max(factor, 1) for side in size)
            fits = factor > 1 and all(side % factor == 0 for side in size)
            fits = fits and low.shape == (*wanted, channels, *smaller)
            check(fits, _form("low", self.low, *wanted, f"{size[0]}/k", f"{size[1]}/k", channels))
            check(self.weight > 0, "weight must be positive for a lower resolution, which no frame can be replaced by")
        return replace(self, frames=frames, low=low)


def _form(name: str, given: np.ndarray, *axes: object) -> str:
    return f"{name} must be of shape [{', '.join(map(str, axes))}], got {list(np.shape(given))}"


def as_video(values: np.ndarray) -> np.ndarray:
    """uint8, or floats in [0, 1], [b t h w c] -> float32 [b t c h w] in [-1, 1]; raises ConfigError."""
    values = np.asarray(values)
    check(values.ndim == 5, f"videos must be of shape [b t h w c], got {list(values.shape)}")
    scale = 127.5 if values.dtype == np.uint8 else 0.5
    video = values.astype(np.float32) / np.float32(scale) - 1
    check(np.abs(video).max(initial=0) <= 1.001, "videos must be uint8, or floats from 0 to 1")
    return np.ascontiguousarray(video.transpose(0, 1, 4, 2, 3))


def extend(
    self: VideoDiffusion,
    video: np.ndarray,
    frames: int,
    *,
    overlap: Optional[int] = None,
    weight: float = WEIGHT,
    settings: Optional[PixelSamplingConfig] = None,
    seed: Seed | list[Seed] = 0,
    output: str = "uint8",
    **options,
) -> np.ndarray:
    """Videos of any length: windows of the model's num_frames, each given the last frames before it.

    Args:
        video: what they begin with, uint8 or floats in [0, 1], [b s h w c]; the last `overlap` frames are seen.
        frames: how many they have in all.
        overlap: frames that a window is given; a quarter of it by default.
        weight: of reconstruction guidance; 0 for replacement alone.
        seed: as for single videos; every window has noise of its own.
        settings, output, options: as for single videos.

    Returns:
        [b frames h w c], which begin with the video.

    Raises:
        ConfigError, NumericalError: as for single videos; or the video is shorter than the overlap.
    """
    own = {name: options.pop(name) for name in list(options) if name in vars(self.config.sampling)}
    settings = self.settings(settings, **own)
    window, clips = settings.num_frames, len(video)
    overlap = max(window // 4, 1) if overlap is None else overlap
    if not 1 <= overlap < window:
        raise ConfigError(f"overlap must be from 1 to {window - 1}, below num_frames, got {overlap}", "overlap")
    if video.shape[1] < overlap:
        raise ConfigError(f"the video has {video.shape[1]} frames, and {overlap} must overlap", "overlap")
    if frames <= video.shape[1]:
        raise ConfigError(f"frames must be more than the {video.shape[1]} of the video, got {frames}", "frames")
    seeds = self.seeds(seed, clips)
    long = (as_video(video).transpose(0, 1, 3, 4, 2) + 1) / 2
    for number in range(-(-(frames - long.shape[1]) // (window - overlap))):
        begun = np.zeros((clips, window, *long.shape[2:]), np.float32)
        begun[:, :overlap] = long[:, -overlap:]
        given = Given(begun, range(overlap), weight=weight)
        of_window = [[*np.atleast_1d(each).tolist(), number] for each in seeds]
        drawn = self(clips, given=given, settings=settings, seed=of_window, output="float", **options)
        long = np.concatenate([long, drawn[:, overlap:]], 1)
    return self.as_output(long[:, :frames], output)
