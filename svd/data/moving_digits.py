"""Moving digits: synthetic clips of handwritten digits that bounce in a square (arXiv 1502.04681, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import cv2
import numpy as np

from svd.data.dataset import Dataset, check_data
from svd.data.handwriting import LARGEST, SIDE, Look, Part, Pen, drawn, handwriting, styled, varied
from svd.data.video_dataset import Clip
from svd.seeds import Purpose, generator

FASTEST = 4.0
"""Pixels per frame of motion bucket 255, whatever the speeds of a dataset: one model may learn from several."""
SLOW, FAST = 85.0, 170.0
"""Motion buckets below the first are slow in captions, those from the second on are fast."""
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST = 1 << 32
"""Added to the numbers of held-out clips, so that their motion differs from that of training clips, too."""


@dataclass(frozen=True, kw_only=True)
class DigitsClip(Clip):
    """A clip and its ground truth.

    `digits` are the classes (0 to 9), `speed` is in pixels per frame, the same for all digits, and `centres` are their
    centres, (x, y) in pixels, [t n 2]. `sides` are the heights and widths of the squares that they move in, in pixels.
    """

    digits: tuple[int, ...]
    speed: float
    centres: np.ndarray
    sides: tuple[int, ...]


def describe(digits: Sequence[int], bucket: float) -> str:
    """The caption of digits that move at the speed of a motion bucket: a three; a fast seven and a fast two."""
    speed = "slow " if bucket < SLOW else "fast " if bucket >= FAST else ""
    named = [f"{'an' if not speed and digit == 8 else 'a'} {speed}{NAMES[digit]}" for digit in digits]
    return " and ".join([", ".join(named[:-1])] * (len(named) > 1) + named[-1:])


class MovingDigits(Dataset):
    """Clips of handwritten digits that bounce in a square, generated on demand.

    All digits of a clip have the same speed, each its own direction. Unlike Moving MNIST's, they move by fractions of
    pixels and bounce exactly at the edge. The motion bucket is proportional to the speed, and 255 at FASTEST or more.
    Captions say which digits there are, and whether they are slow or fast (`describe`).

    Args:
        clips: Number of clips.
        frames: Frames of a clip.
        digits: Numbers of digits that a clip may have, equally likely.
        speed: Slowest and fastest, in pixels per frame.
        direction: Common direction, in degrees from the right towards the bottom; digits then start where they do not
            reach an edge. By default each has its own.
        varied: Share of the digits that are augmented (rotation, shear, size, stroke width), so that a model learns
            more handwriting than the source has.
        natural: Share of the clips that are drawn as people's pictures are: digits of 20 to 32 pixels, of their own
            slants, stroke widths, soft or hard edges, grey ink, and a background that is not quite black, nor even.
            The others show digits as they are in the source. Not together with `varied`.
        looks: Looks that a clip may have, equally likely: plain, thick or italic strokes, or inverted (black on white).
        size: Pixels of a clip's height and width.
        fps: Frames per second.
        source: Handwriting: sklearn, or a folder of MNIST's idx files.
        part: train or test; handwriting in test is by other people than that in train.
        seed: Together with its number, it determines a clip.

    Raises:
        DatasetError: an argument cannot be used, or the handwriting is missing.
    """

    captioned = True

    def __init__(
        self,
        clips: int = 10000,
        frames: int = 14,
        digits: list[int] = [1, 2],  # noqa: B006 (never changed; jsonargparse shows it)
        speed: list[float] = [0.0, 4.0],  # noqa: B006
        direction: Optional[float] = None,
        varied: float = 0.0,
        natural: float = 0.0,
        looks: list[Look] = ["plain"],  # noqa: B006
        size: int = 64,
        fps: int = 7,
        source: str = "sklearn",
        part: Part = "train",
        seed: int = 0,
    ):
        for name, value in (("clips", clips), ("frames", frames), ("fps", fps)):
            check_data(value >= 1, f"{name} must be positive, got {value}")
        check_data(min(digits, default=0) >= 1, f"digits must be numbers of digits, 1 or more, got {digits}")
        in_order = len(speed) == 2 and 0 <= speed[0] <= speed[1] > 0
        check_data(in_order, f"speed must be the slowest and fastest, got {speed}")
        check_data(bool(looks), "looks must not be empty")
        check_data(0 <= varied <= 1, f"varied is a share from 0 to 1, got {varied}")
        check_data(0 <= natural <= 1, f"natural is a share from 0 to 1, got {natural}")
        check_data(not (varied and natural), "varied and natural change the same digits: leave one of them 0")
        largest = LARGEST if natural else SIDE
        check_data(size > largest, f"size must be more than a digit's {largest} pixels, got {size}")
        check_data(
            direction is None or speed[1] * (frames - 1) <= size - largest,
            f"direction: at {speed[1]} pixels per frame, {frames} frames take a digit further than to the edge",
        )
        check_data(seed >= 0, f"seed must not be negative, got {seed}")
        self.frames, self.height, self.width = frames, size, size
        self._clips, self._digits, self._speed, self._fps = clips, digits, speed, fps
        self._direction, self._varied, self._natural, self._looks = direction, varied, natural, looks
        self._source, self._part, self._seed = source, part, seed
        handwriting(source, part)  # fails now if it is missing

    def __len__(self) -> int:
        return self._clips

    def name(self, index: int) -> str:
        return f"{self._part} clip {index} of seed {self._seed}"

    def enter_worker(self) -> None:
        cv2.setNumThreads(1)  # parallelism comes from processes

    def load(self, index: int, rng: Optional[np.random.Generator] = None) -> DigitsClip:
        """The clip of this number; `rng` is not used."""
        rng = generator(self._seed, index + TEST * (self._part == "test"), Purpose.DATA)
        pictures, classes = handwriting(self._source, self._part)
        chosen = rng.integers(len(pictures), size=rng.choice(self._digits))
        slowest, fastest = self._speed
        speed = rng.uniform(slowest, fastest)
        shown, pen = list(pictures[chosen]), None
        if self._natural and rng.random() < self._natural:
            pen = Pen.of(rng)
            shown = [drawn(digit, pen, rng) for digit in shown]
        sides = [len(digit) for digit in shown]
        corners = np.stack([self._path(speed, side, rng) for side in sides], 1)  # [t n 2]
        if self._varied:
            shown = [varied(digit, rng) if rng.random() < self._varied else digit for digit in shown]
        look = self._looks[rng.integers(len(self._looks))]
        shown = [styled(digit, look) for digit in shown]
        frames = np.stack([self._draw(shown, places, pen) for places in corners])
        frames = 255 - frames if look == "inverted" else frames
        names, bucket = tuple(int(digit) for digit in classes[chosen]), min(255 * speed / FASTEST, 255.0)
        return DigitsClip(
            frames=np.repeat(frames[..., None], 3, -1),
            fps=self._fps,
            motion_bucket_id=bucket,
            path=self.name(index),
            caption=describe(names, bucket),
            digits=names,
            speed=float(speed),
            centres=corners + (np.array(sides)[:, None] - 1) / 2,
            sides=tuple(sides),
        )

    def _path(self, speed: float, side: int, rng: np.random.Generator) -> np.ndarray:
        """The upper left corner of a square of this side in each frame, [t 2]."""
        room = self.width - side
        direction, place = rng.uniform(-np.pi, np.pi), rng.uniform(0, 1, 2)
        if self._direction is not None:
            direction = np.radians(self._direction)
        steps = np.arange(self.frames)[:, None] * speed * np.array([np.cos(direction), np.sin(direction)])
        if self._direction is None:
            straight = place * room + steps
        else:
            straight = place * (room - np.ptp(steps, 0)) - steps.min(0) + steps
        return room - np.abs(straight % (2 * room) - room)  # reflected at both edges

    def _draw(self, pictures: Sequence[np.ndarray], corners: np.ndarray, pen: Optional[Pen]) -> np.ndarray:
        """The sum of digits [s s] at corners [n 2]; with a pen in its colours: uint8 [h w]."""
        frame = np.zeros((self.height, self.width), np.float32)
        for picture, (x, y) in zip(pictures, corners):
            shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
            frame += cv2.warpAffine(picture, shift, frame.shape[::-1], flags=cv2.INTER_LINEAR)
        frame = np.minimum(frame, 1)
        if pen is not None:
            ground = pen.background(self.width)
            frame = ground + frame * (pen.ink - ground)
        return np.round(255 * np.clip(frame, 0, 1)).astype(np.uint8)
