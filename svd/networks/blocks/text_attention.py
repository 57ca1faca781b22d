"""The blocks of srpkdyy/VideoLDM, a port of VideoLDM whose temporal attention sees the text alone."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.config import TextAttentionLayers, UNetConfig
from svd.layers.attention import DotProductAttention
from svd.layers.basic import Linear, SwapAxes
from svd.layers.blend import Blend
from svd.layers.temporal import FollowedResBlock, FollowedTransformer, FrameConvolutions, frame_positions
from svd.networks.blocks.image import ImageBlocks
from svd.networks.unet import Place


class TextAttention(nn.Cell):
    """Cross-attention to the text, where queries know their frame; without norm, residual or biases."""

    is_temporal = True

    def __init__(self, channels: int, heads: int, context_dim: int):
        super().__init__()
        # 10000^(-i / c), which that code has in place of 10000^(-2i / c)
        self.frequencies = Tensor([10000.0 ** (-i / channels) for i in range(channels // 2)], ms.float32)
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_dim, channels, bias=False)
        self.to_v = Linear(context_dim, channels, bias=False)
        self.to_out = Linear(channels, channels, bias=False)
        self.attention = DotProductAttention(heads)
        self.swap = SwapAxes()

    def constants(self, text: Tensor, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of text [b n d]: keys and values [b n c], and the positions' part of the queries [t c]."""
        positions = frame_positions(num_frames, self.frequencies).astype(text.dtype)
        return self.to_k(text), self.to_v(text), self.to_q(positions)

    def construct(self, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """x [b t c h w], and the constants -> [b t c h w]"""
        b, t, c, h, w = x.shape
        y = self.swap(ops.reshape(x, (b * t, c, h * w)))
        q = ops.reshape(self.to_q(y), (b, t, h * w, c)) + ops.expand_dims(positions, 1)
        y = self.to_out(self.attention(ops.reshape(q, (b, t * h * w, c)), keys, values))
        return ops.reshape(self.swap(ops.reshape(y, (b * t, h * w, c))), (b, t, c, h, w))


class TextAttentionBlocks:
    """Two convolutions over time, and attention to the text, in levels with spatial attention; the middle has none."""

    temporal_vector = False

    def __init__(self, config: UNetConfig, layers: TextAttentionLayers):
        self.config, self.layers, self.image = config, layers, ImageBlocks(config)

    def vector_embedding(self) -> None:
        return None

    def entry(self, channels: int) -> None:
        return None

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        if place.middle or not place.attends:
            return self.image.residual(in_channels, channels, place)
        temporal = FrameConvolutions(channels, layers=2, residual=False)
        return FollowedResBlock(in_channels, channels, self.config, temporal, Blend(clamped=True))

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        if place.middle or not place.attends:
            return self.image.attention(channels, place)
        temporal = TextAttention(channels, self.layers.heads, self.config.context_dim)
        return FollowedTransformer(channels, self.config, temporal, Blend(clamped=True))
