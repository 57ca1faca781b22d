"""Schedules: which noise levels a sampler visits."""

import math

import numpy as np


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
