"""Model configurations: a dataclass per kind of model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from svd.config.networks import AutoencoderConfig, ImageEncoderConfig, UNetConfig, about_parameters
from svd.config.sampling import SamplingConfig, TrainedRange
from svd.errors import check

MOST_PARAMETERS = 20e9
"""Stable Video Diffusion has 2.3 billion, all networks together."""


@dataclass
class ModelConfig:
    """An image-to-video model: networks, preconditioning and default sampling settings."""

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
        parameters = about_parameters(self.unet, self.autoencoder, self.image_encoder)
        check(
            parameters <= MOST_PARAMETERS,
            f"networks of {parameters / 1e9:.0f} billion parameters; at most {MOST_PARAMETERS / 1e9:.0f} are built",
        )

    @property
    def size_multiple(self) -> int:
        """The number of pixels that height and width of a video must be multiples of."""
        return self.autoencoder.downsampling * 2 ** (len(self.unet.channel_mult) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError for a size that the networks cannot downsample evenly."""
        multiple = self.size_multiple
        check(
            height % multiple == 0 and width % multiple == 0,
            f"height and width must be multiples of {multiple}, got {height} x {width}",
        )

    def different_networks(self, other: ModelConfig) -> list[str]:
        """The differences of another model's networks, a line each. The choice of decoder is ignored: a checkpoint may
        have both.
        """
        different = []
        for part in ("unet", "autoencoder", "image_encoder"):
            theirs = vars(getattr(other, part))
            for key, value in vars(getattr(self, part)).items():
                if value != theirs[key] and (part, key) != ("autoencoder", "decoder"):
                    different.append(f"its {part}.{key} is {value}, not {theirs[key]}")
        return different


DEFAULT_KIND = "svd"
"""The kind of configurations without one, as earlier versions wrote them."""
KINDS: dict[str, type] = {DEFAULT_KIND: ModelConfig}
"""The settings of each kind of model."""
