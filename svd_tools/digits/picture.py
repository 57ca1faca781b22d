"""Bringing people's pictures of digits to what the model of moving digits knows: light strokes on black, in the middle.

Photographs and drawings are dark on light or light on dark, of any colours and size, with shadows and the paper's
texture. A picture that is already as the model's data are stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from svd.console import log
from svd.data.handwriting import FINE, SIZES, half_widths
from svd.resources import DIGITS

WORKING = 256
"""Pixels of the longer side that pictures are looked at with."""
PAPER = 121
"""Pixels of the square over which the paper's brightness is a median: more than two strokes are wide."""
DARKEST, EVEN, GREY = 0.2, 0.03, 0.05
"""A background that the model knows is no lighter than the first, its deviation from a smooth one no more than the
second; and no pixel's colours differ by more than the third."""
KNOWN = 0.8 * SIZES[0], 1.2 * SIZES[1]
"""Pixels of the longer side of digits that need no other size."""
SIZE, MOST = 26.0, 52.0
"""Pixels of the longer side of digits that are given another one, and of the longer side of all that is drawn."""
STROKE = 1.3, 2.3
"""Least and most pixels of half a stroke, then."""
LEAST = 20
"""Pixels of the longer side of strokes that are certainly of a digit."""
WIDEST = 30
"""Pixels of half the widest strokes."""
TWO = 0.2
"""Part of a picture's variance within its two brightnesses, if it has two alone."""
SPECK = 0.08
"""Of the largest stroke's area: what is smaller is no stroke."""
JUDGED = 64
"""Pixels of the height and width of what the judge sees."""
FAINT = 4.0
"""How much strokes have to stand out from the paper's own deviations."""


@dataclass(frozen=True)
class Prepared:
    """A picture for the model."""

    image: Image.Image
    changes: list[str]
    """What was done; empty if it is unchanged."""
    found: bool
    """Whether there are strokes in it."""


def prepare(image: Image.Image, height: int, width: int) -> Prepared:
    """Bring a picture of digits, RGB, to what the model of moving digits knows, for videos of height x width.

    Strokes are what stands out most from the paper around it, in any colour; they are drawn anew in white on black,
    centred, and as wide as those of the training at least. Pictures without any stay as they are.
    """
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    scale = WORKING / max(pixels.shape[:2])
    shape = tuple(max(round(side * scale), 1) for side in pixels.shape[1::-1])
    pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    paper = _paper(pixels)
    best = max((_strokes(pixels - paper, sign) for sign in (-1, 1)), key=lambda strokes: strokes.weight)
    if not best.weight:
        return Prepared(image, [], found=False)
    mask, sign, colourful = best.mask, best.sign, best.colourful
    side = max(max(w, h) for _, _, w, h in _digits(mask))
    known = 64 / max(pixels.shape[:2]) * side
    if image.width * height == image.height * width and sign > 0 and not colourful and KNOWN[0] <= known <= KNOWN[1]:
        rest = (pixels - paper).mean(-1)[cv2.dilate(np.uint8(mask), np.ones((15, 15))) == 0]
        if paper.max() <= DARKEST and (not rest.size or rest.std() <= EVEN):
            return Prepared(image, [], found=True)
    changes = ["inverted"] * (sign < 0) + ["made grey"] * colourful
    return Prepared(
        _redrawn(mask, side, height, width), [*changes, "background removed", "normalised", "centred"], True
    )


