"""Schedules: which noise levels a sampler visits."""

import math

import numpy as np

from svd.config import ScheduleConfig

LOWEST_ALPHA_BAR = 2.0**-24
"""What stands for 0 at a terminal signal-to-noise ratio of zero: the noise level is then 4096, not infinite."""


def karras(n: int, sigma_max: float = 700.0, sigma_min: float = 0.002, rho: float = 7.0) -> np.ndarray:
    """Return n noise levels from sigma_max down to sigma_min, then 0: float64 [n+1].

    They are equally spaced in sigma^(1/rho): EDM (arXiv 2206.00364), equation 5. The defaults are those of
    Stable Video Diffusion. A single step starts at sigma_max. Raises ValueError for arguments that give no
    such schedule.
    """
    if n < 1:
        raise ValueError(f"a schedule needs at least one step, not {n}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"noise levels need 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
    if not rho > 0:
        raise ValueError(f"rho must be positive, not {rho}")
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return np.append(np.linspace(start, end, n) ** rho, 0.0)


def consistency_levels(
    n: int, levels: int = 40, sigma_max: float = 700.0, sigma_min: float = 0.002, rho: float = 7.0
) -> np.ndarray:
    """The noise levels of n steps of a consistency model, decreasing, then 0: float64 [n+1].

    The model knows the `levels` of a Karras schedule. From the largest on, every (levels // n)-th of them is visited,
    as AnimateLCM's sampler does (arXiv 2402.00769). Raises ValueError if there are not as many.
    """
    if not 1 <= n <= levels:
        raise ValueError(f"a consistency model of {levels} noise levels has 1 to {levels} steps, not {n}")
    return np.append(karras(levels, sigma_max, sigma_min, rho)[:-1][:: levels // n][:n], 0.0)


def discrete_sigmas(schedule: ScheduleConfig) -> np.ndarray:
    """The noise levels of a schedule's timesteps, increasing: float64 [timesteps].

    sigma^2 = (1 - alpha_bar) / alpha_bar with alpha_bar = cumprod(1 - beta) (DDPM, arXiv 2006.11239, equation 4).
    A zero terminal SNR is arXiv 2305.08891, algorithm 1.
    """
    start, end, n = schedule.beta_start, schedule.beta_end, schedule.timesteps
    scaled = schedule.betas == "scaled_linear"
    beta = np.linspace(np.sqrt(start), np.sqrt(end), n) ** 2 if scaled else np.linspace(start, end, n)
    alpha_bar = np.cumprod(1 - beta)
    if schedule.zero_terminal_snr:
        root = np.sqrt(alpha_bar)
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        alpha_bar[-1] = LOWEST_ALPHA_BAR
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def spaced(n: int, timesteps: int, spacing: str, offset: int = 0) -> np.ndarray:
    """n of the timesteps 0 ... timesteps-1, decreasing: int64 [n] (arXiv 2305.08891, table 2).

    Args:
        spacing: `leading` takes every (timesteps // n)-th from 0 up, plus `offset`; `trailing` every (timesteps / n)-th
            from the last one down; `linspace` both ends, and equal steps between them.

    Raises:
        ValueError: there are not as many timesteps.
    """
    if not 1 <= n <= timesteps:
        raise ValueError(f"a schedule of {timesteps} timesteps has 1 to {timesteps} steps, not {n}")
    if spacing == "leading":
        visited = np.arange(n)[::-1] * (timesteps // n) + offset
    elif spacing == "trailing":
        visited = np.round(timesteps - np.arange(n) * (timesteps / n)) - 1
    elif spacing == "linspace":
        visited = np.round(np.linspace(0, timesteps - 1, n))[::-1]
    else:
        raise ValueError(f"spacing must be leading, trailing or linspace, not {spacing}")
    if visited[0] >= timesteps:
        raise ValueError(f"{n} steps with offset {offset} go beyond the last of {timesteps} timesteps: give fewer")
    return visited.astype(np.int64)


def visited_levels(sigmas: np.ndarray, n: int, spacing: str, offset: int = 0, to_zero: bool = True) -> np.ndarray:
    """The noise levels of n steps over `discrete_sigmas`, and where the last one ends: float64 [n+1].

    They end at 0; or at the lowest noise level, as DDIM does in Stable Diffusion. In that case a step from the lowest
    level to itself, which would change nothing, is left out. Raises ValueError if there are no such steps.
    """
    levels = sigmas[spaced(n, len(sigmas), spacing, offset)]
    if to_zero:
        return np.append(levels, 0.0)
    return np.append(levels[levels > sigmas[0]], sigmas[0])
