"""Metrics of videos of moving digits: picture, digits, motion, and distance to real clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from svd.data.handwriting import CLASSES
from svd.data.moving_digits import FASTEST, MovingDigits
from svd.metrics.frechet import frechet_distance
from svd_tools.digits.judge import Judgement, classes_present
from svd_tools.digits.motion import brightness_centres, deviation, rank_correlation, speed

BEST_PSNR = 10 * math.log10(12 * 255**2)
"""dB of a picture whose only error is that of rounding to 8 bits; more is not told apart."""
TITLES = {
    "psnr_mean": "first frame: PSNR to the picture, mean, dB",
    "psnr_median": "first frame: PSNR to the picture, median, dB",
    "right_first_{n}": "first frame shows the picture's digits, clips of {n}",
    "right_{n}": "last frame shows the picture's digits, clips of {n}",
    "kept_{n}": "last frame shows what the first shows, clips of {n}",
    "speed_error_centres": "error of the speed, clips of 1 by centres, pixels/frame",
    "speed_error_judge": "error of the speed, all by the judge, pixels/frame",
    "bucket_correlation_centres": "rank correlation of speed and bucket, clips of 1 by centres",
    "bucket_correlation_judge": "rank correlation of speed and bucket, all by the judge",
    "deviation_mean": "deviation from a bouncing path, clips of 1, mean, pixels",
    "deviation_median": "deviation from a bouncing path, clips of 1, median, pixels",
    "saturation": "most that a pixel's colours differ by, of white",
    "lost": "a frame without a digit, clips of 1",
    "frechet": "Frechet distance of the judge's features to other real clips",
}


def title(name: str) -> str:
    """Title of a score in a table."""
    stem, _, n = name.rpartition("_")
    return TITLES[name] if name in TITLES else TITLES[f"{stem}_{{n}}"].format(n=n)


@dataclass(frozen=True)
class Clips:
    """n real clips, and their ground truth."""

    videos: np.ndarray
    """uint8 [n t h w 3]"""
    buckets: np.ndarray
    """Their motion buckets, [n]."""
    speeds: np.ndarray
    """Pixels per frame, [n]."""
    count: np.ndarray
    """Number of digits in each, [n]."""
    present: np.ndarray
    """Their classes, bool [n 10]."""
    sides: np.ndarray
    """Pixels of the square that moves, of each one's first digit, [n]."""

    @staticmethod
    def of(data: MovingDigits) -> Clips:
        """All clips of a dataset."""
        clips = [data.load(index) for index in range(len(data))]
        return Clips(
            np.stack([clip.frames for clip in clips]),
            np.array([clip.motion_bucket_id for clip in clips]),
            np.array([clip.speed for clip in clips]),
            np.array([len(clip.digits) for clip in clips]),
            classes_present([clip.digits for clip in clips]),
            np.array([clip.sides[0] for clip in clips]),
        )

    @property
    def pictures(self) -> np.ndarray:
        """The first frames, uint8 [n h w 3]."""
        return self.videos[:, 0]


