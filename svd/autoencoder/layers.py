"""Layers shared by the encoder and the decoders."""

from typing import Optional

from mindspore import Tensor, nn, ops

from svd.layers.attention import DotProductAttention
from svd.layers.axes import per_image
from svd.layers.basic import GroupNorm, Linear, SwapAxes
from svd.layers.resblock import ResBlock, VideoResBlock

SPATIAL_EPS = 1e-6
"""Epsilon of the autoencoder's spatial normalisations (temporal ones have 1e-5)."""


def residual_block(in_channels: int, out_channels: int, temporal: bool = False) -> nn.Cell:
    """Stable Diffusion's block over images [n c h w], or SVD's over clips [b t c h w]."""
    if temporal:
        return VideoResBlock(in_channels, out_channels, spatial_eps=SPATIAL_EPS)
    return ResBlock(in_channels, out_channels, eps=SPATIAL_EPS)


def apply_residual(block: nn.Cell, x: Tensor, image_only: bool) -> Tensor:
    """A block on x; `image_only`, for those over clips alone, leaves its temporal layers out."""
    return block(x, None, None, True) if image_only else block(x)


class Level(nn.Cell):
    """Residual blocks of one resolution, over [n c h w] or, if temporal, over [b t c h w], and what changes it."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_res_blocks: int,
        temporal: bool = False,
        downsample: Optional[nn.Cell] = None,
        upsample: Optional[nn.Cell] = None,
    ):
        super().__init__()
        widths = [in_channels] + [channels] * num_res_blocks
        self.resnets = nn.CellList([residual_block(a, b, temporal) for a, b in zip(widths, widths[1:])])
        self.has_downsample, self.has_upsample = downsample is not None, upsample is not None
        self.downsample, self.upsample = downsample, upsample

    def construct(self, x: Tensor, image_only: bool = False) -> Tensor:
        for resnet in self.resnets:
            x = apply_residual(resnet, x, image_only)
        if self.has_downsample:
            x = self.downsample(x)
        if self.has_upsample:
            x = per_image(self.upsample, x)
        return x


class PixelAttention(nn.Cell):
    """[n c h w] -> [n c h w]: single-head attention over the pixels of each frame, with its residual."""

    is_block = True

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(channels, SPATIAL_EPS)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.attention = DotProductAttention(heads=1)
        self.to_out = Linear(channels, channels)
        self.swap = SwapAxes()

    def construct(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.swap(ops.reshape(self.norm(x), (n, c, h * w)))
        y = self.to_out(self.attention(self.to_q(y), self.to_k(y), self.to_v(y)))
        return x + ops.reshape(self.swap(y), (n, c, h, w))


class Middle(nn.Cell):
    """Residual block, attention, residual block, over [n c h w] or, if temporal, over [b t c h w]."""

    def __init__(self, channels: int, temporal: bool = False):
        super().__init__()
        self.resnets = nn.CellList([residual_block(channels, channels, temporal) for _ in range(2)])
        self.attention = PixelAttention(channels)

    def construct(self, x: Tensor, image_only: bool = False) -> Tensor:
        x = per_image(self.attention, apply_residual(self.resnets[0], x, image_only))
        return apply_residual(self.resnets[1], x, image_only)
