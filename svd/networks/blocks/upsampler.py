"""The blocks of Stable Diffusion's x4 upscaler, of images in pixel space, and VideoLDM's temporal layers over both
(arXiv 2304.08818, section 3.4).
"""

from typing import Optional

from mindspore import Tensor, nn, ops

from svd.config import UpsamplerConfig, UpsamplerUNetConfig
from svd.layers.attention import Attention, FeedForward
from svd.layers.basic import LayerNorm, Linear
from svd.layers.embeddings import EmbeddingMLP
from svd.networks.blocks.image import ImageBlocks
from svd.networks.blocks.video_ldm import VideoLDMBlocks
from svd.networks.unet import Blocks, Place, UNet


class CrossAttentionBlock(nn.Cell):
    """Twice attention to the text, then feed-forward; each with its residual. No pixel sees another one."""

    def __init__(self, dim: int, heads: int, context_dim: int, upcast: bool = False):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, heads, context_dim, upcast=upcast)
        self.norm2 = LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim, upcast=upcast)
        self.norm3 = LayerNorm(dim)
        self.ff = FeedForward(dim)

    def constant(self, context: Tensor) -> Tensor:
        """Keys and values of both attentions to the context [b n d], side by side: [b 4n c]."""
        first, second = self.attn1, self.attn2
        return ops.cat((first.to_k(context), first.to_v(context), second.to_k(context), second.to_v(context)), 1)

    def construct(self, x: Tensor, context: Tensor) -> Tensor:
        """x [b g l c], context as `constant` gives it -> [b g l c]"""
        b, g, l, c = shape = x.shape
        x = ops.reshape(x, (b, g * l, c))
        k1, v1, k2, v2 = ops.Split(1, 4)(context)
        x = self.attn1.to_out.add_to(x, self.attn1.attention(self.attn1.to_q(self.norm1(x)), k1, v1))
        x = self.attn2.to_out.add_to(x, self.attn2.attention(self.attn2.to_q(self.norm2(x)), k2, v2))
        return ops.reshape(self.ff(x, self.norm3(x)), shape)


class SelfAttentionBlock(nn.Cell):
    """Attention to the pixels of the frame, then feed-forward; for models that are not given text."""

    def __init__(self, dim: int, heads: int, upcast: bool = False):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, heads, upcast=upcast)
        self.norm3 = LayerNorm(dim)
        self.ff = FeedForward(dim)

    def constant(self, context: Tensor) -> Tensor:
        """What stands for a text, which is not looked at."""
        return context

    def construct(self, x: Tensor, context: Tensor) -> Tensor:
        """x [b g l c] -> [b g l c]"""
        b, g, l, c = shape = x.shape
        attended = self.attn1.attend(ops.reshape(self.norm1(x), (b * g, l, c)))
        x = ops.reshape(x, (b, g * l, c))
        x = self.attn1.to_out.add_to(x, ops.reshape(attended, x.shape))
        return ops.reshape(self.ff(x, self.norm3(x)), shape)


class UpsamplerBlocks:
    """The blocks of an image model, or of a video model over it, with the upsampler's attention in space, and told the
    level of the noise on the low-resolution video.

    Args:
        inner: of a model that attends to pixels and text.
        text: whether there is a text.
        levels: noise levels that there are.
    """

    temporal_vector = False

    def __init__(self, inner: Blocks, config: UpsamplerUNetConfig, text: bool, levels: int):
        self.inner, self.config, self.text, self.levels = inner, config, text, levels
        self.entry, self.residual = inner.entry, inner.residual

    def vector_embedding(self) -> nn.Cell:
        """Of the noise level: one of `levels`, [b levels], or its sinusoids, [b model_channels]."""
        channels = self.config.model_channels
        if self.config.noise_level == "table":
            return Linear(self.levels, 4 * channels, bias=False)
        return EmbeddingMLP(channels, 4 * channels, 4 * channels)

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        block, config = self.inner.attention(channels, place), self.config
        if block is None:
            return None
        heads, upcast = config.heads(channels), config.upcast_attention
        if not self.text:
            block.spatial = SelfAttentionBlock(channels, heads, upcast)
        elif place.factor in config.cross_attention_only and not place.middle:
            block.spatial = CrossAttentionBlock(channels, heads, config.context_dim, upcast)
        return block


def upsampler_unet(config: UpsamplerConfig) -> UNet:
    """The UNet of an upsampler, of images or of videos."""
    unet, levels = config.unet, config.low_resolution.schedule.timesteps
    inner = ImageBlocks(unet) if config.temporal is None else VideoLDMBlocks(unet, config.temporal.layers)
    return UNet(unet, UpsamplerBlocks(inner, unet, config.text_encoder is not None, levels))
