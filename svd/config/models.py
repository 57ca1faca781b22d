"""Model configurations: a dataclass per kind of model."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import ClassVar, Literal, Optional

from svd.config.networks import (
    AutoencoderConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    UNetConfig,
    about_parameters,
    ladder_parameters,
)
from svd.config.pixel_networks import FactorisedAttention, LucidrainsConfig, PixelTemporalConfig, PixelUNetConfig
from svd.config.sampling import PixelSamplingConfig, SamplingConfig, ScheduleConfig, TextSamplingConfig, TrainedRange
from svd.config.temporal import TemporalConfig, VideoLDMLayers
from svd.config.upsampler import LowResolutionConfig, UpsamplerUNetConfig, UpsamplingConfig
from svd.errors import ConfigError, check

MOST_PARAMETERS = 20e9
"""Stable Video Diffusion has 2.3 billion, all networks together."""


class Model:
    """What all models have in common: sections that say what their networks are, and the sizes of videos they take."""

    networks: ClassVar[tuple[str, ...]]
    """The sections."""
    purpose: ClassVar[str]
    """What it does, for messages."""

    size_multiple: int
    """The number of pixels that height and width of a video must be multiples of."""

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError for a size that the networks cannot downsample evenly."""
        multiple = self.size_multiple
        check(
            height % multiple == 0 and width % multiple == 0,
            f"height and width must be multiples of {multiple}, got {height} x {width}",
        )

    def check_sampling(self, sampling: SamplingConfig | TextSamplingConfig | PixelSamplingConfig) -> None:
        """Raise ConfigError for sampling settings that are not possible with this model."""
        self.check_size(sampling.height, sampling.width)

    def different_networks(self, other: Model) -> list[str]:
        """The differences of another model's networks, a line each. The choice of decoder is ignored: a checkpoint may
        have both.
        """
        if type(self) is not type(other):
            return ["it is of another kind"]
        different = []
        for part in self.networks:
            ours, theirs = getattr(self, part), getattr(other, part)
            if ours is None or theirs is None:
                different += [] if ours is theirs else [f"its {part} is {ours}, not {theirs}"]
                continue
            different += different_settings(part, ours, theirs, but=("decoder",) if part == "autoencoder" else ())
        return different


def _check_reuse(sampling: SamplingConfig | TextSamplingConfig, unet: UNetConfig) -> None:
    """Raise ConfigError if the network has nothing so deep that could be reused."""
    deepest = unet.steps_down - 1
    message = f"the network has nothing to reuse deeper than {deepest}, got reuse_depth {sampling.reuse_depth}"
    check(sampling.reuse_every == 1 or sampling.reuse_depth <= deepest, message)


def different_settings(section: str, ours: object, theirs: object, but: tuple[str, ...] = ()) -> list[str]:
    """The settings of a section that differ from another one's, `but` some, a line each."""
    other = vars(theirs)
    return [
        f"its {section}.{key} is {value}, not {other.get(key)}"
        for key, value in vars(ours).items()
        if value != other.get(key) and key not in but
    ]


class LatentModel(Model):
    """What models of latents have in common: a `unet` and an `autoencoder`."""

    @property
    def size_multiple(self) -> int:
        return self.autoencoder.downsampling * 2 ** (len(self.unet.channel_mult) - 1)

    def _check_networks(self, encoder: ImageEncoderConfig | TextEncoderConfig) -> None:
        _check_number(about_parameters(self.unet, self.autoencoder, encoder))


def _check_number(parameters: float) -> None:
    check(
        parameters <= MOST_PARAMETERS,
        f"networks of {parameters / 1e9:.0f} billion parameters; at most {MOST_PARAMETERS / 1e9:.0f} are built",
    )


