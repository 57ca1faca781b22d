"""Sampling settings, and the ranges that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, Optional

from svd.config.checks import check_most
from svd.errors import check


@dataclass
class TrainedRange:
    """Trained ranges, outside of which the pipeline warns."""

    fps: list[float] = field(default_factory=lambda: [6, 31])
    """Frames per second (the reference warns outside the ids 5 to 30; the id is fps - 1)."""
    motion_bucket_id: list[float] = field(default_factory=lambda: [0, 255])
    """Motion bucket."""
    noise_aug_strength: list[float] = field(default_factory=lambda: [0.011, 0.223])
    """Standard deviation of the noise on the image: ln sigma ~ N(-3, 0.5^2), three deviations either side."""

    def __post_init__(self):
        for name, bounds in vars(self).items():
            check(
                len(bounds) == 2 and bounds[0] <= bounds[1],
                f"trained_range.{name} takes two numbers, the smallest and the largest, got {bounds}",
            )


@dataclass
class SamplingConfig:
    """How a video is drawn; each field is also an argument of the pipeline, and a flag of its program."""

    num_frames: int = 14
    """Frames of the video."""
    height: int = 576
    """Pixels of the video's height."""
    width: int = 1024
    """Pixels of the video's width."""
    fps: int = 7
    """Frames per second: given to the network (as fps - 1) and written to the file."""
    motion_bucket_id: float = 127
    """How much motion is wanted: 0 (none) to 255 (most)."""
    noise_aug_strength: float = 0.02
    """Standard deviation of the noise added to the image (in [-1, 1]); more lets the video leave it further."""
    sampling_steps: int = 25
    """Steps of the sampler."""
    sampler: Literal["euler", "heun", "dpmpp_2m"] = "euler"
    """Solver; euler is the reference, heun calls the network twice a step."""
    churn: float = 0.0
    """S_churn of EDM's algorithm 2: fresh noise per step (euler and heun)."""
    guidance: list[float] = field(default_factory=lambda: [1.0, 2.5])
    """Smallest and largest guidance scale over the frames; one number is both."""
    guidance_shape: Literal["linear", "triangular"] = "linear"
    """`linear` rises from the first frame to the last; `triangular` rises to the middle and falls (SV3D)."""
    guidance_interval: list[float] = field(default_factory=lambda: [0.0, inf])
    """Noise levels low < sigma <= high at which guidance applies, all by default: [0, .inf] (arXiv 2404.07724). At the
    others the network runs without the unconditional half of the batch, at half the cost. The half batch is a graph
    of its own: when guidance first begins or ends in the middle of sampling, one is compiled there."""
    sigma_min: float = 0.002
    """Smallest noise level of the Karras schedule."""
    sigma_max: float = 700.0
    """Largest noise level of the Karras schedule."""
    rho: float = 7.0
    """Curvature of the Karras schedule."""
    decode_chunk_size: Optional[int] = None
    """Frames decoded at a time; chosen from decode_memory_gb when it is not given."""
    decode_overlap: Optional[int] = None
    """Frames that neighbouring chunks share and cross-fade over; a third of a chunk when it is not given."""
    decode_tile_size: Optional[int] = None
    """Pixels of the square tiles that frames are decoded in, overlapping by a quarter; not tiled when not given. Tiles
    are normalised by themselves and their colours can drift apart: a last resort against running out of memory."""
    decode_memory_gb: Optional[float] = None
    """Memory limit (10^9 bytes) for decoding; half of what is free when it is not given."""

    def __post_init__(self):
        if isinstance(self.guidance, (int, float)):
            self.guidance = [float(self.guidance)] * 2
        check(self.num_frames >= 2, f"num_frames must be at least 2 (a video), got {self.num_frames}")
        for name in ("height", "width", "fps", "sampling_steps", "sigma_min", "sigma_max", "rho"):
            check(0 < getattr(self, name) < inf, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("motion_bucket_id", "noise_aug_strength", "churn"):
            check(0 <= getattr(self, name) < inf, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("decode_chunk_size", "decode_tile_size", "decode_memory_gb"):
            value = getattr(self, name)
            check(value is None or value > 0, f"{name} must be positive, got {value}")
        overlap = self.decode_overlap
        check(overlap is None or overlap >= 0, f"decode_overlap must not be negative, got {overlap}")
        check(
            len(self.guidance) == 2,
            f"guidance takes two numbers, the smallest and the largest scale, got {self.guidance}",
        )
        check_most(self, "", num_frames=1024, height=8192, width=8192, fps=1000, motion_bucket_id=10_000)
        check_most(self, "", noise_aug_strength=100, sampling_steps=10_000, churn=100_000, guidance=1000, sigma_max=1e6)
        check_most(self, "", rho=1000, decode_chunk_size=1024, decode_overlap=1024, decode_tile_size=8192)
        check_most(self, "", decode_memory_gb=1e6)
        interval = self.guidance_interval
        check(
            len(interval) == 2 and 0 <= interval[0] < interval[1],
            f"guidance_interval takes two noise levels from 0 up, the lower first, got {interval}",
        )
        check(
            self.churn == 0 or self.sampler != "dpmpp_2m",
            f"churn is for the samplers euler and heun, got {self.sampler}: give churn 0 with it",
        )
        check(
            overlap is None or self.decode_chunk_size is None or overlap < self.decode_chunk_size,
            f"decode_overlap {overlap} must be smaller than decode_chunk_size {self.decode_chunk_size}",
        )
        check(
            self.decode_chunk_size is None or self.decode_memory_gb is None,
            "decode_memory_gb is what decode_chunk_size is chosen from: give one of them",
        )
        check(self.sigma_min < self.sigma_max, f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
