"""Positions, speed and straightness of a video's digits, without a network."""

from __future__ import annotations

import numpy as np
import pandas as pd

FAINT = 0.2
"""Brightness, of 1, up to which a pixel counts as background: a decoder's black is never quite black."""
INK = 4.0
"""Brightness of a frame, in white pixels, below which it shows no digit: the faintest has twenty times as much."""
OFF_CENTRE = 6.0
"""Pixels that a digit's centre of brightness may lie off the middle of its square, on each axis."""
FASTEST_PATH = 8.0
"""Pixels per frame up to which a path is fitted: a faster one would follow any path, back and forth between walls."""
BEAM, REFINEMENTS = 32, 10
"""Number of grid points that a fit refines, and refinements: to thousandths of a pixel."""


def brightness_centres(videos: np.ndarray) -> np.ndarray:
    """Centres of brightness, (x, y) in pixels, of frames uint8 [... h w 3]: float64 [... 2], NaN where all is dark."""
    light = np.maximum(videos.mean(-1, dtype=np.float32) / 255 - FAINT, 0)
    total = light.sum((-2, -1), dtype=np.float64)
    h, w = light.shape[-2:]
    moments = np.stack([light.sum(-2) @ np.arange(w), light.sum(-1) @ np.arange(h)], -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((total < INK)[..., None], np.nan, moments / total[..., None])


def speed(centres: np.ndarray) -> np.ndarray:
    """Pixels per frame of paths [... t 2]: the median step, NaN where a centre is missing.

    A step in which a digit turns at an edge is shorter than the others. There are few of them in a clip, and the
    median, unlike the mean, does not see them.
    """
    return np.median(np.linalg.norm(np.diff(centres, axis=-2), axis=-1), axis=-1)


def deviation(path: np.ndarray, walls: tuple[float, float]) -> float:
    """How far a digit's path [t 2] is from the nearest one at a constant speed: pixels, RMS over frames.

    The nearest is on each axis c + fold(p + v t), where fold reflects at the walls, and c, p and v are those of least
    squares. The whole path is fitted, since slow drifts then count as much as jumps, and since nobody has to say in
    which frames a wall was touched. NaN where a centre is missing.

    Args:
        path: centres of brightness, (x, y) in pixels. They lie off the middle of the digit's square, all alike: by c.
        walls: between which coordinates the middle of the square moves, on both axes.
    """
    if np.isnan(path).any():
        return float("nan")
    return float(np.sqrt(sum(_axis_error(axis, *walls) for axis in np.asarray(path, np.float64).T)))


def _axis_error(path: np.ndarray, low: float, high: float) -> float:
    """The smallest mean square distance of a path [t] from c + fold(p + v t): a grid, made finer around the best."""
    room = high - low
    steps = np.array([1.0, 0.125])  # of p and v, in pixels
    # Beyond the upper wall, p is on its way back: no v has to be negative.
    grid = np.meshgrid(np.arange(0, 2 * room, steps[0]), np.arange(0, FASTEST_PATH, steps[1]))
    points = np.stack(grid, -1).reshape(-1, 2)
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2)
    for _ in range(REFINEMENTS):
        p, v = points.T[..., None]
        folded = room - np.abs((p + v * np.arange(len(path))) % (2 * room) - room)
        rest = path - low - folded
        rest -= np.clip(rest.mean(-1, keepdims=True), -OFF_CENTRE, OFF_CENTRE)
        errors = np.mean(rest**2, -1)
        best = np.argpartition(errors, BEAM)[:BEAM]  # more than one: the deepest valley may lie between the points
        steps = steps / 2
        points = (points[best, None] + around * steps).reshape(-1, 2)
    return float(errors.min())


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two series [n] without the pairs that have a NaN.

    It is 0 where one does not vary, and NaN where there are fewer than two pairs.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = ~(np.isnan(a) | np.isnan(b))
    if known.sum() < 2:
        return float("nan")
    ranks = [pd.Series(series[known]).rank().to_numpy() for series in (a, b)]
    if min(map(np.ptp, ranks)) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])
