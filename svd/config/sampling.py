"""Settings of sampling and of noise schedules, and the ranges that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, Optional

from svd.config.checks import check_most, check_positive
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
    sampler: Literal["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "consistency"] = "euler"
    """Solver; euler is the reference, heun calls the network twice a step. consistency is for models that were
    distilled to few steps, such as AnimateLCM-SVD: 2 to 8 of them, with guidance 1."""
    consistency_levels: int = 40
    """Noise levels that such a model was distilled at; sampling_steps of them are visited."""
    churn: float = 0.0
    """S_churn of EDM's algorithm 2: fresh noise per step (euler and heun)."""
    eta: float = 1.0
    """Fresh noise of dpmpp_2m_sde: 0 for none, 1 for as much as the reverse of the forward process has."""
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
    window: Optional[int] = None
    """Frames that the network sees at a time, for videos longer than it was trained on; all of them if not given. The
    first of each window is the first of the video, which is what the network takes the image for."""
    window_overlap: Optional[int] = None
    """Frames that neighbouring windows share beside the first; half of a window if not given."""
    renoise: int = 0
    """How often a step is repeated, with as much fresh noise before as it takes away: the published way between two
    images repeats it 5 times (arXiv 2408.15239). Each repetition costs as much as the step."""
    renoise_part: float = 0.5
    """The part of the steps that renoise repeats, from the first: 0 to 1."""
    reuse_every: int = 1
    """In every so many steps (of heun: evaluations) the network is evaluated as a whole, and in those between, its deep
    blocks are taken to give what they gave last (DeepCache, arXiv 2312.00858); 1 for the whole of it in every step. The
    two are graphs of their own: the second is compiled in the second step."""
    reuse_depth: int = 1
    """With reuse_every: how many steps of the way down, blocks and down-samplings, are evaluated in every step of the
    sampler; all that is deeper is reused. 0 is fastest."""
    fusion: Literal["average", "linear"] = "average"
    """Between two images: how the video forward from the first and the one backward from the last are fused.
    `average`: each counts half in every frame, and guidance is the same in all; `linear`: from the first alone in the
    first frame to the last alone in the last."""
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
        check(
            len(self.guidance) == 2,
            f"guidance takes two numbers, the smallest and the largest scale, got {self.guidance}",
        )
        _check_video(self)
        _check_decoding(self)
        _check_bounds(self, positive=["sigma_min", "sigma_max", "rho", "consistency_levels"])
        _check_bounds(self, not_negative=["motion_bucket_id", "noise_aug_strength", "churn"])
        check_most(self, "", motion_bucket_id=10_000, noise_aug_strength=100, churn=100_000, sigma_max=1e6, rho=1000)
        _check_interval(self.guidance_interval)
        for name in ("churn", "renoise"):
            check(
                getattr(self, name) == 0 or self.sampler in ("euler", "heun"),
                f"{name} is for the samplers euler and heun, got {self.sampler}: give {name} 0 with it",
            )
        check(
            self.eta == 1 or self.sampler == "dpmpp_2m_sde",
            f"eta is for the sampler dpmpp_2m_sde, got {self.sampler}: leave it at 1",
        )
        distilled = self.sampler == "consistency"
        check(
            self.consistency_levels == 40 or distilled,
            f"consistency_levels is for the sampler consistency, got {self.sampler}: leave it at 40",
        )
        check(
            self.sampling_steps <= self.consistency_levels or not distilled,
            f"sampling_steps must be at most {self.consistency_levels} (consistency_levels), got {self.sampling_steps}",
        )
        _check_bounds(self, not_negative=["renoise", "window_overlap", "eta"], shares=["renoise_part"])
        check_most(self, "", window=1024, renoise=1000, eta=10, consistency_levels=10_000)
        window, overlap = self.window, self.window_overlap
        check(window is None or window >= 2, f"window must be at least 2, its first frame and another, got {window}")
        check(overlap is None or window is not None, f"window_overlap {overlap} goes with a window: give one")
        check(
            overlap is None or overlap < window - 1,
            f"window_overlap {overlap} must be smaller than what window {window} has beside its first frame",
        )
        part = self.renoise_part
        check(
            part == 0.5 or self.renoise > 0, f"renoise_part {part} goes with renoise: leave it at 0.5, or give renoise"
        )
        _check_reuse(self)
        check(self.sigma_min < self.sigma_max, f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")

    @property
    def frames_seen(self) -> int:
        """Frames that the network sees at a time."""
        return min(self.window or self.num_frames, self.num_frames)

    @property
    def reuse(self) -> tuple[int, int]:
        """As `Denoiser.bind` takes it."""
        return self.reuse_every, self.reuse_depth


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
    motion_bucket_id: float = 127
    """How much motion is wanted, 0 (none) to 255 (most), of networks that are conditioned on it."""
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
    guidance_interval: list[float] = field(default_factory=lambda: [0.0, inf])
    """Noise levels low < sigma <= high at which guidance applies, all by default: [0, .inf] (arXiv 2404.07724)."""
    guidance_rescale: float = 0.0
    """How far the guided prediction is brought back to the deviation of the conditional one, 0 to 1 (arXiv 2305.08891,
    section 3.4)."""
    reuse_every: int = 1
    """In every so many steps the network is evaluated as a whole, and in those between, its deep
    blocks are taken to give what they gave last (DeepCache, arXiv 2312.00858); 1 for the whole of it in every step. The
    two are graphs of their own: the second is compiled in the second step."""
    reuse_depth: int = 1
    """With reuse_every: how many steps of the way down, blocks and down-samplings, are evaluated in every step of the
    sampler; all that is deeper is reused. 0 is fastest."""
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
        _check_bounds(self, positive=["window"], shares=["eta", "guidance_rescale"])
        _check_bounds(self, not_negative=["motion_bucket_id", "offset", "guidance", "window_overlap"])
        _check_video(self)
        _check_decoding(self)
        check_most(self, "", motion_bucket_id=10_000, offset=1000, window=1024)
        _check_interval(self.guidance_interval)
        check(self.eta == 0 or self.sampler == "ddim", f"eta is for the sampler ddim, got {self.sampler}: give eta 0")
        check(
            self.window_overlap is None or (self.window is not None and self.window_overlap < self.window),
            f"window_overlap {self.window_overlap} must be smaller than window {self.window}",
        )
        _check_reuse(self)

    @property
    def reuse(self) -> tuple[int, int]:
        """As `Denoiser.bind` takes it."""
        return self.reuse_every, self.reuse_depth


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
        _check_bounds(self, not_negative=["langevin", "guidance"], shares=["gamma", "quantile"])
        _check_video(self, side=4096)
        check_most(self, "", langevin=2)
        check(
            self.quantile == 0.9 or self.bound == "dynamic",
            f"quantile is for bound: dynamic, got {self.bound}: leave it at 0.9",
        )


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


def _check_interval(interval: list[float]) -> None:
    check(
        len(interval) == 2 and 0 <= interval[0] < interval[1],
        f"guidance_interval takes two noise levels from 0 up, the lower first, got {interval}",
    )


def _check_video(sampling: Any, side: int = 8192) -> None:
    """Raise ConfigError for settings of all kinds of models that are out of bounds."""
    _check_bounds(sampling, positive=["num_frames", "height", "width", "fps", "sampling_steps"])
    check_most(sampling, "", num_frames=1024, height=side, width=side, fps=1000, sampling_steps=10_000, guidance=1000)


def _check_reuse(sampling: SamplingConfig | TextSamplingConfig) -> None:
    """Raise ConfigError for settings of feature reuse that are out of bounds, or contradict others."""
    every, depth = sampling.reuse_every, sampling.reuse_depth
    _check_bounds(sampling, positive=["reuse_every"], not_negative=["reuse_depth"])
    check_most(sampling, "", reuse_every=1000)
    check(every > 1 or depth == 1, f"reuse_depth {depth} goes with reuse_every: leave it at 1, or give reuse_every")
    check(
        every == 1 or sampling.window is None,
        f"reuse_every {every} is for videos that are drawn at once, and window {sampling.window} draws them in parts: "
        "leave one of them out",
    )


def _check_decoding(sampling: SamplingConfig | TextSamplingConfig) -> None:
    """Raise ConfigError for settings of the decoder that are out of bounds, or contradict one another."""
    size, overlap, memory = sampling.decode_chunk_size, sampling.decode_overlap, sampling.decode_memory_gb
    _check_bounds(sampling, positive=["decode_chunk_size", "decode_tile_size", "decode_memory_gb"])
    _check_bounds(sampling, not_negative=["decode_overlap"])
    check_most(sampling, "", decode_chunk_size=1024, decode_overlap=1024, decode_tile_size=8192, decode_memory_gb=1e6)
    if size is not None:
        smaller = overlap is None or overlap < size
        check(smaller, f"decode_overlap {overlap} must be smaller than decode_chunk_size {size}")
        check(memory is None, "decode_memory_gb is what decode_chunk_size is chosen from: give one of them")


def _check_bounds(
    sampling: Any, positive: Sequence[str] = (), not_negative: Sequence[str] = (), shares: Sequence[str] = ()
) -> None:
    """Raise ConfigError unless the settings of these names, but for defaults such as None, are positive, not negative,
    or from 0 to 1.
    """
    for names, within, bounds in (
        (positive, lambda value: value > 0, "must be positive"),
        (not_negative, lambda value: value >= 0, "must not be negative"),
        (shares, lambda value: 0 <= value <= 1, "must be from 0 to 1"),
    ):
        for name in names:
            value, default = getattr(sampling, name), getattr(type(sampling), name)
            check(value == default or within(value), f"{name} {bounds}, got {value}")