def _paper(pixels: np.ndarray) -> np.ndarray:
    """The empty paper under a picture, [h w 3], with its shadows: medians over squares larger than strokes.

    Where a picture has two brightnesses alone, and one of them is in strokes, the other is the paper: strokes may then
    be as wide as those of a digit that fills it.
    """
    levels = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    grey = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)
    light = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[1] > 0
    rim = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    paper = light == (rim.mean() > 0.5)
    if paper.mean() > 0.35 and not paper.all():
        within = sum(grey[of].var() * of.mean() for of in (paper, ~paper))
        half = cv2.distanceTransform(np.uint8(~paper), cv2.DIST_L2, 3).max()
        if within < TWO * grey.var() and half < WIDEST:
            return np.broadcast_to(np.median(pixels[paper], 0), pixels.shape)
    padded = cv2.copyMakeBorder(levels, *[PAPER // 2] * 4, cv2.BORDER_REPLICATE)
    inside = slice(PAPER // 2, -(PAPER // 2))
    smooth = cv2.GaussianBlur(cv2.medianBlur(padded, PAPER)[inside, inside].astype(np.float32), (0, 0), PAPER / 16)
    return smooth / 255


@dataclass(frozen=True)
class _Strokes:
    """What differs from the paper towards one side of brightness, as strokes do."""

    mask: np.ndarray
    """bool [h w]"""
    sign: int
    """Of their brightness."""
    colourful: bool
    """Whether they, or the paper, have a colour."""
    weight: float
    """How much there is of them, in area and in difference; those at an edge of the picture count less."""


def _strokes(difference: np.ndarray, sign: int) -> _Strokes:
    """The strokes in the difference to the paper, [h w 3], that are lighter than it (sign 1) or darker (-1).

    Ink differs from the paper in one direction of colour, that of the strongest differences. What reaches an edge of
    the picture and is wider or longer than the strokes that reach none is what lies around the paper.
    """
    nothing = _Strokes(np.zeros(difference.shape[:2], bool), sign, False, 0.0)
    smooth = cv2.GaussianBlur(difference, (0, 0), 1.0)
    signed = np.linalg.norm(smooth, axis=-1) * (np.sign(smooth.mean(-1)) == sign)
    strongest = smooth[signed >= max(np.quantile(signed, 0.98), 1e-6)]
    direction = strongest.mean(0) if len(strongest) else np.zeros(3)
    length = float(np.linalg.norm(direction))
    if length < 0.06:
        return nothing
    along = smooth @ (direction / length)
    if length < FAINT * 1.4826 * float(np.median(np.abs(along - np.median(along)))):
        return nothing
    ink = np.clip(along / length, 0, 1)
    cut = np.clip(cv2.threshold(np.uint8(255 * ink), 0, 255, cv2.THRESH_OTSU)[0] / 255, 0.25, 0.6)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.uint8(ink > cut), connectivity=8)
    if count == 1:
        return nothing
    left, top, width, height, area = stats[1:].T  # without the background
    edges = np.stack([left == 0, top == 0, left + width == ink.shape[1], top + height == ink.shape[0]]).sum(0)
    distance = cv2.distanceTransform(np.uint8(labels > 0), cv2.DIST_L2, 3)
    half = np.array([distance[labels == part].max() for part in range(1, count)])
    longer = np.maximum(width, height)
    inside = (edges == 0) & (longer >= LEAST) & (half < WIDEST)
    kept = np.ones(count - 1, bool)
    if inside.any():
        kept = (edges == 0) | (half <= 2.5 * half[inside].max()) & (longer <= 1.3 * longer[inside].max())
    kept &= area >= SPECK * area[kept].max()
    mask = np.isin(labels, 1 + np.flatnonzero(kept))
    colourful = float(np.quantile(np.ptp(difference, axis=-1), 0.99)) > GREY
    return _Strokes(mask, sign, colourful, length * float(area[kept & inside].sum() + 0.1 * area[kept].sum()))


def _digits(mask: np.ndarray) -> np.ndarray:
    """Boxes (left, top, width, height) of strokes that belong together, [n 4]: those that nearly touch."""
    near = cv2.dilate(np.uint8(mask), np.ones((9, 9)))
    labels = cv2.connectedComponents(near)[1] * mask
    return np.array([cv2.boundingRect(np.uint8(labels == part)) for part in np.unique(labels[mask])])


def _redrawn(mask: np.ndarray, side: int, height: int, width: int) -> Image.Image:
    """The strokes in white on black, RGB: the larger digit, of `side` pixels, gets SIZE, or all of them MOST."""
    left, top, w, h = cv2.boundingRect(np.uint8(mask))
    unit, whole = min(height, width) / 64, (FINE * width, FINE * height)
    scale = FINE * unit * min(SIZE / side, MOST / max(w, h))
    middle = np.array([left + (w - 1) / 2, top + (h - 1) / 2])
    shift = (np.array(whole) - 1) / 2 - scale * middle
    matrix = np.column_stack([scale * np.eye(2), shift])
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.5 / scale, 0.7))
    fine = cv2.warpAffine(soft, matrix, whole, flags=cv2.INTER_LINEAR) > 0.5
    if not fine.any():  # strokes of less than a part of a pixel
        fine = cv2.warpAffine(soft, matrix, whole, flags=cv2.INTER_LINEAR) > 0.1
    inside, outside = (cv2.distanceTransform(np.uint8(of), cv2.DIST_L2, 3) / FINE for of in (fine, ~fine))
    own = half_widths(inside, 0.5)[0]
    distance = inside - outside + np.clip(own, *(unit * np.array(STROKE))) - own
    light = cv2.resize(np.clip(distance + 0.5, 0, 1).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return Image.fromarray(np.repeat(np.round(255 * light).astype(np.uint8)[..., None], 3, -1))


class Preparation:
    """Prepares pictures for videos of height x width, says what it did, and warns of those without digits."""

    def __init__(self, height: int, width: int, device: str):
        from svd_tools.digits.judge import load_judge  # MindSpore takes seconds to import

        self.height, self.width = height, width
        self.judge = load_judge(DIGITS / "judge.safetensors", device, JUDGED, source=None)

    def __call__(self, image: Image.Image, path: Path) -> Image.Image:
        """The picture for the model."""
        from svd_tools.digits.judge import judge_frames

        prepared = prepare(image, self.height, self.width)
        if prepared.changes:
            log(f"{path}: {', '.join(prepared.changes)} (--prepare=none leaves it as it is)")
        shown = np.asarray(prepared.image.resize((JUDGED, JUDGED), Image.Resampling.BICUBIC))
        seen = judge_frames(self.judge, shown[None], batch_size=1)[0]
        if not prepared.found:
            log(f"warning: {path}: nothing in it stands out from the background, and the model knows digits alone")
        elif seen.max() < self.judge.sure:
            doubt = f"at most a {seen.argmax()}, with {seen.max():.0%}"
            log(f"warning: {path}: the judge sees no digit in it ({doubt}), and the model knows digits alone")
        return prepared.image
