"""Classifier-free guidance with a scale per frame, in an interval of noise levels."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def linear_scale(minimum: float, maximum: float, num_frames: int) -> np.ndarray:
    """Return guidance scales rising from `minimum` at the first frame to `maximum` at the last: float64 [t].

    Stable Video Diffusion (arXiv 2311.15127, appendix D.4.1). One frame alone gets `minimum`.
    Raises ValueError when there is no frame.
    """
    return minimum + (maximum - minimum) * _positions(num_frames)


def triangular_scale(minimum: float, maximum: float, num_frames: int, period: float = 1.0) -> np.ndarray:
    """Return guidance scales that rise from minimum to maximum and fall back once per period: float64 [t].

    SV3D (arXiv 2403.12008), for closed orbits, whose last frame is again near the given one; the period is a
    fraction of the video. Raises ValueError when there is no frame or the period is not positive.
    """
    if not period > 0:
        raise ValueError(f"the period of the guidance scale must be positive, not {period}")
    phase = _positions(num_frames) / period
    return minimum + (maximum - minimum) * 2 * np.abs(phase - np.floor(phase + 0.5))


def guidance_applies(sigma: float, scale: ArrayLike, interval: tuple[float, float]) -> bool:
    """Return whether guidance has an effect at `sigma`: some scale is not 1, and low < sigma <= high.

    Kynkaanniemi et al. 2024 (arXiv 2404.07724): the scale is 1 outside of the interval (low, high].
    """
    low, high = interval
    return bool(low < sigma <= high and np.any(np.asarray(scale) != 1))


def guided(
    bind: Callable[[Any], Callable],
    cond: Any,
    uncond: Any,
    scale: ArrayLike,
    interval: tuple[float, float] = (0.0, math.inf),
    rescale: float = 0.0,
    c_skip: Callable[[float], ArrayLike] | None = None,
) -> Callable[[Any, float], Any]:
    """Return (x, sigma) -> x0 with D = D_u + scale * (D_c - D_u), both branches run as one batch.

    `bind(conditioning)` gives a denoiser (x, sigma) -> x0, as `Denoiser.bind` does; it and the result take x
    [b t c h w], a NumPy array or a MindSpore tensor, and one sigma for the whole batch. `cond` and `uncond` are
    conditioning records for b clips, joined along the batch axis by `uncond.stack(cond)`. `scale` is one number or
    one per frame, [t]. Where it is 1 in every frame, and at a sigma outside of `interval` (low, high], only the
    conditional branch is run, on b clips instead of 2b: half the work, but another graph where networks are
    compiled. Raises ValueError for an empty interval; the result raises it when x has another number of frames than
    `scale`. Classifier-free guidance: arXiv 2207.12598, equation 6, with scale = 1 + w.

    With `rescale`, 0 to 1, the network's guided output is brought back that far to the standard deviation over each
    clip of its conditional output (arXiv 2305.08891, section 3.4). This needs the `c_skip` of the preconditioning:
    D - c_skip * x is the network's output, up to a factor that cancels out.
    """
    if not 0 <= interval[0] < interval[1]:
        raise ValueError(f"the interval of guidance must be two noise levels, the lower first, not {interval}")
    scale = np.asarray(scale, np.float64).reshape(1, -1, 1, 1, 1)
    denoise_cond = bind(cond)
    if np.all(scale == 1):
        return denoise_cond
    denoise_both = bind(uncond.stack(cond))

    @cache
    def like(kind: type) -> Any:  # a tensor goes to the device once, not in every step
        return _float32_like(kind, scale)

    def guided_denoise(x, sigma):
        b, t = x.shape[:2]
        if scale.size not in (1, t):
            raise ValueError(f"guidance has {scale.size} scales, one per frame, but x has {t} frames")
        if not guidance_applies(sigma, scale, interval):
            return denoise_cond(x, sigma)
        x0 = denoise_both(_twice(x), sigma)
        x0_uncond, x0_cond = x0[:b], x0[b:]
        x0 = x0_uncond + like(type(x0)) * (x0_cond - x0_uncond)
        if not rescale:
            return x0
        skipped = x * float(c_skip(sigma))
        ratio = _deviation(x0_cond - skipped) / _deviation(x0 - skipped)
        return skipped + (x0 - skipped) * (rescale * ratio + (1 - rescale))

    return guided_denoise


def _positions(num_frames: int) -> np.ndarray:
    if num_frames < 1:
        raise ValueError(f"a video needs at least one frame, not {num_frames}")
    return np.linspace(0, 1, num_frames)


def _deviation(x):
    """The standard deviation of each clip [b ...]: [b 1 1 1 1]."""
    flat = x.reshape(x.shape[0], -1)
    centred = flat - flat.mean(1).reshape(-1, 1)
    return ((centred * centred).mean(1) ** 0.5).reshape(-1, 1, 1, 1, 1)


# MindSpore is imported only for tensors: on NumPy arrays the maths runs without it.


def _twice(x):
    if isinstance(x, np.ndarray):
        return np.concatenate([x, x])
    from mindspore import ops

    return ops.cat([x, x], axis=0)


def _float32_like(kind: type, scale: np.ndarray):
    scale = scale.astype(np.float32)
    if kind is np.ndarray:
        return scale
    from mindspore import Tensor

    return Tensor(scale)
