"""Continuity of videos over their length: jumps, cuts, errors of warping, motion, drift of the picture, and identity.

    report = continuity({"a": video, "b": frames_of_a_long_one()}, judge=judge)
    report.scores, report.curves["a"].motion, report.plot("drift.png")

Videos are read once, two frames at a time: memory does not grow with their length. Motion is the optical flow of
OpenCV's DIS (Kroeger et al. 2016, arXiv 1603.03590).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Optional

import cv2
import numpy as np

from svd.files import atomic_write

Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(frames uint8 [n h w 3], the video's first frame [h w 3]) -> how alike each is to the first, [n], from 0 to 1."""
SMALLEST = 16
"""The least height and width in pixels: the optical flow needs blocks of 8."""
CUT_UNEXPLAINED, CUT_RATIO, NEIGHBOURS = 0.15, 5.0, 2
CHUNK = 16
"""Frames that a judge is given at a time."""


@dataclass(frozen=True)
class Curves:
    """One video of t frames. A transition is between two neighbouring frames; there are t - 1."""

    step: np.ndarray
    """Root mean square difference of the two frames, in grey levels of 255."""
    motion: np.ndarray
    """Mean length of the optical flow, in pixels."""
    warp_error: np.ndarray
    """Mean squared difference (of values in [0, 1]) of a frame and the next one warped back to it, where the flow there
    and the flow back agree (Lai et al. 2018, arXiv 1808.00449)."""
    unexplained: np.ndarray
    """Mean squared difference of a frame and the next one warped back, everywhere, as a part of the sum of the two
    frames' variances: 0 if all is motion, about 1 for frames that have nothing in common."""
    brightness: np.ndarray
    """Of each frame [t]: mean grey level."""
    contrast: np.ndarray
    """Of each frame [t]: standard deviation of the grey levels."""
    saturation: np.ndarray
    """Of each frame [t]: mean difference of the largest and the smallest of red, green and blue."""
    sharpness: np.ndarray
    """Of each frame [t]: root mean square of the Laplacian of the grey levels."""
    identity: Optional[np.ndarray]
    """Of each frame [t]: what the judge said."""
    seams: tuple[int, ...]
    """The frames that begin a new piece of the video."""

    @property
    def cuts(self) -> list[int]:
        """The frames that begin a new shot: see `cuts`."""
        return cuts(self.unexplained)

    @property
    def scores(self) -> dict[str, float]:
        """Numbers of the video, as `SCORES` explains them; NaN for one that it does not have."""
        at_seams = np.isin(np.arange(1, len(self.step) + 1), self.seams)
        motion, warp = self.motion.mean(), self.warp_error.mean()
        drifts = {f"{name}_drift": _drift(getattr(self, name)) for name in ("brightness", "contrast", "saturation",
                                                                            "sharpness", "motion")}  # fmt: skip
        identity = np.full(2, math.nan) if self.identity is None else _quarters(self.identity)
        return {
            "frames": float(len(self.brightness)),
            "cuts": float(len(self.cuts)),
            "largest_step": float(self.step.max()),
            "seam_jump": _ratio(self.step[at_seams].max(initial=0), self.step[~at_seams].max(initial=0))
            if self.seams
            else math.nan,
            "warp_error": float(warp),
            "motion_aware_warp_error": _ratio(warp, 9.5 * motion),
            "motion": float(motion),
            **drifts,
            "identity_first_quarter": float(identity[0]),
            "identity_last_quarter": float(identity[1]),
        }


PER_TRANSITION = ("step", "motion", "warp_error", "unexplained")
"""Curves of t - 1 values."""
PER_FRAME = ("brightness", "contrast", "saturation", "sharpness", "identity")
"""Curves of t values."""
SCORES = {
    "frames": "frames",
    "cuts": "cuts: frames that begin a new shot",
    "largest_step": "largest step between neighbouring frames, root mean square, grey levels of 255",
    "seam_jump": "largest step at a seam, as a part of the largest one elsewhere",
    "warp_error": "warp error, mean squared, of values in [0, 1]",
    "motion_aware_warp_error": "warp error by 9.5 times the motion (StreamingT2V, arXiv 2403.14773)",
    "motion": "motion, pixels per frame",
    "brightness_drift": "brightness, change from the first quarter to the last, as a part",
    "contrast_drift": "contrast, the same",
    "saturation_drift": "saturation, the same",
    "sharpness_drift": "sharpness, the same",
    "motion_drift": "motion, the same",
    "identity_first_quarter": "identity with the first frame, by the judge, in the first quarter",
    "identity_last_quarter": "identity with the first frame, by the judge, in the last quarter",
}
"""What a report says of videos, and its titles in tables. They are means over the videos; of `cuts` it is the sum, of
`largest_step` and `seam_jump` the largest."""


