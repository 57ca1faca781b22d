"""Samplers: from noise to data along the probability-flow ODE of EDM (arXiv 2206.00364, equations 1 and 3).

    dx/dsigma = (x - D(x; sigma)) / sigma
    x = sampler(denoise, noise * sqrt(1 + sigma_max^2), sigmas)        # any shape -> the same shape

Each is a plain function of `denoise(x, sigma: float) -> x0`, the scaled start x, and decreasing noise levels
`sigmas` [n+1], of which only the last may be 0. x is a NumPy array or a tensor: only + - * / and Python
floats are applied to it, which leaves its dtype alone. `progress` wraps the list of steps, as tqdm does. All
raise ValueError for noise levels that do not decrease.

For constant D the ODE's solution is a straight line to it, x' = D + (sigma' / sigma) * (x - D). Euler is that
step; the others improve on the constant D. In this form the last step, to sigma' = 0, gives D itself.
dpmpp_2m_sde solves a stochastic differential equation in place of the ODE, with the same distribution at every sigma;
consistency solves neither, and is for models that were distilled.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Denoise = Callable[[Any, float], Any]
Noise = Callable[[tuple[int, ...]], Any]
Progress = Callable[[list], Iterable]


@dataclass(frozen=True)
class Churn:
    """Noise put back before each step, then removed again: EDM, algorithm 2.

    Raises ValueError when `s_churn` or `s_noise` is negative.
    """

    s_churn: float  # sigma is raised by the factor 1 + s_churn / steps, at most sqrt(2); 0 is the plain ODE
    s_tmin: float = 0.0  # lowest sigma at which noise is added
    s_tmax: float = math.inf  # highest sigma at which noise is added
    s_noise: float = 1.0  # standard deviation of the added noise; slightly above 1 makes up for lost detail

    def __post_init__(self):
        if self.s_churn < 0 or self.s_noise < 0:
            raise ValueError(f"churn must not be negative: {self}")

    def raised(self, sigma: float, steps: int) -> float:
        """Return the noise level to which `sigma` is raised in a run of that many steps."""
        if not self.s_tmin <= sigma <= self.s_tmax:
            return sigma
        return sigma * (1 + min(self.s_churn / steps, math.sqrt(2) - 1))


def euler(
    denoise: Denoise,
    x: Any,
    sigmas: Sequence[float],
    *,
    churn: Churn | None = None,
    noise: Noise | None = None,
    progress: Progress = iter,
) -> Any:
    """Solve with Euler steps, first order, one call per step: EDM, algorithm 2 without its correction.

    With `churn`, `noise(shape)` draws unit Gaussian noise of x's kind and dtype; ValueError without it.
    """
    steps = steps_of(sigmas)
    for sigma, sigma_next in progress(steps):
        x, sigma = _churned(x, sigma, churn, noise, len(steps))
        x = _towards(denoise(x, sigma), x, sigma_next / sigma)
    return x


def heun(
    denoise: Denoise,
    x: Any,
    sigmas: Sequence[float],
    *,
    churn: Churn | None = None,
    noise: Noise | None = None,
    progress: Progress = iter,
) -> Any:
    """Solve with Heun steps, second order, two calls per step: EDM, algorithms 1 and 2.

    With `churn`, `noise(shape)` draws unit Gaussian noise of x's kind and dtype; ValueError without it.
    """
    steps = steps_of(sigmas)
    for sigma, sigma_next in progress(steps):
        x, sigma = _churned(x, sigma, churn, noise, len(steps))
        x0 = denoise(x, sigma)
        x_next = _towards(x0, x, sigma_next / sigma)
        if sigma_next > 0:  # at 0 there is no slope to average with; Euler's step stands
            slope = (x - x0) / sigma
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x + (slope + slope_next) * ((sigma_next - sigma) / 2)
        x = x_next
    return x


def dpmpp_2m(denoise: Denoise, x: Any, sigmas: Sequence[float], *, progress: Progress = iter) -> Any:
    """Solve with DPM-Solver++(2M), second order, one call per step: arXiv 2211.01095, algorithm 2.

    In lambda = -ln(sigma), D is extrapolated linearly from this step and the one before to the middle of the
    step. Deterministic: noise that is added between the steps would spoil the history.
    """
    return _multistep(denoise, x, sigmas, 0.0, None, progress)


def dpmpp_2m_sde(
    denoise: Denoise, x: Any, sigmas: Sequence[float], *, noise: Noise, eta: float = 1.0, progress: Progress = iter
) -> Any:
    """Solve with SDE-DPM-Solver++(2M), one call per step: arXiv 2211.01095, section 5, in its midpoint form.

    As `dpmpp_2m`, but the step goes down to sigma' (sigma' / sigma)^eta, and noise brings it back to sigma': fresh
    noise within the solver's equation, which leaves the history valid. `noise(shape)` draws unit Gaussian noise of x's
    kind and dtype. With eta 1 the equation is the reverse of the forward process; with 0 it is the ODE.
    """
    return _multistep(denoise, x, sigmas, eta, noise, progress)


def _multistep(denoise, x, sigmas, eta: float, noise: Noise | None, progress: Progress):
    x0_last = h_last = None
    for sigma, sigma_next in progress(steps_of(sigmas)):
        x0 = target = denoise(x, sigma)
        if sigma_next > 0:  # lambda is infinite at 0; Euler's step stands, and it gives D itself
            h = math.log(sigma / sigma_next)
            if x0_last is not None:
                target = x0 + (x0 - x0_last) * (h / (2 * h_last))
            x0_last, h_last = x0, h
        x = _towards(target, x, (sigma_next / sigma) ** (1 + eta))
        if eta and sigma_next > 0:
            x = x + noise(x.shape) * (sigma_next * math.sqrt(1 - (sigma_next / sigma) ** (2 * eta)))
    return x


def unipc(denoise: Denoise, x: Any, sigmas: Sequence[float], *, order: int = 2, progress: Progress = iter) -> Any:
    """Solve with UniPC-p, p = `order`, one call per step: arXiv 2302.04867, algorithms 5 and 7, with B_2(h).

    In lambda = -ln(sigma), a predictor extrapolates D from up to p calls. The next step's call, at the point that was
    predicted, then corrects that point, which raises the order by one and costs nothing.
    """
    known: list[tuple[float, Any]] = []  # lambda and D of the last calls
    start, sigma_start = x, 0.0
    for sigma, sigma_next in progress(steps_of(sigmas)):
        x0 = denoise(x, sigma)
        call = (-math.log(sigma), x0)
        if known:  # of the point that a step ended at
            x = _towards(_mean_of(known, call[0], call), start, sigma / sigma_start)
        known = [*known, call][-order:]
        start, sigma_start = x, sigma
        target = _mean_of(known, -math.log(sigma_next)) if sigma_next > 0 else x0  # as in `dpmpp_2m`
        x = _towards(target, x, sigma_next / sigma)
    return x


def _mean_of(known: list[tuple[float, Any]], end: float, last: tuple[float, Any] | None = None):
    """What stands for D over a step from the newest of the known calls to lambda = `end`: the newest D and weighted
    differences to the others. `last` is a call at the end of the step itself, for the corrector.
    """
    (start, x0), others = known[-1], known[-2::-1]
    others = [*others, last] if last else others
    h = end - start
    if len(others) == 1:  # the limit for small h, as its authors have it
        weights = [0.5]
    else:
        ratios = [(at - start) / h for at, _ in others]
        weights = np.linalg.solve(np.vander(ratios, increasing=True).T, _moments(h, len(others)))
    mean = x0
    for weight, (at, other) in zip(weights, others):
        mean = mean + (other - x0) * float(weight * h / (at - start))
    return mean


def _moments(h: float, n: int) -> list[float]:
    """k! h phi_k+1(-h) / (1 - exp(-h)) for k = 1 ... n, by the recursion of phi."""
    phi, moments = math.expm1(-h) / -h, []  # phi_1
    for k in range(1, n + 1):
        phi = (phi - 1 / math.factorial(k)) / -h
        moments.append(math.factorial(k) * phi * -h / math.expm1(-h))
    return moments


def ddim(
    denoise: Denoise,
    x: Any,
    sigmas: Sequence[float],
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    progress: Progress = iter,
) -> Any:
    """Solve with DDIM steps, first order, one call per step: arXiv 2010.02502, equations 12 and 16.

    In sigma it is Euler's step down to sqrt(sigma'^2 - s^2), then noise of standard deviation s is added, with
    s = eta * sigma' * sqrt(1 - sigma'^2 / sigma^2): none with eta 0, DDPM's with 1. With `eta`, `noise(shape)` draws
    unit Gaussian noise of x's kind and dtype; ValueError without it.
    """
    if eta and noise is None:
        raise ValueError("eta needs noise: a function from a shape to unit Gaussian noise")
    for sigma, sigma_next in progress(steps_of(sigmas)):
        fresh = eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        x = _towards(denoise(x, sigma), x, math.sqrt(sigma_next**2 - fresh**2) / sigma)
        if fresh:
            x = x + noise(x.shape) * fresh
    return x


def consistency(denoise: Denoise, x: Any, sigmas: Sequence[float], *, noise: Noise, progress: Progress = iter) -> Any:
    """Sample from a consistency model in few steps, one call each: arXiv 2303.01469, algorithm 1.

    Such a model's D is the end of the ODE's path from x, and not the mean of all possible ends. Each step takes it as
    the sample, and adds fresh noise of the next level; no solver is needed between the levels. `noise(shape)` draws
    unit Gaussian noise of x's kind and dtype.
    """
    for sigma, sigma_next in progress(steps_of(sigmas)):
        x = denoise(x, sigma)
        if sigma_next > 0:
            x = x + noise(x.shape) * sigma_next
    return x


def _towards(x0, x, ratio: float):
    return x0 + (x - x0) * ratio


def _churned(x, sigma: float, churn: Churn | None, noise: Noise | None, steps: int):
    raised = sigma if churn is None else churn.raised(sigma, steps)
    if raised == sigma:  # no noise is drawn: without churn the result is the plain sampler's, bit for bit
        return x, sigma
    if noise is None:
        raise ValueError("churn needs noise: a function from a shape to unit Gaussian noise")
    return x + noise(x.shape) * (churn.s_noise * math.sqrt(raised**2 - sigma**2)), raised


def steps_of(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    # Python floats: a NumPy float64 would turn float32 arrays into float64.
    sigmas = [float(sigma) for sigma in sigmas]
    steps = list(pairwise(sigmas))
    if not steps or not math.inf > sigmas[0] or not all(a > b >= 0 for a, b in steps):
        raise ValueError(f"noise levels must be finite, decrease and end at 0 or above, not {sigmas}")
    return steps


SAMPLERS = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
    "consistency": consistency,
}
"""For noise levels chosen freely, such as SVD's."""
STOCHASTIC = ("dpmpp_2m_sde", "consistency")
"""Those that need noise."""
DISCRETE_SAMPLERS = {"ddim": ddim, "euler": euler, "dpmpp_2m": dpmpp_2m}
"""For the noise levels of discrete timesteps."""
