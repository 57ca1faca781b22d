"""The networks of models in pixel space, a documented dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from svd.config.checks import check_heads, check_most, check_positive, check_unet_levels
from svd.config.temporal import TextAttentionLayers
from svd.errors import check


@dataclass
class PixelUNetConfig:
    """A UNet in pixel space: residual blocks that the noise level gives a scale and a shift, resampling without
    parameters, attention within frames.

    The defaults are the sizes of Video Diffusion Models' small text-to-video model (arXiv 2204.03458, table 7).
    """

    channels: int = 3
    """Channels of the video."""
    model_channels: int = 128
    """Channels of the first level."""
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Channels of each level, as multiples of model_channels; each level halves the resolution."""
    num_res_blocks: int = 2
    """Residual blocks per level (one more in up blocks)."""
    attention_resolutions: list[int] = field(default_factory=lambda: [2, 4, 8])
    """Down-sampling factors of the levels that have attention; the middle has it in any case."""
    num_head_channels: int = 64
    """Channels of each attention head."""
    embedding_networks: Optional[int] = None
    """Networks of two layers, one after the other, that take the embedding of the noise level to each residual block;
    a SiLU and one linear layer if not given."""
    context_dim: Optional[int] = None
    """Channels of the text that attention sees besides the frame; there is no text if not given."""

    def __post_init__(self):
        check_positive(self, "unet")
        check_most(self, "unet", channels=256, model_channels=8192, channel_mult=64, num_res_blocks=16)
        check_most(self, "unet", num_head_channels=8192, embedding_networks=16, context_dim=16384)
        check_unet_levels(self)
        attended = {*self.attention_resolutions, 2 ** (len(self.channel_mult) - 1)}
        channels = [mult * self.model_channels for i, mult in enumerate(self.channel_mult) if 2**i in attended]
        check_heads("unet.num_head_channels", self.num_head_channels, channels)


@dataclass
class FactorisedAttention:
    """Attention over the frames of each pixel, after each attention within frames (arXiv 2204.03458, section 3)."""

    positions: Literal["relative", "bucketed"] = "relative"
    """How it knows the order of frames: learned vectors that are added to keys and values, one for each distance
    (arXiv 1803.02155), or a learned bias for each bucket of distances (arXiv 1910.10683)."""
    distance: int = 15
    """The largest distance of frames that is told from smaller ones."""
    reference: bool = False
    """Whether to compute as swookey-thinky/xdiffusion does, for its checkpoints: scores are not scaled, the channels of
    heads and frames change places, values have no positions, normalisations pool over frames, and clips have exactly
    distance + 1 frames."""

    def __post_init__(self):
        check_positive(self, "temporal.factorised")
        check_most(self, "temporal.factorised", distance=1024)
        check(
            not self.reference or self.positions == "relative",
            f"temporal.factorised.reference needs positions: relative, got {self.positions}",
        )


@dataclass
class PixelVideoLDMLayers:
    """VideoLDM's (arXiv 2304.08818, section 3.1): two convolutions over time after each residual block, attention over
    frames after each attention within them; an alpha each.
    """

    positions: Literal["relative", "bucketed"] = "relative"
    """As those of `FactorisedAttention`."""
    distance: int = 15
    """The largest distance of frames that is told from smaller ones."""
    alpha: Literal["sigmoid", "clamped"] = "sigmoid"
    """The weight of the spatial branch: the sigmoid of a parameter, or a parameter clamped to [0, 1]."""

    def __post_init__(self):
        check_positive(self, "temporal.video_ldm")
        check_most(self, "temporal.video_ldm", distance=1024)


@dataclass
class PixelTemporalConfig:
    """The temporal layers: one kind of them, or none, which makes an image model."""

    factorised: Optional[FactorisedAttention] = None
    """Those of Video Diffusion Models."""
    video_ldm: Optional[PixelVideoLDMLayers] = None
    """VideoLDM's own."""
    text_attention: Optional[TextAttentionLayers] = None
    """Those of xdiffusion's VideoLDM, whose temporal attention sees the text alone."""

    def __post_init__(self):
        given = [name for name, value in vars(self).items() if value is not None]
        check(len(given) <= 1, f"temporal takes one kind of layers, got {' and '.join(given)}")

    @property
    def reference(self) -> bool:
        """Whether it is xdiffusion's form of Video Diffusion Models."""
        return self.factorised is not None and self.factorised.reference


@dataclass
class LucidrainsConfig:
    """The network of lucidrains/video-diffusion-pytorch, for its checkpoints (`Unet3D`, whose defaults these are)."""

    channels: int = 3
    """Channels of the video."""
    dim: int = 64
    """Channels of the first level."""
    dim_mults: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Channels of each level, as multiples of dim; each level halves the resolution."""
    attn_heads: int = 8
    """Attention heads."""
    attn_dim_head: int = 32
    """Channels of each head of the attention over frames; all others have 32."""
    cond_dim: Optional[int] = None
    """Numbers that a video is conditioned on, such as the mean of a text's tokens; none if not given."""
    use_sparse_linear_attn: bool = True
    """Whether levels have linear attention within frames; the middle has full attention in any case."""
    init_kernel_size: int = 7
    """Pixels of the first convolution, on each axis."""
    norm: Literal["rms", "group"] = "rms"
    """How residual blocks normalise: the root mean square of channels (0.7), or eight groups of them, pooling over
    frames (earlier versions)."""
    reference: bool = False
    """Whether the first attention over frames does not know which frames are independent, as in that code."""

    def __post_init__(self):
        check_positive(self, "lucidrains")
        check_most(self, "lucidrains", channels=256, dim=8192, dim_mults=64, attn_heads=1024, attn_dim_head=8192)
        check_most(self, "lucidrains", cond_dim=65536, init_kernel_size=31)
        check(len(self.dim_mults) > 0, "lucidrains.dim_mults must name at least one level")
        check(min(self.dim_mults) > 0, f"lucidrains.dim_mults must be positive, got {self.dim_mults}")
        check(self.init_kernel_size % 2 == 1, f"lucidrains.init_kernel_size must be odd, got {self.init_kernel_size}")
        check(self.dim % 8 == 0, f"lucidrains.dim must be a multiple of 8, got {self.dim}")
        check(self.attn_dim_head % 2 == 0, f"lucidrains.attn_dim_head must be even, got {self.attn_dim_head}")