@dataclass(frozen=True)
class Report:
    """The continuity of several videos."""

    curves: dict[str, Curves]
    """By the names of the videos."""

    @property
    def scores(self) -> dict[str, float]:
        """Of all videos together, as `SCORES` says; NaN for what none of them has."""
        each = [curves.scores for curves in self.curves.values()]
        together = {"cuts": np.sum, "largest_step": np.max, "seam_jump": np.max}
        found = {name: [scores[name] for scores in each if not math.isnan(scores[name])] for name in SCORES}
        return {
            name: float(together.get(name, np.mean)(values)) if values else math.nan for name, values in found.items()
        }

    def plot(self, path: str | Path) -> None:
        """Write the curves over the frames as a PNG: each video's, and their mean; seams and cuts are marked."""
        plot(self, Path(path))


def continuity(
    videos: Mapping[str, Iterable[np.ndarray]] | Iterable[Iterable[np.ndarray]],
    seams: Sequence[int] = (),
    judge: Optional[Judge] = None,
) -> Report:
    """Measure the continuity of videos.

    Args:
        videos: each an array uint8 [t h w 3], or an iterable of frames [h w 3]; by names, or numbered from 0.
        seams: the frames at which the videos were put together, each the first of a new piece (1 to t - 1).
        judge: says how alike frames are to their video's first.

    Raises:
        ValueError: there is no video; or one is of fewer than two frames, has no frame at a seam, or has frames that
            cannot be used.
    """
    named = videos.items() if isinstance(videos, Mapping) else ((str(i), video) for i, video in enumerate(videos))
    curves = {name: measure(video, seams, judge, name) for name, video in named}
    if not curves:
        raise ValueError("no video was given")
    return Report(curves)


def measure(
    video: Iterable[np.ndarray], seams: Sequence[int] = (), judge: Optional[Judge] = None, name: str = "the video"
) -> Curves:
    """The curves of one video; see `continuity`."""
    frames = _checked(iter(video), name)
    pictures, transitions, alike, first = [], [], [], None
    before: Optional[np.ndarray] = None
    while chunk := list(islice(frames, CHUNK)):
        first = chunk[0] if first is None else first
        pictures += [_picture(frame) for frame in chunk]
        following = chunk if before is None else [before, *chunk]
        transitions += [_transition(frame, after) for frame, after in pairwise(following)]
        before = chunk[-1]
        if judge is not None:
            alike.append(np.asarray(judge(np.stack(chunk), first), np.float64).reshape(len(chunk)))
    if not transitions:
        raise ValueError(f"{name} has {len(pictures)} frames: a video has two or more")
    wrong = [seam for seam in seams if not 1 <= seam <= len(transitions)]
    if wrong:
        raise ValueError(f"{name} has no frames before and after seam {wrong[0]}: seams are 1 to {len(transitions)}")
    columns = [*np.array(transitions).T, *np.array(pictures).T]
    return Curves(*columns, np.concatenate(alike) if judge else None, tuple(sorted(set(seams))))


def cuts(unexplained: np.ndarray) -> list[int]:
    """The frames that begin a new shot, from `Curves.unexplained` [t-1].

    A transition is a cut if motion leaves more than 15 % of it unexplained, and 5 times as much as of its neighbours,
    two on each side. Below the first bound are fast motion, blur, and what comes into view: a van that passes close by
    leaves 11 %. The second one leaves alone what is restless throughout, such as noise; it is that of PySceneDetect's
    AdaptiveDetector, which StreamingT2V counts cuts by. That one's measure is the mean change of hue, saturation and
    value; this one does not depend on contrast and colour, nor on how much of the picture is background.
    """
    found = []
    for i, value in enumerate(unexplained):
        around = np.delete(unexplained[max(i - NEIGHBOURS, 0) : i + NEIGHBOURS + 1], min(i, NEIGHBOURS))
        if value > CUT_UNEXPLAINED and value >= CUT_RATIO * (around.mean() if len(around) else 0):
            found.append(i + 1)
    return found