def psnr(images: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """dB between images uint8 [n h w 3], [n]; BEST_PSNR where they are equal."""
    error = np.mean((images.astype(np.float32) - pictures) ** 2, (1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1 / 12))


def scores(videos: np.ndarray, judged: Judgement, clips: Clips, other: Judgement) -> dict[str, float]:
    """What TITLES says of videos, uint8 [n t h w 3], that were made of the first frames of these real clips.

    Speeds and paths of one digit are those of its centre of brightness. Two digits that overlap have no centres that
    can be told apart: their speed is that of the judge.
    """
    single, n_digits = clips.count == 1, sorted(set(clips.count.tolist()))
    paths = brightness_centres(videos[single])
    walls = [((side - 1) / 2, videos.shape[2] - (side + 1) / 2) for side in clips.sides[single]]
    deviations = np.array([deviation(*each) for each in zip(paths, walls)])
    quality, moved = psnr(videos[:, 0], clips.pictures), speed(paths)
    first, right = (judged.shows(clips.present, frame) for frame in (0, -1))
    # a first frame without digits does not count
    kept = judged.shows(judged.digits[:, 0], frame=-1) & judged.digits[:, 0].any(-1)
    return {
        "psnr_mean": quality.mean(),
        "psnr_median": np.median(quality),
        **{f"right_first_{n}": first[clips.count == n].mean() for n in n_digits},
        **{f"right_{n}": right[clips.count == n].mean() for n in n_digits},
        **{f"kept_{n}": kept[clips.count == n].mean() for n in n_digits},
        "speed_error_centres": nan_average(np.mean, np.abs(moved - clips.speeds[single])),
        "speed_error_judge": np.abs(judged.speed - clips.speeds).mean(),
        "bucket_correlation_centres": rank_correlation(moved, clips.buckets[single]),
        "bucket_correlation_judge": rank_correlation(judged.speed, clips.buckets),
        "deviation_mean": nan_average(np.mean, deviations),
        "deviation_median": nan_average(np.median, deviations),
        "saturation": float(np.ptp(videos, axis=-1).max() / 255),
        "lost": nan_average(np.mean, np.isnan(deviations)),
        "frechet": frechet_distance(judged.features, other.features),
    }


def confusion(judged: Judgement, clips: Clips) -> pd.DataFrame:
    """What the last frames of clips of one digit show: numbers of clips, a row for each digit, and columns for those
    that are seen alone, for none and for several.
    """
    single = clips.count == 1
    seen = judged.digits[single, -1]
    what = np.where(seen.sum(-1) == 1, seen.argmax(-1), np.where(seen.any(-1), CLASSES + 1, CLASSES))
    counts = np.zeros((CLASSES, CLASSES + 2), int)
    np.add.at(counts, (clips.present[single].argmax(-1), what), 1)
    return pd.DataFrame(counts, range(CLASSES), [*map(str, range(CLASSES)), "none", "several"])


def right_by_frame(judged: Judgement, clips: Clips) -> dict[str, list[float]]:
    """The share of clips of one digit, of two, ... whose frames show the picture's digits and no others, by frame."""
    right = (judged.digits == clips.present[:, None]).all(-1)
    return {str(n): right[clips.count == n].mean(0).tolist() for n in sorted(set(clips.count.tolist()))}


def nan_average(average: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    """An average over the values that are not NaN, or NaN."""
    known = values[~np.isnan(values)]
    return float(average(known)) if len(known) else math.nan


def motion_control(
    videos: np.ndarray, judged: Judgement, buckets: np.ndarray, pictures: np.ndarray, single: np.ndarray
) -> tuple[pd.DataFrame, dict[str, float]]:
    """How the speed follows the motion bucket: mean speeds by bucket, and rank correlations of both.

    Speeds are measured as in `scores`. Correlations are of all videos together, and the means of those of each picture.

    Args:
        videos: uint8 [n t h w 3].
        buckets: that they were made with, [n].
        pictures: the number of the picture that each was made of, [n].
        single: whether that shows one digit, [n].
    """
    table = pd.DataFrame({"picture": pictures, "bucket": buckets, "judge": judged.speed})
    table["centres"] = np.where(single, speed(brightness_centres(videos)), math.nan)
    correlations = {}
    for name in ("centres", "judge"):
        groups = table.groupby("picture")
        each = np.array([rank_correlation(group[name], group["bucket"]) for _, group in groups])
        correlations[f"{name}_each_picture"] = nan_average(np.mean, each)
        correlations[f"{name}_all"] = rank_correlation(table[name], table["bucket"])
    return table.groupby("bucket")[["centres", "judge"]].mean(), correlations


def fastest(speeds: pd.DataFrame) -> dict[str, float]:
    """The speeds at motion bucket 255, in parts of what it means; NaN where it was not measured."""
    return {name: float(speeds[name].get(255, math.nan) / FASTEST) for name in speeds}
