"""Settings of what an upsampler has beside other models: its UNet, its low-resolution video, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from svd.config.checks import check_most, check_positive
from svd.config.networks import UNetConfig
from svd.config.sampling import ScheduleConfig
from svd.errors import check


@dataclass
class UpsamplerUNetConfig(UNetConfig):
    """The UNet of an upsampler (the defaults are those of Stable Diffusion's x4 upscaler: 473,398,020 parameters)."""

    in_channels: int = 7
    """Channels of the input: noisy latents, or pixels, and the low-resolution video's."""
    model_channels: int = 256
    """Channels of the first level."""
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 2, 4])
    """Channels of each level, as multiples of model_channels; each level halves the resolution."""
    attention_resolutions: list[int] = field(default_factory=lambda: [2, 4, 8])
    """Down-sampling factors of the levels that have transformers."""
    cross_attention_only: list[int] = field(default_factory=lambda: [2, 4])
    """Those of them whose transformers attend to the text twice, and not to the pixels of the frame; the middle's
    always attends to them."""
    num_heads: Optional[int] = 8
    """Attention heads at every level."""
    vector_dim: Optional[int] = None
    """Not used: what the noise level is embedded from follows from noise_level."""
    noise_level: Literal["table", "sinusoids"] = "table"
    """How the network is told the level of the noise on the low-resolution video: an embedding is learned for each of
    the timesteps, or made of sinusoids by two layers, which training on little data needs."""

    def __post_init__(self):
        super().__post_init__()
        check(self.vector_dim is None, "unet.vector_dim is for models that are given an image: leave it out")
        chosen, known = self.cross_attention_only, self.attention_resolutions
        message = f"unet.cross_attention_only must be among unet.attention_resolutions {known}, got {chosen}"
        check(set(chosen) <= set(known), message)


@dataclass
class LowResolutionConfig:
    """The low-resolution video, to which noise is added (VideoLDM, arXiv 2304.08818, section 3.4)."""

    factor: int = 4
    """Pixels of the result per pixel of it, on each axis."""
    max_noise_level: int = 350
    """Training draws the timestep of its noise from those below this one."""
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(beta_start=0.0001, beta_end=0.02))
    """The schedule of its noise."""

    def __post_init__(self):
        check_positive(self, "low_resolution")
        check_most(self, "low_resolution", factor=64)
        check(self.factor & (self.factor - 1) == 0, f"low_resolution.factor must be a power of 2, got {self.factor}")
        most = self.schedule.timesteps
        message = f"low_resolution.max_noise_level must be at most {most}, the timesteps that there are"
        check(self.max_noise_level <= most, f"{message}, got {self.max_noise_level}")


@dataclass
class UpsamplingConfig:
    """How a video is upsampled; each field is also an argument of the pipeline, and a flag of its program."""

    noise_level: int = 20
    """Timestep of the noise that is added to the given video, and that the network is told: more lets the result leave
    it further, and hides what compression has done to it; 0 adds next to none."""
    sampling_steps: int = 75
    """Steps of the sampler (DDIM)."""
    eta: float = 0.0
    """How much of DDPM's noise is added after each step, from 0 (none) to 1 (arXiv 2010.02502, equation 16)."""
    spacing: Literal["leading", "trailing", "linspace"] = "leading"
    """Which timesteps are visited: equally spaced from the first, from the last, or from the first to the last."""
    offset: int = 1
    """Added to the timesteps of leading spacing."""
    guidance: float = 9.0
    """Scale of classifier-free guidance by the text; 1 leaves it out."""
    window: int = 8
    """Frames that the network sees at a time; a shorter video is seen whole."""
    window_overlap: int = 2
    """Frames that neighbouring windows share."""
    tile: Optional[int] = None
    """Pixels of the given video, on each axis, that the network sees at a time; whole frames if not given."""
    tile_overlap: Optional[int] = None
    """Pixels of the given video that neighbouring tiles share; a quarter of a tile if not given."""
    decode_tile_size: Optional[int] = None
    """Pixels of the square tiles that frames are decoded in, overlapping by a quarter; not tiled when not given."""
    memory_gb: Optional[float] = None
    """Memory limit (10^9 bytes): what would need more is refused before it begins. What is free when not given."""

    def __post_init__(self):
        for name in ("sampling_steps", "window", "tile", "decode_tile_size", "memory_gb"):
            value = getattr(self, name)
            check(value is None or value > 0, f"{name} must be positive, got {value}")
        for name in ("noise_level", "offset", "guidance", "window_overlap", "tile_overlap"):
            value = getattr(self, name)
            check(value is None or value >= 0, f"{name} must not be negative, got {value}")
        check(0 <= self.eta <= 1, f"eta must be from 0 to 1, got {self.eta}")
        check_most(self, "", sampling_steps=10_000, offset=1000, guidance=1000, window=1024, tile=8192)
        check_most(self, "", decode_tile_size=8192, memory_gb=1e6)
        smaller = f"window_overlap {self.window_overlap} must be smaller than window {self.window}"
        check(self.window_overlap < self.window, smaller)
        if self.tile_overlap is not None:
            check(self.tile is not None, "tile_overlap is for tiles: give tile, or leave it out")
            smaller = f"tile_overlap {self.tile_overlap} must be smaller than tile {self.tile}"
            check(self.tile_overlap < self.tile, smaller)

    @property
    def shared_pixels(self) -> int:
        """tile_overlap, or what takes its place."""
        if self.tile_overlap is not None:
            return self.tile_overlap
        return (self.tile or 0) // 4