def plot(report: Report, path: Path) -> None:
    """See `Report.plot`."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    titles = {
        "step": "step, grey levels",
        "motion": "motion, pixels per frame",
        "warp_error": "warp error",
        "unexplained": "unexplained by motion",
        "brightness": "brightness",
        "contrast": "contrast",
        "saturation": "saturation",
        "sharpness": "sharpness",
        "identity": "identity with the first frame",
    }
    shown = [name for name in titles if any(getattr(curves, name) is not None for curves in report.curves.values())]
    figure = Figure(figsize=(12, 2 + 2 * math.ceil(len(shown) / 3)), layout="constrained")
    panels = figure.subplots(math.ceil(len(shown) / 3), 3, squeeze=False).ravel()
    for name, axes in zip(shown, panels):
        values = [getattr(curves, name) for curves in report.curves.values()]
        values = [value for value in values if value is not None]
        longest = max(map(len, values))
        offset = longest < max(len(curves.brightness) for curves in report.curves.values())  # the frame after
        for value in values:
            axes.plot(np.arange(len(value)) + offset, value, color="0.75", linewidth=0.8)
        padded = np.full((len(values), longest), math.nan)
        for row, value in zip(padded, values):
            row[: len(value)] = value
        axes.plot(np.arange(longest) + offset, np.nanmean(padded, 0), color="C0")
        for curves in report.curves.values():
            for seam in curves.seams:
                axes.axvline(seam, color="C2", linewidth=0.6, linestyle=":")
            for cut in curves.cuts:
                axes.axvline(cut, color="C3", linewidth=0.8)
        axes.set(title=titles[name], xlabel="frame")
    for axes in panels[len(shown) :]:
        axes.axis("off")
    count = len(report.curves)
    figure.suptitle(f"{count} video{'s' * (count > 1)}: each (grey), mean (blue), seams (dotted), cuts (red)")
    with atomic_write(path) as aside:
        figure.savefig(aside, format="png", dpi=100)


# --- frames ---


def _checked(frames: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """The frames; raises ValueError for one that cannot be used."""
    shape = None
    for number, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or min(frame.shape[:2]) < SMALLEST:
            raise ValueError(
                f"{name}: frame {number} is {frame.dtype} {list(frame.shape)}; it takes uint8 [h w 3], of {SMALLEST} "
                "pixels a side or more"
            )
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"{name}: frame {number} is {list(frame.shape)}, those before are {list(shape)}")
        yield frame


def _picture(frame: np.ndarray) -> tuple[float, ...]:
    """Brightness, contrast, saturation and sharpness."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(grey, cv2.CV_32F)
    spread = frame.max(-1).astype(np.float32) - frame.min(-1)
    return grey.mean(), grey.std(), spread.mean(), np.sqrt(np.mean(laplacian**2))


def _transition(frame: np.ndarray, after: np.ndarray) -> tuple[float, ...]:
    """Step, motion, warp error and what is unexplained."""
    a, b = frame.astype(np.float32) / 255, after.astype(np.float32) / 255
    there, back = _flow(frame, after), _flow(after, frame)
    squares = np.mean((a - _warped(b, there)) ** 2, -1)
    back = _warped(back, there)
    lengths = np.sum(there**2, -1) + np.sum(back**2, -1)
    visible = np.sum((there + back) ** 2, -1) <= 0.01 * lengths + 0.5  # Ruder et al. 2016, arXiv 1604.08610
    variance = sum(np.var(image.reshape(-1, 3), 0).mean() for image in (a, b))
    step = 255 * np.sqrt(np.mean((a - b) ** 2))
    motion = np.linalg.norm(there, axis=-1).mean()
    warp_error = squares[visible].mean() if visible.any() else squares.mean()
    return step, motion, warp_error, _ratio(squares.mean(), variance, otherwise=0.0)


def _flow(frame: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where every pixel of a frame is in the next one, relative to its place: float32 [h w 2], x first."""
    greys = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (frame, after))
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*greys, None)


def _warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The values of an image [h w c] where the flow leads to."""
    h, w = flow.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


# --- numbers ---


def _quarters(values: np.ndarray) -> tuple[float, float]:
    """The means of the first and of the last quarter."""
    n = max(len(values) // 4, 1)
    return values[:n].mean(), values[-n:].mean()


def _drift(values: np.ndarray) -> float:
    """The change from the first quarter to the last, as a part of the first; NaN if that is zero."""
    first, last = _quarters(values)
    return _ratio(last - first, first)


def _ratio(value: float, of: float, otherwise: float = math.nan) -> float:
    return float(value / of) if of > 0 else otherwise
