"""Inception-v3 (arXiv 1512.00567) as FID uses it: the network of 2015 that TensorFlow published, with 1008 classes.

Three differences from the one in torchvision: average pools leave out the padding, the last block has a max-pool in its
place, and the weights are others (pytorch-fid brought them to PyTorch).
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from svd.metrics.resizing import bilinear, channels_first

SIDE = 299
"""Pixels of a frame's height and width."""
FEATURES = 2048


class Unit(nn.Cell):
    """Convolution, batch normalisation by the statistics of the training, ReLU: [b c h w] -> [b o h' w']

    Args:
        kernel: h and w.
        valid: without padding; otherwise half of the kernel on each side.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int] = (1, 1), stride: int = 1,
                 valid: bool = False):  # fmt: skip
        super().__init__()
        h, w = (0, 0) if valid else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, "pad", (h, h, w, w), has_bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3, use_batch_statistics=False)

    def construct(self, x: Tensor) -> Tensor:
        return ops.relu(self.norm(self.conv(x)))


class AveragePool(nn.Cell):
    """Means of 3x3 pixels, stride 1, of those that there are: [b c h w] -> [b c h w]."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, pad_mode="valid")

    def construct(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        counts = [np.minimum(np.minimum(np.arange(n) + 2, n - np.arange(n) + 1), 3) for n in (h, w)]
        share = Tensor((9 / np.outer(*counts)).astype(np.float32)[None, None])
        return self.pool(ops.pad(x, (1, 1, 1, 1))) * share


class MaxPool(nn.Cell):
    """The largest of 3x3 pixels, stride 1, values of 0 or more: [b c h w] -> [b c h w]."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 1, pad_mode="valid")

    def construct(self, x: Tensor) -> Tensor:
        return self.pool(ops.pad(x, (1, 1, 1, 1)))


class Branches(nn.Cell):
    """Cells of the same input, their outputs side by side: [b c h w] -> [b o h' w']"""

    def __init__(self, *branches: nn.Cell):
        super().__init__()
        self.branches = nn.CellList(list(branches))

    def construct(self, x: Tensor) -> Tensor:
        outputs = ()
        for branch in self.branches:
            outputs = outputs + (branch(x),)
        return ops.cat(outputs, 1)


def _row(channels: int, *units: tuple) -> nn.SequentialCell:
    """Units one after the other, each of (output channels, *further arguments)."""
    cells = []
    for out, *arguments in units:
        cells.append(Unit(channels, out, *arguments))
        channels = out
    return nn.SequentialCell(*cells)


def _pooled(pool: nn.Cell, channels: int, out: int) -> nn.SequentialCell:
    return nn.SequentialCell(pool, Unit(channels, out))


_3X3, _5X5, _1X7, _7X1, _1X3, _3X1 = (3, 3), (5, 5), (1, 7), (7, 1), (1, 3), (3, 1)


def _block_35(channels: int, pooled: int) -> Branches:
    """At 35 x 35 pixels."""
    return Branches(
        _row(channels, (64,)),
        _row(channels, (48,), (64, _5X5)),
        _row(channels, (64,), (96, _3X3), (96, _3X3)),
        _pooled(AveragePool(), channels, pooled),
    )


def _to_17(channels: int) -> Branches:
    return Branches(
        _row(channels, (384, _3X3, 2, True)),
        _row(channels, (64,), (96, _3X3), (96, _3X3, 2, True)),
        nn.MaxPool2d(3, 2),
    )


def _block_17(channels: int, inner: int) -> Branches:
    return Branches(
        _row(channels, (192,)),
        _row(channels, (inner,), (inner, _1X7), (192, _7X1)),
        _row(channels, (inner,), (inner, _7X1), (inner, _1X7), (inner, _7X1), (192, _1X7)),
        _pooled(AveragePool(), channels, 192),
    )


def _to_8(channels: int) -> Branches:
    return Branches(
        _row(channels, (192,), (320, _3X3, 2, True)),
        _row(channels, (192,), (192, _1X7), (192, _7X1), (192, _3X3, 2, True)),
        nn.MaxPool2d(3, 2),
    )


def _block_8(channels: int, pool: nn.Cell) -> Branches:
    halves = [Branches(Unit(384, 384, _1X3), Unit(384, 384, _3X1)) for _ in range(2)]
    return Branches(
        _row(channels, (320,)),
        nn.SequentialCell(Unit(channels, 384), halves[0]),
        nn.SequentialCell(Unit(channels, 448), Unit(448, 384, _3X3), halves[1]),
        _pooled(pool, channels, 192),
    )


class Inception(nn.Cell):
    """Pictures [b 3 299 299] in [-1, 1] -> features [b 2048]: means over the pixels of the last block."""

    def __init__(self):
        super().__init__()
        self.stem = nn.SequentialCell(
            Unit(3, 32, _3X3, 2, True), Unit(32, 32, _3X3, 1, True), Unit(32, 64, _3X3), nn.MaxPool2d(3, 2),
            Unit(64, 80), Unit(80, 192, _3X3, 1, True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.blocks = nn.SequentialCell(
            _block_35(192, 32), _block_35(256, 64), _block_35(288, 64),
            _to_17(288), _block_17(768, 128), _block_17(768, 160), _block_17(768, 160), _block_17(768, 192),
            _to_8(768), _block_8(1280, AveragePool()), _block_8(2048, MaxPool()),
        )  # fmt: skip

    def construct(self, x: Tensor) -> Tensor:
        return ops.mean(self.blocks(self.stem(x)), (2, 3))


def prepared(frames: np.ndarray) -> np.ndarray:
    """pytorch-fid's preprocessing of uint8 [n h w 3]: the whole picture is made 299 x 299 pixels; float32
    [n 3 299 299] in [-1, 1].
    """
    return bilinear(channels_first(frames) / 255, SIDE, SIDE) * 2 - 1
