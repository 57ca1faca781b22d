"""How near frames are to their originals: PSNR and SSIM."""

from __future__ import annotations

import cv2
import numpy as np

WINDOW, DEVIATION = 11, 1.5
"""Pixels of SSIM's Gaussian window, and its standard deviation."""


def psnr(frames: np.ndarray, originals: np.ndarray) -> float:
    """Peak signal-to-noise ratio, in decibels, of uint8 frames [... h w c] together; infinite if they are equal."""
    error = np.mean((frames.astype(np.float64) - originals) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(frames: np.ndarray, originals: np.ndarray) -> float:
    """Structural similarity of uint8 frames [... h w c]: the mean over frames, channels and places of the window within
    the frame (Wang et al. 2004, equation 13, with its Gaussian window and constants).

    Raises:
        ValueError: frames are smaller than the window.
    """
    height, width, channels = frames.shape[-3:]
    if min(height, width) < WINDOW:
        raise ValueError(f"frames of {height} x {width} are smaller than the window, {WINDOW} x {WINDOW}")
    pairs = zip(*(x.reshape(-1, height, width, channels).astype(np.float64) for x in (frames, originals)))
    return float(np.mean([_similarity(*pair) for pair in pairs]))


def _similarity(a: np.ndarray, b: np.ndarray) -> float:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _mean(a), _mean(b)
    variance_a, variance_b = _mean(a * a) - mean_a**2, _mean(b * b) - mean_b**2
    covariance = _mean(a * b) - mean_a * mean_b
    contrast = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float(np.mean((2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast))


def _mean(x: np.ndarray) -> np.ndarray:
    """The mean within the window around each pixel that has a whole one."""
    edge = WINDOW // 2
    return cv2.GaussianBlur(x, (WINDOW, WINDOW), DEVIATION)[edge:-edge, edge:-edge]
