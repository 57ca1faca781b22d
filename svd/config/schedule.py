"""The noise levels that a model with discrete timesteps was trained at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from svd.config.checks import check_most, check_positive
from svd.errors import check


@dataclass
class ScheduleConfig:
    """A schedule of beta_1 ... beta_n (DDPM, arXiv 2006.11239); the defaults are Stable Diffusion's."""

    betas: Literal["scaled_linear", "linear"] = "scaled_linear"
    """`linear` from beta_start to beta_end (AnimateDiff); `scaled_linear`: their roots are (Stable Diffusion)."""
    beta_start: float = 0.00085
    """The first."""
    beta_end: float = 0.012
    """The last."""
    timesteps: int = 1000
    """How many there are."""
    zero_terminal_snr: bool = False
    """Whether they are rescaled so that nothing is left of the data at the last one (arXiv 2305.08891); for models
    that predict v, and sampled with trailing spacing."""

    def __post_init__(self):
        check_positive(self, "schedule")
        check_most(self, "schedule", timesteps=100_000, beta_end=0.999)
        check(
            self.beta_start < self.beta_end,
            f"schedule.beta_start {self.beta_start} must be below schedule.beta_end {self.beta_end}",
        )