def _check_timesteps(sampling: TextSamplingConfig | UpsamplingConfig, most: int) -> None:
    """Raise ConfigError for steps of a sampler that `most` timesteps do not have."""
    steps = sampling.sampling_steps
    if steps > most:
        message = f"sampling_steps must be at most {most}, the timesteps that there are, got {steps}"
        raise ConfigError(message, "sampling_steps")
    first = most - 1 if steps > 1 or sampling.spacing == "trailing" else 0
    if sampling.spacing == "leading":
        first = (steps - 1) * (most // steps) + sampling.offset
    if not 0 < first < most:
        chosen = f"{steps} steps of {sampling.spacing} spacing with offset {sampling.offset}"
        message = f"{chosen} would begin at timestep {first}, which must be above 0 and below {most}"
        raise ConfigError(message, "sampling_steps")


@dataclass
class ModelConfig(LatentModel):
    """An image-to-video model: networks, preconditioning and default sampling settings."""

    networks = ("unet", "autoencoder", "image_encoder")
    purpose = "turns images into videos"

    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    preconditioning: Literal["v_scaling", "edm", "vp_v"] = "v_scaling"
    """Noise model: SVD's v-scaling with EDM's c_noise, EDM, or variance-preserving v-prediction."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    trained_range: TrainedRange = field(default_factory=TrainedRange)

    def __post_init__(self):
        check(
            self.image_encoder.output_dim == self.unet.context_dim,
            f"image_encoder.output_dim {self.image_encoder.output_dim} must equal "
            f"unet.context_dim {self.unet.context_dim}",
        )
        latents = self.autoencoder.latent_channels
        check(
            self.unet.out_channels == latents and self.unet.in_channels == 2 * latents,
            f"unet.out_channels must be autoencoder.latent_channels {latents} and unet.in_channels twice that",
        )
        vector = self.unet.vector_dim
        check(vector is not None and vector % 6 == 0, f"unet.vector_dim must be a multiple of 6, got {vector}")
        for name in ("upcast_attention", "convolution_projection"):
            check(not getattr(self.unet, name), f"unet.{name} is for models that are given text: leave it at false")
        self._check_networks(self.image_encoder)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Raise ConfigError for sampling settings that are not possible with this model."""
        super().check_sampling(sampling)
        _check_reuse(sampling, self.unet)

    def check_ends(self, sampling: SamplingConfig, between: bool, reversal: bool = False) -> None:
        """Raise ConfigError for settings that are not possible for a video of one image, or `between` two.

        `reversal`: whether the network has been changed into one for videos between two images.
        """
        if between and sampling.frames_seen < sampling.num_frames:
            problem = "a video between two images is drawn at once: leave out window, or last_image"
            raise ConfigError(problem, setting="window")
        if not between and reversal:
            raise ConfigError("reversal is for videos between two images: give last_image, or leave it out", "reversal")
        if not between and sampling.fusion != self.sampling.fusion:
            raise ConfigError("fusion is for videos between two images: give last_image, or leave it out", "fusion")


@dataclass
class ImageLDMConfig(LatentModel):
    """A text-to-image model, Stable Diffusion (arXiv 2112.10752); the defaults are those of 1.5."""

    networks = ("unet", "autoencoder", "text_encoder")
    purpose = "turns text into images"

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            in_channels=4, num_heads=8, context_dim=768, vector_dim=None, convolution_projection=True
        )
    )
    autoencoder: AutoencoderConfig = field(default_factory=lambda: AutoencoderConfig(decoder="image"))
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    preconditioning: Literal["vp_eps", "vp_v"] = "vp_eps"
    """What the network predicts: the noise (1.x, and the base models of 2.x), or v (2.x at 768 pixels)."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampling: TextSamplingConfig = field(default_factory=TextSamplingConfig)

    @property
    def own_layers(self) -> Optional[VideoLDMLayers]:
        """The temporal layers, if they are VideoLDM's own, which may be told numbers and given frames."""
        return None

    def __post_init__(self):
        check(
            self.text_encoder.width == self.unet.context_dim,
            f"text_encoder.width {self.text_encoder.width} must equal unet.context_dim {self.unet.context_dim}",
        )
        latents = self.autoencoder.latent_channels
        check(
            self.unet.in_channels == self.unet.out_channels == latents,
            f"unet.in_channels and unet.out_channels must be autoencoder.latent_channels {latents}",
        )
        check(self.unet.vector_dim is None, "unet.vector_dim is for models that are given an image: leave it out")
        check(
            not self.schedule.zero_terminal_snr or self.preconditioning == "vp_v",
            "schedule.zero_terminal_snr needs preconditioning vp_v: of pure noise, the noise says nothing about data",
        )
        self._check_networks(self.text_encoder)

    def check_sampling(self, sampling: TextSamplingConfig) -> None:
        """Raise ConfigError for sampling settings that are not possible with this model."""
        super().check_sampling(sampling)
        _check_reuse(sampling, self.unet)
        self._check_frames(sampling)
        told = self.own_layers is not None and self.own_layers.motion
        if sampling.motion_bucket_id != TextSamplingConfig.motion_bucket_id and not told:
            message = f"the model is not told how much moves: motion_bucket_id cannot be {sampling.motion_bucket_id}"
            raise ConfigError(message, "motion_bucket_id")
        _check_timesteps(sampling, self.schedule.timesteps)

    def _check_frames(self, sampling: TextSamplingConfig) -> None:
        if sampling.num_frames > 1:
            message = f"the model {self.purpose}: num_frames must be 1, got {sampling.num_frames}"
            raise ConfigError(message, "num_frames")


