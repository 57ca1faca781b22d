"""Resizing of pictures as the published code of a metric does it: values of a metric depend on it."""

from __future__ import annotations

import numpy as np


def bilinear(x: np.ndarray, height: int, width: int, align_corners: bool = False) -> np.ndarray:
    """Pictures float32 [... h w] resized by PyTorch's bilinear interpolation, without antialiasing."""
    for axis, size in ((-2, height), (-1, width)):
        length = x.shape[axis]
        if length == size:
            continue
        lower, upper, share = _taps(length, size, align_corners)
        share = share[:, None] if axis == -2 else share
        low, high = (np.take(x, index, axis) for index in (lower, upper))
        x = low + share * (high - low)
    return x


def _taps(length: int, size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pixel of the result: the two it lies between, and how near it is to the second, [size] each."""
    places = np.arange(size, dtype=np.float64)
    if align_corners:
        centres = places * ((length - 1) / max(size - 1, 1))
    else:
        centres = np.maximum((places + 0.5) * (length / size) - 0.5, 0)
    lower = np.minimum(centres.astype(np.int64), length - 1)
    return lower, np.minimum(lower + 1, length - 1), (centres - lower).astype(np.float32)


def channels_first(frames: np.ndarray) -> np.ndarray:
    """uint8 [... h w 3] -> float32 [... 3 h w], 0 to 255."""
    return np.moveaxis(frames, -1, -3).astype(np.float32)
