"""PSNR and SSIM against their formulas, written out."""

import numpy as np
import pytest

from svd.metrics.fidelity import psnr, ssim

RNG = np.random.default_rng(0)
A = RNG.integers(0, 256, (2, 3, 14, 17, 3), dtype=np.uint8)
B = np.clip(A.astype(int) + RNG.integers(-30, 31, A.shape), 0, 255).astype(np.uint8)


def written_out(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of one channel [h w], place by place."""
    ticks = np.arange(11) - 5
    window = np.exp(-(ticks[:, None] ** 2 + ticks**2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = (z[y : y + 11, x : x + 11].astype(float) for z in (a, b))
            p_mean, q_mean = (window * p).sum(), (window * q).sum()
            p_variance, q_variance = (window * (p - p_mean) ** 2).sum(), (window * (q - q_mean) ** 2).sum()
            covariance = (window * (p - p_mean) * (q - q_mean)).sum()
            luminance = (2 * p_mean * q_mean + 2.55**2) / (p_mean**2 + q_mean**2 + 2.55**2)
            found.append(luminance * (2 * covariance + 7.65**2) / (p_variance + q_variance + 7.65**2))
    return float(np.mean(found))


def test_ssim():
    expected = [written_out(A[i, t, ..., c], B[i, t, ..., c]) for i in range(2) for t in range(3) for c in range(3)]
    assert ssim(A, B) == pytest.approx(np.mean(expected), rel=1e-9)
    assert ssim(A, A) == pytest.approx(1) and ssim(A, 255 - A) < 0
    with pytest.raises(ValueError, match="frames of 8 x 17 are smaller than the window"):
        ssim(A[:, :, :8], B[:, :, :8])


def test_psnr():
    error = np.mean([(int(a) - int(b)) ** 2 for a, b in zip(A.ravel(), B.ravel())])
    assert psnr(A, B) == pytest.approx(20 * np.log10(255) - 10 * np.log10(error))
    assert psnr(A, A) == float("inf")
