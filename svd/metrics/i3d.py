"""I3D (Carreira & Zisserman 2017, arXiv 1705.07750, figure 3), trained on Kinetics-400: the features of FVD."""

from __future__ import annotations

import math

import numpy as np
from mindspore import Tensor, nn, ops

from svd.layers.basic import Linear
from svd.metrics.resizing import bilinear, channels_first
from svd.metrics.volumes import Conv3d, MaxPool3d

CLASSES = 400
LEAST_FRAMES = 10
"""A clip's frames are halved three times, rounded up, and two must be left for the last average."""
SIDE = 224
"""Pixels of a frame's height and width."""
_BLOCKS = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip
"""Channels of each block: of a pointwise branch, two of 3x3x3 (before and within), and one behind a pool."""
_POOLED = {0: ((1, 3), (1, 2)), 2: ((3, 3), (2, 2)), 7: ((2, 2), (2, 2))}
"""Kernel and stride (time, pixels) of the pools in front of some blocks."""


class Unit(nn.Cell):
    """Convolution, batch normalisation by the statistics of the training, ReLU: [b t c h w] -> [b t' o h' w']"""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, eps: float = 1e-5):
        super().__init__()
        self.conv = Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=eps, use_batch_statistics=False)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        b, t, c, h, w = x.shape
        x = ops.relu(self.norm(ops.reshape(x, (b * t, c, h, w))))
        return ops.reshape(x, (b, t, c, h, w))


class Block(nn.Cell):
    """Four branches side by side, [b t c h w] -> [b t o h w]."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], eps: float):
        super().__init__()
        pointwise, before_1, within_1, before_2, within_2, pooled = channels
        self.branch0 = Unit(in_channels, pointwise, 1, eps=eps)
        self.branch1 = nn.SequentialCell(Unit(in_channels, before_1, 1, eps=eps), Unit(before_1, within_1, 3, eps=eps))
        self.branch2 = nn.SequentialCell(Unit(in_channels, before_2, 1, eps=eps), Unit(before_2, within_2, 3, eps=eps))
        self.branch3 = nn.SequentialCell(MaxPool3d((3, 3), (1, 1)), Unit(in_channels, pooled, 1, eps=eps))

    def construct(self, x: Tensor) -> Tensor:
        return ops.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 2)


class I3D(nn.Cell):
    """Clips [b t 3 224 224] in [-1, 1], t >= LEAST_FRAMES -> logits of the classes [b 400], their means over time.

    Args:
        eps: of the batch normalisations. The network was trained with 1e-3 (Sonnet's), as pytorch-i3d computes it;
            VideoGPT, with whose file FVD is computed nearly everywhere, with 1e-5.
    """

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.stem = nn.SequentialCell(
            Unit(3, 64, 7, 2, eps=eps), MaxPool3d((1, 3), (1, 2)), Unit(64, 64, 1, eps=eps), Unit(64, 192, 3, eps=eps)
        )
        channels, blocks, pools = 192, [], []
        for number, widths in enumerate(_BLOCKS):
            blocks.append(Block(channels, widths, eps))
            pools.append(MaxPool3d(*_POOLED[number]) if number in _POOLED else nn.Identity())
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.blocks, self.pools = nn.CellList(blocks), nn.CellList(pools)
        self.logits = Linear(channels, CLASSES)

    def pooled(self, x: Tensor) -> Tensor:
        """Averages over pixels and two neighbouring frames, [b t' 1024]."""
        x = self.stem(x)
        for pool, block in zip(self.pools, self.blocks):
            x = block(pool(x))
        x = ops.mean(x, (3, 4))
        return (x[:, 1:] + x[:, :-1]) / 2

    def construct(self, x: Tensor) -> Tensor:
        return ops.mean(self.logits(self.pooled(x)), 1)


def cropped(clips: np.ndarray) -> np.ndarray:
    """VideoGPT's preprocessing of uint8 [b t h w 3]: the shorter side is made 224 pixels, and the centre is cropped;
    float32 [b t 3 224 224] in [-1, 1].
    """
    height, width = clips.shape[2:4]
    scale = SIDE / min(height, width)
    size = (SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE)
    top, left = ((n - SIDE) // 2 for n in size)
    x = bilinear(channels_first(clips) / 255, *size)
    return (x[..., top : top + SIDE, left : left + SIDE] - 0.5) * 2


def squeezed(clips: np.ndarray) -> np.ndarray:
    """StyleGAN-V's preprocessing of uint8 [b t h w 3]: the whole frame is made 224 x 224 pixels, whatever its shape;
    float32 [b t 3 224 224] in [-1, 1].
    """
    return bilinear(channels_first(clips), SIDE, SIDE) * (2 / 255) - 1
