"""Moving MNIST: two digits that move across a black square (arXiv 1502.04681), made of MNIST's digits by the rules of
swookey-thinky/xdiffusion's recipe, or read from a published file.
"""

from __future__ import annotations

import os
import zipfile
from functools import cache
from typing import Optional

import numpy as np
from PIL import Image

from svd.data.dataset import Dataset, DatasetError, check_data
from svd.data.handwriting import SIDE, Part, handwriting
from svd.data.moving_digits import NAMES, TEST, DigitsClip
from svd.data.video_dataset import Clip
from svd.seeds import Purpose, generator

CANVAS = 64
"""Pixels of the square's height and width before it is resized."""
SLOWEST, FASTEST = 2, 6
"""Pixels of the canvas per frame."""
BEYOND = 2
"""Pixels by which a corner may leave the canvas before the digit turns back."""


class MovingMNIST(Dataset):
    """Clips of Moving MNIST. They have no motion bucket; captions, of clips that are made, say the digits in words or
    figures, such as "three and 7".

    A made clip is determined by the seed and its number: each digit has a direction of its own and a whole number of
    pixels per frame, 2 to 6 of 64; where it would leave the square by more than two pixels, that part of its motion
    turns back first. Digits are drawn at whole pixels, and added.

    Args:
        source: A folder of MNIST's idx files; or the published mnist_test_seq.npy, or a .npz of clips (xdiffusion's
            has 10,000 of 30 frames).
        clips: Number of clips: of a file, those from the first on that `part` says; all of them if not given, and
            20,000 of a folder.
        frames: Frames of a clip; of a file, the first ones.
        size: Pixels of a clip's height and width.
        digits: Digits of a made clip.
        fps: Frames per second.
        part: train or test: other digits of a folder. Of a file, test are the last 1,000 clips, and train all others.
        seed: Together with its number, it determines a made clip.

    Raises:
        DatasetError: an argument cannot be used, or the source cannot be read.
    """

    captioned = True

    def __init__(
        self,
        source: str = "",
        clips: Optional[int] = None,
        frames: int = 16,
        size: int = 32,
        digits: int = 2,
        fps: int = 8,
        part: Part = "train",
        seed: int = 0,
    ):
        for name, value in (("clips", clips), ("frames", frames), ("size", size), ("digits", digits), ("fps", fps)):
            check_data(value is None or value >= 1, f"{name} must be positive, got {value}")
        check_data(part in ("train", "test"), f"part must be train or test, got {part!r}")
        check_data(bool(source), "source is missing: a folder of MNIST's idx files, or a file of clips")
        check_data(size <= CANVAS, f"size must be at most {CANVAS}, got {size}")
        check_data(seed >= 0, f"seed must not be negative, got {seed}")
        self.frames, self.height, self.width = frames, size, size
        self._source, self._digits, self._fps, self._part, self._seed = source, digits, fps, part, seed
        self._of_file = source.endswith((".npy", ".npz"))
        self._first, self._clips = 0, clips or 20_000
        if not self._of_file:
            handwriting(source, part)  # fails now if it is missing
            return
        check_data(seed == 0 and digits == 2, f"seed and digits are for clips that are made, not those of {source}")
        self.captioned = False
        there, length = shape_of(source)
        check_data(frames <= length, f"frames must be at most {length}, those of a clip in {source}, got {frames}")
        held_out = min(1000, there // 10)
        most = held_out if part == "test" else there - held_out
        self._first, self._clips = (there - held_out) * (part == "test"), clips or most
        check_data(self._clips <= most, f"clips must be at most {most}, those of {source} for {part}, got {clips}")

    def __len__(self) -> int:
        return self._clips

    def name(self, index: int) -> str:
        if self._of_file:
            return f"clip {self._first + index} of {self._source}"
        return f"{self._part} clip {index} of seed {self._seed}"

    def load(self, index: int, rng: Optional[np.random.Generator] = None) -> Clip:
        """The clip of this number; `rng` is not used."""
        if self._of_file:
            frames = read_clips(self._source, self.frames, self.height)[self._first + index]
            return Clip(rgb(frames), self._fps, 0.0, self.name(index))
        rng = generator(self._seed, index + TEST * (self._part == "test"), Purpose.DATA)
        pictures, classes = handwriting(self._source, self._part)
        chosen = rng.integers(len(pictures), size=self._digits)
        corners = np.stack([path(self.frames, rng) for _ in chosen], 1)
        as_figures = rng.random(len(chosen)) < 0.5
        names, scale = tuple(int(digit) for digit in classes[chosen]), self.height / CANVAS
        return DigitsClip(
            frames=rgb(resized(drawn(pictures[chosen], corners.astype(int)), self.height)),
            fps=self._fps,
            motion_bucket_id=0.0,
            path=self.name(index),
            caption=" and ".join(str(digit) if figures else NAMES[digit] for digit, figures in zip(names, as_figures)),
            digits=names,
            speed=float(np.linalg.norm(np.diff(corners, axis=0), axis=-1).mean() * scale) if self.frames > 1 else 0.0,
            centres=(corners.astype(int) + SIDE / 2) * scale - 0.5,
            sides=(round(SIDE * scale),) * len(names),
        )


def path(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Upper left corners of a digit on the canvas, [t 2]."""
    room = CANVAS - SIDE
    direction, speed = rng.uniform(-np.pi, np.pi), rng.integers(SLOWEST, FASTEST + 1)
    place, step = rng.uniform(0, room, 2), speed * np.array([np.cos(direction), np.sin(direction)])
    corners = [place]
    for _ in range(frames - 1):
        ahead = corners[-1] + step
        step = np.where((ahead < -BEYOND) | (ahead > room + BEYOND), -step, step)
        corners.append(corners[-1] + step)
    return np.stack(corners)


def drawn(pictures: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The sum of digits, float32 [n 28 28] in [0, 1], at whole corners [t n 2] (x, y): uint8 [t 64 64]."""
    margin = FASTEST + BEYOND  # nothing is drawn further outside
    frames = np.zeros((len(corners), CANVAS + 2 * margin, CANVAS + 2 * margin), np.float32)
    for frame, places in zip(frames, corners + margin):
        for picture, (x, y) in zip(pictures, places):
            frame[y : y + SIDE, x : x + SIDE] += picture
    return np.round(255 * np.minimum(frames[:, margin:-margin, margin:-margin], 1)).astype(np.uint8)


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 [t h w] at another size, bilinear with antialiasing."""
    if frames.shape[1:] == (size, size):
        return frames
    box = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size), box)) for frame in frames])


def rgb(frames: np.ndarray) -> np.ndarray:
    """[t h w] -> [t h w 3]"""
    return np.repeat(frames[..., None], 3, -1)


def shape_of(path: str) -> tuple[int, int]:
    """How many clips a published file has, and of how many frames; raises DatasetError."""
    shape, dtype, _ = _header(path)
    by_frame = path.endswith(".npy")
    shape = shape[:1] + shape[2:] if len(shape) == 5 and shape[1] == 1 else shape
    if len(shape) != 4 or dtype != np.uint8 or min(shape) < 1:
        form = "[frames clips height width]" if by_frame else "[clips frames height width]"
        raise DatasetError(f"{path}: {dtype} {list(shape)} is not uint8 {form}")
    return (shape[1], shape[0]) if by_frame else (shape[0], shape[1])


def _header(path: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type, and whether it is in Fortran's order, of the only array of a .npy or .npz file."""
    try:
        if not os.path.isfile(path):  # a named pipe would be waited for for ever
            raise FileNotFoundError("there is no such file")
        with _open(path) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            return shape, dtype, fortran
    except DatasetError:
        raise
    except Exception as error:  # a damaged header can raise almost anything
        raise DatasetError(f"{path}: no array of clips can be read from it ({error}); give it anew") from error


def _open(path: str):
    """A file of an array in NumPy's format; that of a .npz is the only one within."""
    if path.endswith(".npy"):
        return open(path, "rb")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise DatasetError(f"{path}: it has {len(names)} arrays; give one with the clips alone")
        return archive.open(names[0])  # keeps the archive's file open


@cache
def read_clips(path: str, frames: int, size: int) -> np.ndarray:
    """The first frames of all clips of a published file at a size, uint8 [n t h w]; raises DatasetError.

    A .npz, which is compressed, is read clip by clip: whole it has more than a gigabyte.
    """
    n, length = shape_of(path)
    shape, _, fortran = _header(path)
    if fortran:
        raise DatasetError(f"{path}: its array is in Fortran's order; save it anew in C's")
    try:
        if path.endswith(".npy"):
            videos = np.lib.format.open_memmap(path, mode="r")
            return np.stack([resized(np.array(videos[:frames, index]), size) for index in range(n)])
        with _open(path) as file:
            version = np.lib.format.read_magic(file)
            (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
            each, clips = (length, *shape[-2:]), []
            for _ in range(n):
                video = np.frombuffer(file.read(int(np.prod(each))), np.uint8).reshape(each)
                clips.append(resized(video[:frames], size))
            return np.stack(clips)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: it cannot be read to the end ({error}); give it anew") from error
