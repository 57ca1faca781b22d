"""Sampling settings of models that are given text."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, Optional

from svd.config.checks import check_most
from svd.errors import check


@dataclass
class TextSamplingConfig:
    """How an image or a video is drawn from text; each field is also an argument of the pipeline, and a flag."""

    num_frames: int = 1
    """Frames of the video; an image has one."""
    height: int = 512
    """Pixels of the height."""
    width: int = 512
    """Pixels of the width."""
    fps: int = 8
    """Frames per second: written to the file, and given to networks that are conditioned on it."""
    sampling_steps: int = 50
    """Steps of the sampler."""
    sampler: Literal["ddim", "euler", "dpmpp_2m"] = "ddim"
    """Solver; ddim is the reference."""
    eta: float = 0.0
    """How much of DDPM's noise ddim adds after each step, from 0 (none) to 1 (arXiv 2010.02502, equation 16)."""
    spacing: Literal["leading", "trailing", "linspace"] = "leading"
    """Which timesteps are visited: equally spaced from the first, from the last, or from the first to the last."""
    offset: int = 1
    """Added to the timesteps of leading spacing."""
    guidance: float = 7.5
    """Scale of classifier-free guidance; 1 leaves it out."""
    guidance_rescale: float = 0.0
    """How far the guided prediction is brought back to the deviation of the conditional one, 0 to 1 (arXiv 2305.08891,
    section 3.4)."""
    window: Optional[int] = None
    """Frames that the network sees at a time, for videos longer than it was trained on; all of them if not given."""
    window_overlap: Optional[int] = None
    """Frames that neighbouring windows share; a quarter of a window if not given."""
    decode_chunk_size: Optional[int] = None
    """Frames decoded at a time; chosen from decode_memory_gb when it is not given."""
    decode_overlap: Optional[int] = None
    """Frames that neighbouring chunks share and cross-fade over; a third of a chunk when it is not given."""
    decode_tile_size: Optional[int] = None
    """Pixels of the square tiles that frames are decoded in, overlapping by a quarter; not tiled when not given."""
    decode_memory_gb: Optional[float] = None
    """Memory limit (10^9 bytes) for decoding; half of what is free when it is not given."""

    def __post_init__(self):
        for name in ("num_frames", "height", "width", "fps", "sampling_steps"):
            check(0 < getattr(self, name) < inf, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("window", "decode_chunk_size", "decode_tile_size", "decode_memory_gb"):
            value = getattr(self, name)
            check(value is None or value > 0, f"{name} must be positive, got {value}")
        for name in ("offset", "guidance", "window_overlap", "decode_overlap"):
            value = getattr(self, name)
            check(value is None or 0 <= value < inf, f"{name} must not be negative, got {value}")
        for name in ("eta", "guidance_rescale"):
            check(0 <= getattr(self, name) <= 1, f"{name} must be from 0 to 1, got {getattr(self, name)}")
        check_most(self, "", num_frames=1024, height=8192, width=8192, fps=1000, sampling_steps=10_000, guidance=1000)
        check_most(self, "", offset=1000, window=1024, decode_chunk_size=1024, decode_tile_size=8192)
        check_most(self, "", decode_memory_gb=1e6)
        check(self.eta == 0 or self.sampler == "ddim", f"eta is for the sampler ddim, got {self.sampler}: give eta 0")
        check(
            self.window_overlap is None or (self.window is not None and self.window_overlap < self.window),
            f"window_overlap {self.window_overlap} must be smaller than window {self.window}",
        )
        check(
            self.decode_overlap is None
            or self.decode_chunk_size is None
            or self.decode_overlap < self.decode_chunk_size,
            f"decode_overlap {self.decode_overlap} must be smaller than decode_chunk_size {self.decode_chunk_size}",
        )
        check(
            self.decode_chunk_size is None or self.decode_memory_gb is None,
            "decode_memory_gb is what decode_chunk_size is chosen from: give one of them",
        )
