"""Sampling settings of models in pixel space."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from svd.config.checks import check_most
from svd.errors import check


@dataclass
class PixelSamplingConfig:
    """How a video is drawn; each field is also an argument of the pipeline, and a flag of its program."""

    num_frames: int = 16
    """Frames of the video; an image has one."""
    height: int = 64
    """Pixels of the height."""
    width: int = 64
    """Pixels of the width."""
    fps: int = 8
    """Frames per second, written to the file."""
    sampling_steps: int = 256
    """Steps of the sampler."""
    gamma: float = 0.1
    """How the variance of the sampler's noise is interpolated between its bounds, the lower one (0) and the upper one
    (1; arXiv 2204.03458, equation 4)."""
    langevin: float = 0.0
    """Size of a Langevin step after each step of the sampler, which calls the network again; 0 for none. The paper has
    0.1."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 leaves it out."""
    bound: Literal["clip", "dynamic", "none"] = "clip"
    """How predicted videos are kept within [-1, 1]: clipped, by dynamic thresholding (arXiv 2205.11487), or not at
    all."""
    quantile: float = 0.9
    """Of dynamic thresholding: of the absolute values of a video, the one that is brought to 1."""

    def __post_init__(self):
        for name in ("num_frames", "height", "width", "fps", "sampling_steps"):
            check(0 < getattr(self, name) < inf, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("langevin", "guidance"):
            check(0 <= getattr(self, name) < inf, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("gamma", "quantile"):
            check(0 <= getattr(self, name) <= 1, f"{name} must be from 0 to 1, got {getattr(self, name)}")
        check_most(self, "", num_frames=1024, height=4096, width=4096, fps=1000, sampling_steps=10_000, guidance=1000)
        check_most(self, "", langevin=2)
        check(
            self.quantile == 0.9 or self.bound == "dynamic",
            f"quantile is for bound: dynamic, got {self.bound}: leave it at 0.9",
        )
