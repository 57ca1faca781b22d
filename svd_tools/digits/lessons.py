"""Training data of the judge: augmented clips of real handwriting, with labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from mindspore import Tensor, nn, ops

from svd.data.dataset import Dataset
from svd.data.handwriting import CLASSES
from svd.data.moving_digits import DigitsClip, MovingDigits
from svd.seeds import Purpose, generator
from svd_tools.digits.image_encoder import cross_entropy
from svd_tools.digits.judge import CELL, LAYOUT, MOTIONS, SURE, DigitJudge, classes_present, judge_frames, judge_videos
from svd_tools.digits.motion import speed
from svd_tools.digits.scores import Clips

FRAMES = 7
"""Frames of a training clip: half of a model's, so that twice as many are seen in the same time."""
SCRIBBLES = 8
"""Every so many-th picture shows lines or spots that are no digit."""


@dataclass(frozen=True)
class Lesson:
    """FRAMES frames to learn from: one clip, or as many clips of one frame."""

    clips: list[DigitsClip]
    path: str


class Lessons(Dataset):
    """Every fourth lesson is a clip; the others show more handwriting in the same number of frames, mostly alone.

    Of other handwriting than scikit-learn's, two in eleven are nevertheless of that: a judge of MNIST knows it, too.
    """

    def __init__(self, lessons: int, source: str = "sklearn", **data):
        sources = {source: None, "sklearn": None}  # in this order, and once
        self.clips = [MovingDigits(lessons, frames=FRAMES, source=name, **data) for name in sources]
        alone = {"frames": 1, "digits": [1, 1, 2], **data}
        self.pictures = [MovingDigits(lessons * FRAMES, source=name, **alone) for name in sources]

    def __len__(self) -> int:
        return len(self.clips[0])

    def name(self, index: int) -> str:
        return self.clips[0].name(index)

    def load(self, index: int, rng: np.random.Generator) -> Lesson:
        if index % 4 == 0:
            return Lesson([self._source(self.clips, index).load(index)], self.name(index))
        pictures, first = self._source(self.pictures, index), index * FRAMES
        return Lesson([self._picture(pictures, number) for number in range(first, first + FRAMES)], self.name(index))

    def _source(self, datasets: list[MovingDigits], index: int) -> MovingDigits:
        return datasets[-1 if index % 11 in (3, 8) else 0]

    def _picture(self, pictures: MovingDigits, number: int) -> DigitsClip:
        clip = pictures.load(number)
        if number % SCRIBBLES:
            return clip
        frame = scribble(clip.frames.shape[1], np.random.default_rng(number))
        return replace(clip, frames=np.repeat(frame[None, ..., None], 3, -1), digits=(), centres=clip.centres[:, :0])


def scribble(size: int, rng: np.random.Generator) -> np.ndarray:
    """A picture without a digit, uint8 [size size]: level lines of smooth noise, or its hills, in a round window."""
    noise = cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), rng.uniform(2.5, 6.0))
    noise /= noise.std()
    radius, middle = rng.uniform(8, 24), rng.uniform(12, size - 12, 2)
    distance = np.hypot(*(np.indices((size, size)) - middle[:, None, None]))
    light = rng.uniform(0.15, 0.4) - np.abs(noise) if rng.random() < 0.7 else noise - rng.uniform(0.5, 1.5)
    light = np.clip(4 * light + 0.5, 0, 1) * np.clip(radius - distance, 0, 1)
    return np.round(255 * rng.uniform(0.75, 1.0) * light).astype(np.uint8)


class JudgeLoss(nn.Cell):
    """Cross-entropies of what each frame and the clip show, and of the cell where it is; squared errors of the rest.

    Labels with positions are easier to learn from. Where a digit is is a choice among the cells: told of each cell by
    itself, between two of them a digit would be half in both, and seen in neither.
    """

    def __init__(self, judge: DigitJudge):
        super().__init__(auto_prefix=False)
        self.judge = judge

    def construct(self, video: Tensor, maps: Tensor, layout: Tensor, motion: Tensor, is_clip: Tensor) -> Tensor:
        """video [b t 3 h w], where digits are, as 0 and 1, [b t 10 cells], the layout of frames [b t 4], the motion
        [b 6], and 1 for what is a clip, or else 0, [b 1] -> a scalar, the mean over lessons
        """
        seen, places, _, clip = self.judge(video)
        present = ops.minimum(ops.reduce_sum(maps, 3), 1.0)  # [b t 10]
        whole = ops.logsumexp(seen, 3)
        frames = ops.mean(cross_entropy(whole, present))
        cells = ops.mean(ops.reduce_sum(maps * (ops.expand_dims(whole, 3) - seen), 3))
        digits = ops.mean(is_clip * cross_entropy(clip[:, :CLASSES], present[:, 0]))
        errors = ops.mean(ops.square(places - layout)) + ops.mean(is_clip * ops.square(clip[:, CLASSES:] - motion))
        return cells + frames + digits + errors