@dataclass
class VideoLDMConfig(ImageLDMConfig):
    """A text-to-video model: temporal layers between the spatial ones of a text-to-image model (arXiv 2304.08818)."""

    networks = (*ImageLDMConfig.networks, "temporal")
    purpose = "turns text into videos"

    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    sampling: TextSamplingConfig = field(default_factory=lambda: TextSamplingConfig(num_frames=16))

    def _check_frames(self, sampling: TextSamplingConfig) -> None:
        most, frames = getattr(self.temporal.layers, "max_frames", inf), sampling.num_frames
        if min(frames, sampling.window or frames) > most:
            raise ConfigError(
                f"the temporal layers have positions for {most} frames: give a window of at most {most}, and a video "
                f"of {frames} frames is made of overlapping windows",
                "window",
            )

    def __post_init__(self):
        super().__post_init__()
        self.temporal.check_channels([mult * self.unet.model_channels for mult in self.unet.channel_mult])

    @property
    def own_layers(self) -> Optional[VideoLDMLayers]:
        layers = self.temporal.layers
        return layers if isinstance(layers, VideoLDMLayers) else None


@dataclass
class VideoDiffusionConfig(Model):
    """A model in pixel space: Video Diffusion Models (arXiv 2204.03458), the image model within, or VideoLDM on it."""

    networks = ("unet", "temporal", "lucidrains")
    purpose = "makes videos in pixel space"

    unet: PixelUNetConfig = field(default_factory=PixelUNetConfig)
    temporal: PixelTemporalConfig = field(default_factory=lambda: PixelTemporalConfig(factorised=FactorisedAttention()))
    lucidrains: Optional[LucidrainsConfig] = None
    """The network of lucidrains/video-diffusion-pytorch in place of the other two."""
    preconditioning: Literal["log_snr_v", "log_snr_eps", "cosine_eps"] = "log_snr_v"
    """What the network predicts and sees: v, or the noise, and the log-SNR of the continuous cosine schedule; or the
    noise, and the timestep of the discrete one (lucidrains)."""
    timesteps: int = 1000
    """How many there are, of cosine_eps."""
    sampling: PixelSamplingConfig = field(default_factory=PixelSamplingConfig)

    def __post_init__(self):
        if self.lucidrains is not None:
            others = self.unet == PixelUNetConfig() and self.temporal == PixelTemporalConfig(FactorisedAttention())
            check(others, "lucidrains takes the place of unet and temporal: give either")
        unet, other = self.unet, self.lucidrains
        sizes = (unet.model_channels, unet.channel_mult, 2 * unet.num_res_blocks + 2)
        sizes = sizes if other is None else (other.dim, other.dim_mults, 6)
        _check_number(sum(ladder_parameters(*sizes, 30)))
        reads, text = self.temporal.text_attention is not None, self.unet.context_dim is not None
        check(text or not reads, "temporal.text_attention sees the text alone: give unet.context_dim")
        check(0 < self.timesteps <= 100_000, f"timesteps must be from 1 to 100,000, got {self.timesteps}")
        discrete = self.preconditioning == "cosine_eps"
        check(self.timesteps == 1000 or discrete, f"timesteps are for preconditioning cosine_eps, got {self.timesteps}")

    def check_sampling(self, sampling: PixelSamplingConfig) -> None:
        super().check_sampling(sampling)
        frames, steps, guidance = sampling.num_frames, sampling.sampling_steps, sampling.guidance
        check(guidance == 1 or self.conditioned, f"guidance is for models that are told something, got {guidance}")
        discrete = self.preconditioning == "cosine_eps"
        check(steps <= self.timesteps or not discrete, f"sampling_steps must be at most {self.timesteps}, got {steps}")
        if self.temporal.reference and self.lucidrains is None:
            only = self.temporal.factorised.distance + 1
            check(frames == only, f"num_frames must be {only} with temporal.factorised.reference, got {frames}")

    @property
    def channels(self) -> int:
        """Channels of a video."""
        return (self.lucidrains or self.unet).channels

    @property
    def conditioned(self) -> bool:
        """Whether the network is told something: text, or lucidrains' condition."""
        return (self.unet.context_dim if self.lucidrains is None else self.lucidrains.cond_dim) is not None

    @property
    def temporal_layers(self) -> bool:
        """Whether there are any: otherwise frames are images."""
        return self.lucidrains is not None or any(layers is not None for layers in vars(self.temporal).values())

    @property
    def size_multiple(self) -> int:
        mults = self.unet.channel_mult if self.lucidrains is None else self.lucidrains.dim_mults
        return 2 ** (len(mults) - 1)


