"""Network configurations, a documented dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from svd.config.checks import check_divides, check_heads, check_levels, check_most, check_positive, check_unet_levels
from svd.errors import check

NOT_OF_WEIGHTS = ("convolution_projection", "upcast_attention")
"""Settings of a UNet that the meaning of its weights does not depend on."""
MOST_TOKENS = 2**16
"""Patches of an image."""


@dataclass
class UNetConfig:
    """A UNet ladder (the defaults are those of SVD, appendix D: 1,524,623,082 parameters)."""

    in_channels: int = 8
    """Channels of the input: noisy latents, and those of the conditioning image where there is one."""
    out_channels: int = 4
    """Channels of the output."""
    model_channels: int = 320
    """Channels of the first level."""
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    """Channels of each level, as multiples of model_channels; each level halves the resolution."""
    num_res_blocks: int = 2
    """Residual blocks per level (one more in up blocks)."""
    attention_resolutions: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Down-sampling factors of the levels that have transformers."""
    num_head_channels: int = 64
    """Channels of each attention head, where num_heads is not given."""
    num_heads: Optional[int] = None
    """Attention heads at every level (8 in Stable Diffusion 1)."""
    context_dim: int = 1024
    """Channels of the cross-attention context."""
    vector_dim: Optional[int] = 768
    """Channels of the vector conditioning: SVD's three embeddings of equal size (fps, motion bucket, augmentation)."""
    upcast_attention: bool = False
    """Whether attention scores are computed in float32 in half precision (Stable Diffusion 2.1 overflows otherwise)."""
    convolution_projection: bool = False
    """Whether other programs store the projections around transformers as 1x1 convolutions (Stable Diffusion 1), not
    as linear layers; they compute the same."""

    def __post_init__(self):
        check_positive(self, "unet")
        check_most(self, "unet", in_channels=512, out_channels=256, model_channels=8192, channel_mult=64)
        check_most(self, "unet", num_res_blocks=16, num_head_channels=8192, context_dim=16384, vector_dim=65536)
        check_most(self, "unet", num_heads=1024)
        check_unet_levels(self)
        by_heads = self.num_heads is not None
        name, divisor = ("num_heads", self.num_heads) if by_heads else ("num_head_channels", self.num_head_channels)
        check_heads(f"unet.{name}", divisor, [mult * self.model_channels for mult in self.channel_mult])

    @property
    def steps_down(self) -> int:
        """How many there are on the way down, the first convolution included: each gives a skip to the way up."""
        return len(self.channel_mult) * (self.num_res_blocks + 1)

    def heads(self, channels: int) -> int:
        """Attention heads of a layer of so many channels."""
        return self.num_heads or channels // self.num_head_channels


@dataclass
class AutoencoderConfig:
    """The autoencoder of Stable Diffusion, with the decoder of choice."""

    channels: int = 128
    """Channels of the first level."""
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    """Channels of each level, as multiples of channels; each level but the last halves the resolution."""
    num_res_blocks: int = 2
    """Residual blocks per level of the encoder (the decoder has one more)."""
    latent_channels: int = 4
    """Channels of the latents."""
    scale_factor: float = 0.18215
    """Latents are multiplied by it before diffusion and divided by it before decoding."""
    decoder: Literal["temporal", "image"] = "temporal"
    """`temporal` decodes a clip at once; `image` decodes every frame by itself (the svd_image_decoder files)."""

    def __post_init__(self):
        check_positive(self, "autoencoder")
        check_most(self, "autoencoder", channels=4096, channel_mult=64, num_res_blocks=16, latent_channels=256)
        check_most(self, "autoencoder", scale_factor=1e6)
        check_levels("autoencoder", self.channels, self.channel_mult)

    @property
    def downsampling(self) -> int:
        """Pixels of the image per pixel of the latents, on each axis."""
        return 2 ** (len(self.channel_mult) - 1)


@dataclass
class ImageEncoderConfig:
    """The image tower of CLIP (the defaults are OpenCLIP's ViT-H/14: 632,076,800 parameters)."""

    width: int = 1280
    """Channels of the tokens."""
    layers: int = 32
    """Transformer layers."""
    heads: int = 16
    """Attention heads."""
    patch_size: int = 14
    """Pixels of a patch, on each axis."""
    image_size: int = 224
    """Pixels of the input, on each axis; any image is resized to it."""
    output_dim: int = 1024
    """Channels of the embedding."""

    def __post_init__(self):
        check_positive(self, "image_encoder")
        check_most(self, "image_encoder", width=16384, layers=256, heads=1024, patch_size=4096, image_size=4096)
        check_most(self, "image_encoder", output_dim=16384)
        check_divides(self, "image_encoder", "heads", of="width")
        check_divides(self, "image_encoder", "patch_size", of="image_size")
        patches = (self.image_size // self.patch_size) ** 2
        check(patches <= MOST_TOKENS, f"image_encoder: an image of {patches} patches; at most {MOST_TOKENS} are seen")


@dataclass
class TextEncoderConfig:
    """The text tower of CLIP (the defaults are ViT-L/14, of Stable Diffusion 1: 123,060,480 parameters)."""

    vocabulary: int = 49408
    """Tokens that there are."""
    tokens: int = 77
    """Tokens of a prompt, with its start and its end; longer ones are truncated, shorter ones padded."""
    width: int = 768
    """Channels of the tokens."""
    layers: int = 12
    """Transformer layers that are used: Stable Diffusion 2 leaves out the last one of ViT-H/14, which makes 23."""
    heads: int = 12
    """Attention heads."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """x sigmoid(1.702 x), as OpenAI's towers, or the exact GELU, as OpenCLIP's."""
    padding: Literal["end", "zero"] = "end"
    """What prompts are padded with: the token that ends them (Stable Diffusion 1), or token 0 (Stable Diffusion 2)."""

    def __post_init__(self):
        check_positive(self, "text_encoder")
        check_most(self, "text_encoder", vocabulary=2**20, tokens=4096, width=16384, layers=256, heads=1024)
        check(self.tokens >= 3, f"text_encoder.tokens must be at least 3, got {self.tokens}")
        check_divides(self, "text_encoder", "heads", of="width")


def about_parameters(
    unet: UNetConfig, autoencoder: AutoencoderConfig, encoder: ImageEncoderConfig | TextEncoderConfig
) -> float:
    """The number of parameters within a factor of two, computed without building the networks."""
    return (
        sum(ladder_parameters(unet.model_channels, unet.channel_mult, 2 * unet.num_res_blocks + 2, 64))
        + sum(ladder_parameters(autoencoder.channels, autoencoder.channel_mult, 2 * autoencoder.num_res_blocks + 2, 30))
        + 12 * encoder.layers * encoder.width**2
    )


def ladder_parameters(channels: int, mult: list[int], blocks: int, weights: int):
    """About the parameters per level of a network with this many blocks of `weights` * channels^2 per level."""
    return (blocks * weights * (level * channels) ** 2 for level in mult)
