"""CLIP's image preprocessing, numerically equal to that of the published model.

Stability's `FrozenOpenCLIPImageEmbedder.preprocess` resizes with kornia: a Gaussian blur against aliasing,
then PyTorch's bicubic interpolation with aligned corners. Both are linear and separable, so that the resize is
one matrix per axis. MindSpore's bicubic is another function (a = -0.5) without antialiasing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def clip_preprocess(images: np.ndarray, size: int = 224) -> np.ndarray:
    """Resize `images` [b 3 h w] in [-1, 1] to CLIP's size and normalise them: float32 [b 3 size size]."""
    height, width = images.shape[-2:]
    # [size h] @ [b 3 h w] @ [w size]
    resized = resize_matrix(height, size) @ images @ resize_matrix(width, size).T
    return (((resized + 1) / 2 - CLIP_MEAN) / CLIP_STD).astype(np.float32)


@lru_cache(maxsize=64)
def resize_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Resizing of one axis, blur where it shrinks and then bicubic, as a read-only matrix float64 [out in].

    kornia blurs both axes if either shrinks, but the other with a deviation of 0.001 pixels, which is the
    identity; the axes are therefore independent.
    """
    positions, weights = _bicubic(in_size, out_size)  # [out 4], of the blurred axis
    offsets, kernel = _gaussian(in_size / out_size)  # [k]
    positions = positions[..., None] + offsets  # [out 4 k], of the axis itself
    # Borders are reflected: -1 is read as 1. No kernel reaches as far as `in_size`, so once is enough.
    positions = in_size - 1 - np.abs(in_size - 1 - np.abs(positions))
    matrix = np.zeros((out_size, in_size))
    rows = np.arange(out_size)[:, None, None]
    np.add.at(matrix, (rows, positions), weights[..., None] * kernel)  # accumulates repeated positions
    matrix.flags.writeable = False  # the cache returns the same array to all callers
    return matrix


def _gaussian(factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and weights [k] of the blur before shrinking by `factor`: sigma = (factor - 1) / 2 pixels."""
    if factor <= 1:
        return np.array([0]), np.array([1.0])
    sigma = max((factor - 1) / 2, 0.001)
    radius = int(max(4 * sigma, 3)) // 2  # int(max(4 sigma, 3)) taps, and one more if that is even
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    return offsets, kernel / kernel.sum()


def _bicubic(in_size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and weights [out 4] of PyTorch's bicubic interpolation, corners aligned, borders repeated."""
    # The reference computes positions in float32; on noise, exact ones are off by more than 2e-5.
    step = np.float32(in_size - 1) / np.float32(max(out_size - 1, 1))
    centres = np.arange(out_size, dtype=np.float32) * step
    floors = np.floor(centres)
    taps = np.arange(-1, 3)
    distances = np.abs((centres - floors).astype(np.float64)[:, None] - taps)
    return np.clip(floors.astype(int)[:, None] + taps, 0, in_size - 1), _cubic(distances)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' convolution kernel at distances in [0, 2] (Keys 1981), with PyTorch's a = -0.75."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)