@dataclass
class UpsamplerConfig(Model):
    """A model that upsamples videos (arXiv 2304.08818, section 3.4), or images; the defaults are those of Stable
    Diffusion's x4 upscaler.
    """

    networks = ("unet", "autoencoder", "text_encoder", "temporal", "low_resolution")
    purpose = "upsamples videos"

    unet: UpsamplerUNetConfig = field(default_factory=UpsamplerUNetConfig)
    autoencoder: Optional[AutoencoderConfig] = field(
        default_factory=lambda: AutoencoderConfig(channel_mult=[1, 2, 4], scale_factor=0.08333, decoder="image")
    )
    """Of the result; null for a model in pixel space."""
    text_encoder: Optional[TextEncoderConfig] = field(
        default_factory=lambda: TextEncoderConfig(width=1024, layers=23, heads=16, activation="gelu", padding="zero")
    )
    """Null for a model that is not given text."""
    temporal: Optional[TemporalConfig] = None
    """Temporal layers, of VideoLDM's own kind; null for a model of images."""
    low_resolution: LowResolutionConfig = field(default_factory=LowResolutionConfig)
    preconditioning: Literal["vp_eps", "vp_v"] = "vp_v"
    """What the network predicts: the noise, or v."""
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(beta_start=0.0001, beta_end=0.02))
    sampling: UpsamplingConfig = field(default_factory=UpsamplingConfig)

    def __post_init__(self):
        unet, text = self.unet, self.text_encoder
        space = self.channels
        check(
            unet.out_channels == space and unet.in_channels == space + 3,
            f"unet.out_channels must be the {space} channels of the result, and unet.in_channels 3 more",
        )
        check(
            self.low_resolution.factor % self.downsampling == 0,
            f"low_resolution.factor {self.low_resolution.factor} must be a multiple of the autoencoder's "
            f"{self.downsampling}",
        )
        if text is None:
            check(not unet.cross_attention_only, "unet.cross_attention_only needs a text_encoder: give []")
        else:
            widths = f"text_encoder.width {text.width} must equal unet.context_dim {unet.context_dim}"
            check(text.width == unet.context_dim, widths)
        check(self.autoencoder is None or self.autoencoder.decoder == "image", "autoencoder.decoder must be image")
        if self.temporal is not None:
            layers = self.temporal.layers
            check(isinstance(layers, VideoLDMLayers), "temporal takes layers of the kind video_ldm in an upsampler")
            check(not layers.fps, "temporal.video_ldm.fps is not used by an upsampler: leave it at false")
            check(text is not None or not layers.text, "temporal.video_ldm.text needs a text_encoder")
        check(
            not self.schedule.zero_terminal_snr or self.preconditioning == "vp_v",
            "schedule.zero_terminal_snr needs preconditioning vp_v: of pure noise, the noise says nothing about data",
        )
        encoder = text or TextEncoderConfig()
        _check_number(about_parameters(unet, self.autoencoder or AutoencoderConfig(), encoder))

    @property
    def channels(self) -> int:
        """Channels of what is denoised: latents, or pixels."""
        return 3 if self.autoencoder is None else self.autoencoder.latent_channels

    @property
    def downsampling(self) -> int:
        """Pixels of the result per element of what is denoised, on each axis."""
        return 1 if self.autoencoder is None else self.autoencoder.downsampling

    @property
    def enlarged(self) -> int:
        """Elements of what is denoised per pixel of the given video, on each axis."""
        return self.low_resolution.factor // self.downsampling

    @property
    def size_multiple(self) -> int:
        """Of the result."""
        return max(self.downsampling * 2 ** (len(self.unet.channel_mult) - 1), self.low_resolution.factor)

    def check_sampling(self, sampling: UpsamplingConfig) -> None:
        """Raise ConfigError for sampling settings that are not possible with this model."""
        _check_timesteps(sampling, self.schedule.timesteps)
        level, most = sampling.noise_level, self.low_resolution.max_noise_level
        if level >= most:
            message = f"noise_level must be below {most}, the levels that the model was trained on, got {level}"
            raise ConfigError(message, "noise_level")
        if sampling.guidance != 1 and self.text_encoder is None:
            message = f"guidance is for models that are given text: leave it at 1, got {sampling.guidance}"
            raise ConfigError(message, "guidance")
        if sampling.decode_tile_size is not None and self.autoencoder is None:
            raise ConfigError("decode_tile_size is for models of latents: leave it out", "decode_tile_size")
        multiple = self.size_multiple // self.low_resolution.factor
        if (sampling.tile or 0) % multiple:
            raise ConfigError(f"tile must be a multiple of {multiple}, got {sampling.tile}", "tile")


DEFAULT_KIND = "svd"
"""The kind of configurations without one, as earlier versions wrote them."""
KINDS: dict[str, type] = {
    DEFAULT_KIND: ModelConfig,
    "image_ldm": ImageLDMConfig,
    "video_ldm": VideoLDMConfig,
    "video_diffusion": VideoDiffusionConfig,
    "upsampler": UpsamplerConfig,
}
"""The settings of each kind of model."""