class JudgeTask:
    """The objective of the judge; every lesson is augmented with its own generator."""

    def __init__(self, judge: DigitJudge, seed: int):
        self.trained = {f"judge.{parameter.name}": parameter for parameter in judge.get_parameters()}
        self.loss, self.seed = JudgeLoss(judge), seed

    def inputs(self, lessons: list[Lesson], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for lessons and their sample numbers."""
        rows = map(self._row, lessons, samples)
        return tuple(Tensor(np.stack(column).astype(np.float32)) for column in zip(*rows))

    def _row(self, lesson: Lesson, sample: int) -> tuple[np.ndarray, ...]:
        parts, rng = [], generator(self.seed, sample, Purpose.LOSS)
        for clip in lesson.clips:
            video, centres = altered(clip, rng)
            size = video.shape[-1]
            parts.append((video, digit_maps(clip.digits, centres, size), layout(centres, size)))
        video, maps, places = (np.concatenate(arrays) for arrays in zip(*parts))
        is_clip = len(lesson.clips) == 1
        return video, maps, places, motion(centres) if is_clip else np.zeros(MOTIONS), np.array([is_clip])


def altered(clip: DigitsClip, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The clip [t 3 h w] in [-1, 1] as other writers, or a generator of videos, might show it, and its centres [t n 2].

    It is rotated, sheared and stretched, for variety beyond 1,500 pictures; and blurred, darkened and made noisy, so
    that an imperfect video is judged by what it shows. One clip in four shakes.
    """
    t, h, w, _ = clip.frames.shape
    angle, slant = rng.uniform(-0.15, 0.15, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, slant], [0, 1]]) * rng.uniform(0.88, 1.12, 2)
    middle = np.array([w - 1, h - 1]) / 2
    shifts = rng.uniform(0, 2) * (rng.random() < 0.25) * rng.standard_normal((t, 2)) + middle - matrix @ middle
    sigma, bright, noise = rng.uniform(0.05, 1.0), rng.uniform(0.7, 1.0), rng.uniform(0, 0.05)
    warps = [np.column_stack([matrix, shift]) for shift in shifts]
    moved = [cv2.warpAffine(frame, warp, (w, h)) for frame, warp in zip(clip.frames, warps)]
    frames = [cv2.GaussianBlur(frame, (0, 0), sigma) for frame in moved]
    light = np.stack(frames).astype(np.float32) * (bright / 255)
    light += noise * rng.standard_normal(light.shape, dtype=np.float32)
    return 2 * np.clip(light, 0, 1).transpose(0, 3, 1, 2) - 1, clip.centres @ matrix.T + shifts[:, None]


def digit_maps(digits: tuple[int, ...], centres: np.ndarray, size: int) -> np.ndarray:
    """Which digit has its centre in which cell, as 0 and 1: [t 10 cells]"""
    side = size // CELL
    maps = np.zeros((len(centres), CLASSES, side, side), np.float32)
    column, row = np.clip(centres // CELL, 0, side - 1).astype(int).transpose(2, 0, 1)
    maps[np.arange(len(centres))[:, None], digits, row, column] = 1
    return maps.reshape(len(centres), CLASSES, -1)


def layout(centres: np.ndarray, size: int) -> np.ndarray:
    """What LAYOUT says of digits with these centres [t n 2], in parts of a cell: [t 4]; of none, zeros."""
    if not centres.shape[1]:
        return np.zeros((len(centres), LAYOUT))
    middle = centres.mean(1)
    return np.concatenate([middle - size / 2, np.abs(centres - middle[:, None]).mean(1)], -1) / CELL


def motion(centres: np.ndarray) -> np.ndarray:
    """What MOTIONS says of digits with these centres [t n 2]: [6]"""
    paths = centres.swapaxes(0, 1)
    steps = np.diff(paths, axis=1)
    change = np.linalg.norm(np.diff(steps, axis=1), axis=-1).mean()
    return np.array([speed(paths).mean(), *np.abs(steps).mean((0, 1)), *steps.mean((0, 1)), change])


def held_out_accuracy(judge: DigitJudge, data: MovingDigits, pictures: MovingDigits) -> dict[str, float]:
    """How often the judge sees exactly the digits in the last frames of clips, its mean error of their speed, and how
    often it sees exactly the digits of single pictures.
    """
    clips = Clips.of(data)
    seen = judge_videos(judge, clips.videos)
    right, counts = seen.shows(clips.present, frame=-1), sorted(set(clips.count.tolist()))
    rates = {f"last frames of {n} right": float(right[clips.count == n].mean()) for n in counts}
    error = np.abs(seen.speed - clips.speeds).mean()
    truth, seen_alone = seen_in_pictures(judge, pictures)
    rates["single digits right"] = float((truth == (seen_alone > 0.5)).all(-1).mean())
    rates[SURE] = float(np.quantile(seen_alone[truth], 0.02))
    return {**rates, "mean error of the speed, pixels per frame": float(error)}


def seen_in_pictures(judge: DigitJudge, pictures: MovingDigits) -> tuple[np.ndarray, np.ndarray]:
    """Which digits the first frames of clips show, bool [n 10], and how probable the judge finds each of them there."""
    clips = [pictures.load(index) for index in range(len(pictures))]
    seen = judge_frames(judge, np.stack([clip.frames[0] for clip in clips]))
    return classes_present([clip.digits for clip in clips]), seen
