"""Images of handwritten digits: scikit-learn's, or MNIST's from its idx files."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np

from svd.data.dataset import DatasetError, check_data

SIDE = 28
"""Pixels of a digit's height and width, as in MNIST."""
CLASSES = 10
SIZES = 20.0, 32.0
"""Pixels of the longer side of a digit as people draw it (`drawn`); MNIST's has 20."""
MARGIN = 4
"""Pixels around it, as MNIST's has about."""
LARGEST = round(SIZES[1]) + 2 * MARGIN
"""Most pixels of the height and width of what `drawn` gives."""
FINE = 4
"""Parts of a pixel, on each axis, in which strokes are widened."""
Part = Literal["train", "test"]
Look = Literal["plain", "thick", "italic", "inverted"]


@cache
def handwriting(source: str, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Images of single digits, white on black, and their classes: float32 [n 28 28] in [0, 1], and [n].

    Args:
        source: `sklearn` for the 1,797 digits of scikit-learn, or a folder with MNIST's idx files.
        part: `test` is by other writers than `train`.

    Raises:
        DatasetError: scikit-learn is not installed, or the folder has no MNIST.
    """
    check_data(part in ("train", "test"), f"part must be train or test, got {part!r}")
    return _bundled(part) if source == "sklearn" else _mnist(source, part)


def varied(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment a digit as another hand might have drawn it, about its centre: float32 [28 28] -> the same.

    It is rotated by up to 0.25 radians, sheared by up to 0.25, and scaled by 0.65 to 1, its width by a further 0.85 to
    1. Blurring and thresholding at a random grey makes strokes thicker or thinner.
    """
    (angle, slant), size, width = rng.uniform(-0.25, 0.25, 2), rng.uniform(0.65, 1.0), rng.uniform(0.85, 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = size * turn @ np.array([[width, slant], [0, 1]])
    middle = np.full(2, (SIDE - 1) / 2)
    moved = cv2.warpAffine(picture, np.column_stack([matrix, middle - matrix @ middle]), picture.shape)
    blurred = cv2.GaussianBlur(moved, (0, 0), 1.0)
    cut = rng.uniform(0.3, 0.75)
    return np.clip((blurred / max(blurred.max(), 1e-3) - cut) / 0.4 + 0.5, 0, 1)


@dataclass(frozen=True)
class Pen:
    """What a clip is drawn with, and on: lengths in pixels, brightness from 0 to 1."""

    width: float
    """Of half a stroke of a digit of 26 pixels, and in proportion of others."""
    edge: float
    """Over which a stroke fades out: hard edges are of less than a pixel."""
    ink: float
    """Brightness of the strokes."""
    ground: tuple[float, float, float]
    """Brightness of the background in the middle, and how much it rises to the right and to the bottom."""

    @staticmethod
    def of(rng: np.random.Generator) -> Pen:
        """One as people's pictures have, light on dark."""
        level, (across, down) = 0.15 * rng.random() ** 2, rng.uniform(-1, 1, 2)
        width, edge = rng.uniform(0.8, 2.3), 0.6 * 5 ** rng.random()
        return Pen(width, edge, rng.uniform(0.75, 1.0), (level, level / 2 * across, level / 2 * down))

    def background(self, size: int) -> np.ndarray:
        """The empty paper: float32 [size size]."""
        level, across, down = self.ground
        slope = np.linspace(-0.5, 0.5, size, dtype=np.float32)
        return level + across * slope + down * slope[:, None]


def drawn(picture: np.ndarray, pen: Pen, rng: np.random.Generator) -> np.ndarray:
    """Draw a digit with a pen, as another hand might have: float32 [28 28] -> [s s], white on black.

    It is rotated by up to 0.2 radians, slanted by up to 0.3, narrowed to 0.8 at most, and its longer side has SIZES
    pixels, with MARGIN around it. Strokes get the pen's width, however wide they were, but lose no more than 0.6 of
    what the thinnest have: others would break.
    """
    (angle, slant), narrow, size = rng.uniform((-0.2, -0.3), (0.2, 0.3)), rng.uniform(0.8, 1.0), rng.uniform(*SIZES)
    side = round(size) + 2 * MARGIN
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = turn @ np.array([[narrow, slant], [0, 1]])
    inked = np.argwhere(picture > 0.3)[:, ::-1]  # (x, y)
    if not len(inked):
        return np.zeros((side, side), np.float32)
    moved = inked @ shape.T
    low, high = moved.min(0) - 0.5, moved.max(0) + 0.5
    scale = FINE * size / (high - low).max()
    shift = (FINE * side - 1) / 2 - scale * (low + high) / 2
    matrix = np.column_stack([scale * shape, shift])
    fine = cv2.warpAffine(picture, matrix, (FINE * side, FINE * side), flags=cv2.INTER_CUBIC) > 0.5
    inside, outside = (cv2.distanceTransform(np.uint8(of), cv2.DIST_L2, 3) / FINE for of in (fine, ~fine))
    own, thinnest = half_widths(inside, 0.5, 0.2)
    distance = inside - outside + max(pen.width * size / 26 - own, -0.6 * thinnest)
    light = np.clip(distance / pen.edge + 0.5, 0, 1)
    return cv2.resize(light.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)


def half_widths(inside: np.ndarray, *quantiles: float) -> np.ndarray:
    """Quantiles of half the widths of strokes, from the distances to what is no stroke [h w]; zeros without any."""
    ridge = inside[(inside > 0) & (inside >= cv2.dilate(inside, np.ones((3, 3))))]  # in the middle of strokes
    return np.quantile(ridge, quantiles) if len(ridge) else np.zeros(len(quantiles))


def styled(picture: np.ndarray, look: Look) -> np.ndarray:
    """A digit in thick strokes, or italic: sheared by 0.5 about its centre; float32 [28 28] -> the same."""
    if look == "thick":
        return cv2.dilate(picture, np.ones((3, 3), np.uint8))
    if look == "italic":
        shear = np.array([[1, -0.5, (SIDE - 1) / 4], [0, 1, 0]])
        return cv2.warpAffine(picture, shear, picture.shape)
    return picture


def _bundled(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits of 8 x 8 pixels, enlarged and sharpened."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DatasetError('scikit-learn, which has the digits, is missing: pip install -e ".[digits]"') from error
    small, classes = load_digits(return_X_y=True)
    # Sorted by writer, about 130 each. One begins at 1545; the rest of the one before is left out.
    chosen = slice(0, 1500) if part == "train" else slice(1545, None)
    pictures = [
        cv2.resize(picture.reshape(8, 8).astype(np.float32) / 16, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        for picture in small[chosen]
    ]
    return np.clip((np.stack(pictures) - 0.25) / 0.5, 0, 1).astype(np.float32), classes[chosen].astype(np.int64)


def _mnist(folder: str, part: Part) -> tuple[np.ndarray, np.ndarray]:
    stem = "train" if part == "train" else "t10k"
    pictures = _read_idx(folder, f"{stem}-images-idx3-ubyte").astype(np.float32) / 255
    classes = _read_idx(folder, f"{stem}-labels-idx1-ubyte").astype(np.int64)
    if pictures.shape != (len(classes), SIDE, SIDE):
        raise DatasetError(f"{folder}: its pictures {list(pictures.shape)} are not one of 28 x 28 for each label")
    return pictures, classes


def is_mnist(folder: str) -> bool:
    """Whether a folder has idx files of MNIST."""
    name = os.path.join(folder, "t10k-images-idx3-ubyte")
    return os.path.isfile(name) or os.path.isfile(f"{name}.gz")


def _read_idx(folder: str, name: str) -> np.ndarray:
    """An array of bytes from an idx file, gzipped or not."""
    for path, reader in ((os.path.join(folder, name), open), (os.path.join(folder, f"{name}.gz"), gzip.open)):
        if os.path.isfile(path):
            try:
                with reader(path, "rb") as file:
                    content = file.read()
                zero, kind, dimensions = struct.unpack_from(">HBB", content)
                shape = struct.unpack_from(f">{dimensions}I", content, 4)
                if (zero, kind) != (0, 8):  # 8: of unsigned bytes
                    raise ValueError("its first bytes say otherwise")
                return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
            except (struct.error, ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DatasetError(f"{path}: not a complete idx file of bytes ({error}); copy it again") from error
    raise DatasetError(f"{folder}: no file {name} or {name}.gz; give a folder of MNIST's idx files, or sklearn")
