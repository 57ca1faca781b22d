"""Preconditioning: the scalars that turn a network F into a denoiser D, as records of functions of sigma.

D(x; sigma) = c_skip * x + c_out * F(c_in * x; c_noise)            EDM (arXiv 2206.00364), equation 7
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from svd.config import ScheduleConfig
from svd.diffusion.schedules import discrete_sigmas

Curve = Callable[[ArrayLike], np.ndarray]
STABLE_DIFFUSION_SIGMAS = discrete_sigmas(ScheduleConfig())
"""The 1000 noise levels that Stable Diffusion was trained on (arXiv 2112.10752, released configurations)."""


@dataclass(frozen=True)
class Preconditioning:
    """Five functions of the noise level, from sigma > 0 of any shape to float64 values of that shape."""

    c_skip: Curve  # weight of the noisy input in the denoised output
    c_out: Curve  # weight of the network's output in the denoised output
    c_in: Curve  # scale of the network's input
    c_noise: Curve  # what the network sees of sigma
    weight: Curve  # lambda(sigma), the weight of |D - x0|^2 in the training loss

    def coefficients(self, sigma: ArrayLike) -> np.ndarray:
        """c_skip, c_out, c_in and c_noise of noise levels [...]: float64 [4 ...]"""
        return np.stack([curve(sigma) for curve in (self.c_skip, self.c_out, self.c_in, self.c_noise)])


def edm(sigma_data: float = 0.5) -> Preconditioning:
    """EDM's preconditioning for data of standard deviation sigma_data: arXiv 2206.00364, table 1.

    Raises ValueError when `sigma_data` is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be positive, not {sigma_data}")
    return Preconditioning(
        c_skip=lambda sigma: sigma_data**2 / (_squared(sigma) + sigma_data**2),
        c_out=lambda sigma: _float64(sigma) * sigma_data / np.sqrt(_squared(sigma) + sigma_data**2),
        c_in=lambda sigma: 1 / np.sqrt(_squared(sigma) + sigma_data**2),
        c_noise=_quarter_log,
        weight=lambda sigma: (_squared(sigma) + sigma_data**2) / (_float64(sigma) * sigma_data) ** 2,
    )


def v_scaling() -> Preconditioning:
    """Stable Video Diffusion's preconditioning, v-prediction with c_noise = ln(sigma) / 4: arXiv 2311.15127, D.2.

    It is EDM for unit-variance data with the sign of F flipped, so that F predicts v.
    """
    return _v_prediction(_quarter_log)


def vp_v(sigmas: ArrayLike = STABLE_DIFFUSION_SIGMAS) -> Preconditioning:
    """v-prediction of a variance-preserving model: c_noise is the index of the timestep in its `discrete_sigmas`.

    Stable Diffusion 2.1 is such a model. With alpha = 1 / sqrt(1 + sigma^2), the model's own noisy image is alpha * x
    and its noise level alpha * sigma; v = alpha * n - (alpha * sigma) * x0 (arXiv 2202.00512, appendix D).
    """
    return _v_prediction(_timestep_in(sigmas))


def vp_eps(sigmas: ArrayLike = STABLE_DIFFUSION_SIGMAS) -> Preconditioning:
    """Noise prediction of a variance-preserving model (DDPM, arXiv 2006.11239), such as Stable Diffusion 1; c_noise as
    in `vp_v`.
    """
    # x0 = x - sigma * n; the weight makes the loss the plain |F - n|^2.
    return Preconditioning(
        c_skip=lambda sigma: np.ones_like(_float64(sigma)),
        c_out=lambda sigma: -_float64(sigma),
        c_in=lambda sigma: 1 / np.sqrt(1 + _squared(sigma)),
        c_noise=_timestep_in(sigmas),
        weight=lambda sigma: 1 / _squared(sigma),
    )


def _v_prediction(c_noise: Curve) -> Preconditioning:
    # x0 = alpha * (alpha * x) - (alpha * sigma) * v; the weight makes the loss the plain |F - v|^2.
    return Preconditioning(
        c_skip=lambda sigma: 1 / (1 + _squared(sigma)),
        c_out=lambda sigma: -_float64(sigma) / np.sqrt(1 + _squared(sigma)),
        c_in=lambda sigma: 1 / np.sqrt(1 + _squared(sigma)),
        c_noise=c_noise,
        weight=lambda sigma: (1 + _squared(sigma)) / _squared(sigma),
    )


def _timestep_in(sigmas: ArrayLike) -> Curve:
    # Linear in ln(sigma) between two timesteps, and clamped to the first and the last outside, as in k-diffusion's
    # discrete schedule without quantisation. (Stability's own DiscreteDenoiser rounds to the nearest level
    # instead; on the levels themselves the two agree.)
    log_sigmas = np.log(_float64(sigmas))
    return lambda sigma: np.interp(np.log(_float64(sigma)), log_sigmas, np.arange(len(log_sigmas)))


def _quarter_log(sigma: ArrayLike) -> np.ndarray:
    return 0.25 * np.log(_float64(sigma))


def _float64(sigma: ArrayLike) -> np.ndarray:
    return np.asarray(sigma, np.float64)


def _squared(sigma: ArrayLike) -> np.ndarray:
    return _float64(sigma) ** 2


PRECONDITIONINGS = {"edm": edm(), "v_scaling": v_scaling(), "vp_v": vp_v()}
"""Of Stable Video Diffusion, by name."""
DISCRETE_PRECONDITIONINGS = {"vp_eps": vp_eps, "vp_v": vp_v}
"""Of models with discrete timesteps, by name: functions of their noise levels."""
