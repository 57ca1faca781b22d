"""Video Diffusion Models' diffusion (arXiv 2204.03458, section 2): a cosine schedule of log-SNR, ancestral sampling
with interpolated variance, a Langevin corrector, and bounds for what is predicted.

The paper's z = alpha (x0 + sigma n) is alpha x here, with alpha = 1 / sqrt(1 + sigma^2) and log-SNR = -2 ln(sigma).
Functions take NumPy arrays or tensors, and `denoise(x, sigma) -> x0`, as the other samplers do.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from svd.diffusion.preconditioning import Preconditioning
from svd.diffusion.samplers import Denoise, Noise, Progress, steps_of

LOG_SNR = 20.0
"""The log-SNR at time 0, and minus that at time 1."""


def cosine_sigma(time: ArrayLike, log_snr: float = LOG_SNR) -> np.ndarray:
    """The noise level at times in [0, 1], float64: log-SNR = -2 ln tan(a u + b), from log_snr to -log_snr."""
    b = math.atan(math.exp(-log_snr / 2))
    a = math.atan(math.exp(log_snr / 2)) - b
    return np.tan(a * np.asarray(time, np.float64) + b)


def cosine_sigmas(n: int, time: float = 1.0) -> np.ndarray:
    """n noise levels at equally spaced times from `time` down to time / n, then 0: float64 [n+1].

    Raises ValueError without a step.
    """
    if n < 1:
        raise ValueError(f"a schedule needs at least one step, not {n}")
    return np.append(cosine_sigma(time * np.arange(n, 0, -1) / n), 0.0)


def cosine_beta_sigmas(timesteps: int) -> np.ndarray:
    """The noise levels of the discrete cosine schedule (arXiv 2102.09672, equation 17), increasing, float64."""
    f = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
    alpha_bar = np.cumprod(1 - np.clip(1 - f[1:] / f[:-1], 0, 0.9999))
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def log_snr_v() -> Preconditioning:
    """v-prediction of networks that see 1000 u, u = (2 / pi) arctan(sigma), of a log-SNR within +-20."""
    return Preconditioning(
        c_skip=lambda sigma: 1 / (1 + _squared(sigma)),
        c_out=lambda sigma: -np.sqrt(_squared(sigma) / (1 + _squared(sigma))),
        c_in=lambda sigma: 1 / np.sqrt(1 + _squared(sigma)),
        c_noise=_inverse_cosine_time,
        weight=lambda sigma: (1 + _squared(sigma)) / _squared(sigma),
    )


def log_snr_eps() -> Preconditioning:
    """Prediction of the noise, otherwise as `log_snr_v`; the weight makes the loss the plain |F - n|^2."""
    return _eps(_inverse_cosine_time)


def cosine_beta_eps(timesteps: int) -> Preconditioning:
    """Prediction of the noise by networks that see the timesteps of `cosine_beta_sigmas`, from 0."""
    log_sigmas = np.log(cosine_beta_sigmas(timesteps))
    return _eps(lambda sigma: np.interp(0.5 * np.log(_squared(sigma)), log_sigmas, np.arange(timesteps)))


def preconditioning_of(name: str, timesteps: int) -> Preconditioning:
    """That of a configuration: log_snr_v, log_snr_eps, or cosine_eps with so many timesteps."""
    if name == "cosine_eps":
        return cosine_beta_eps(timesteps)
    return log_snr_v() if name == "log_snr_v" else log_snr_eps()


def _eps(c_noise) -> Preconditioning:
    return Preconditioning(
        c_skip=lambda sigma: np.ones_like(_squared(sigma)),
        c_out=lambda sigma: -np.sqrt(_squared(sigma)),
        c_in=lambda sigma: 1 / np.sqrt(1 + _squared(sigma)),
        c_noise=c_noise,
        weight=lambda sigma: 1 / _squared(sigma),
    )


def _inverse_cosine_time(sigma: ArrayLike) -> np.ndarray:
    bound = math.exp(LOG_SNR / 2)
    return 2000 / math.pi * np.arctan(np.clip(np.asarray(sigma, np.float64), 1 / bound, bound))


def _squared(sigma: ArrayLike) -> np.ndarray:
    return np.asarray(sigma, np.float64) ** 2


def ancestral(
    denoise: Denoise,
    x: Any,
    sigmas: Sequence[float],
    *,
    noise: Noise,
    gamma: float = 0.0,
    langevin: float = 0.0,
    progress: Progress = iter,
) -> Any:
    """Sample from the distribution of x at each noise level given x at the one before (equation 4 of the paper).

    Args:
        x, sigmas, progress: as other samplers (svd.diffusion.samplers); at a last level of 0 the prediction itself is
            the result.
        noise: draws unit Gaussian noise of a shape.
        gamma: interpolates between the lower bound of the variance, 0, and the upper one, 1.
        langevin: the delta of a Langevin step after each step but one to 0, which calls `denoise` again; 0 for none.

    Raises ValueError for a gamma beyond 0 to 1, and a negative step.
    """
    if not 0 <= gamma <= 1 or langevin < 0:
        raise ValueError(f"gamma must be from 0 to 1, and langevin not negative, not {gamma} and {langevin}")
    for sigma, sigma_next in progress(steps_of(sigmas)):
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            x = x0
            continue
        r = (sigma_next / sigma) ** 2
        x = x0 + (x - x0) * r + noise(x.shape) * ancestral_deviation(sigma, sigma_next, gamma)
        if langevin > 0:
            x = langevin_step(denoise, x, sigma_next, noise, langevin)
    return x


def langevin_step(denoise: Denoise, x: Any, sigma: float, noise: Noise, delta: float) -> Any:
    """A step of Langevin dynamics at a noise level: x - delta / 2 (x - x0) + sqrt(delta) sigma n."""
    return x + (denoise(x, sigma) - x) * (delta / 2) + noise(x.shape) * (math.sqrt(delta) * sigma)


def ancestral_deviation(sigma: float, sigma_next: float, gamma: float) -> float:
    """The standard deviation of the noise that a step to sigma_next > 0 adds to x.

    In the paper's terms, divided by alpha_s: the root of (1 - r) sigma_s^2 at gamma 0, of (1 - r) sigma_t^2 at gamma 1.
    """
    upper = sigma * math.sqrt((1 + sigma_next**2) / (1 + sigma**2))  # alpha_t sigma / alpha_s
    return math.sqrt(1 - (sigma_next / sigma) ** 2) * sigma_next ** (1 - gamma) * upper**gamma


def clipped(denoise: Denoise) -> Denoise:
    """`denoise` with its result clipped to [-1, 1]."""
    return lambda x, sigma: denoise(x, sigma).clip(-1.0, 1.0)


def thresholded(denoise: Denoise, quantile: float) -> Denoise:
    """`denoise` with dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3): where this quantile s of a clip's
    absolute values is above 1, the clip is clipped to [-s, s] and divided by s.
    """

    def bounded(x, sigma):
        x0 = denoise(x, sigma)
        values = np.abs(x0 if isinstance(x0, np.ndarray) else x0.asnumpy())
        scale = np.maximum(np.quantile(values, quantile, axis=tuple(range(1, values.ndim)), keepdims=True), 1)
        return (x0 * _like(x0, 1 / scale)).clip(-1.0, 1.0)

    return bounded


def _like(x: Any, values: np.ndarray) -> Any:
    values = values.astype(np.float32)
    if isinstance(x, np.ndarray):
        return values
    from mindspore import Tensor  # on NumPy arrays the maths runs without it

    return Tensor(values)
