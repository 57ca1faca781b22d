"""Differences of images that follow perception more than those of pixels: LPIPS, and structural similarity."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.layers.basic import conv2d

FORMAT = "svd-mindspore-lpips"
"""Format name in the metadata of a file of LPIPS."""
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions of each level; pictures are halved between levels."""
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
WINDOW, SIGMA = 11, 1.5
"""Of structural similarity, in pixels."""


class _Level(nn.Cell):
    """Convolutions of one resolution, each followed by ReLU, and the weights of the channels."""

    def __init__(self, in_channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.convs = nn.CellList([conv2d(a, b) for a, b in zip((in_channels, *widths), widths)])
        self.weight = Parameter(initializer("ones", (1, widths[-1], 1, 1), ms.float32), name="weight")

    def construct(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = ops.relu(conv(x))
        return x


class Lpips(nn.Cell):
    """Images [n 3 h w] in [-1, 1], twice -> their distances [n]: LPIPS with VGG16 (arXiv 1801.03924, equation 1).

    Squared differences of features of unit length at the end of each level, weighted by channel, averaged over pixels
    and summed over levels.
    """

    least_side = 2 ** (len(VGG16) - 1)

    def __init__(self):
        super().__init__()
        ends = (3, *(level[-1] for level in VGG16))
        self.levels = nn.CellList([_Level(channels, level) for channels, level in zip(ends, VGG16)])
        self.pool = nn.MaxPool2d(2, 2)
        mean, scale = (np.array(values, np.float32)[None, :, None, None] for values in (MEAN, DEVIATION))
        self.mean, self.scale = Tensor(mean), Tensor(scale)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = (x - self.mean) / self.scale, (y - self.mean) / self.scale
        total = ops.zeros((x.shape[0],), ms.float32)
        for i in range(len(self.levels)):
            if i:
                x, y = self.pool(x), self.pool(y)
            x, y = self.levels[i](x), self.levels[i](y)
            difference = ops.square(_of_unit_length(x) - _of_unit_length(y))
            total = total + ops.mean(ops.reduce_sum(difference * self.levels[i].weight, 1), (1, 2))
        return total


def _of_unit_length(x: Tensor) -> Tensor:
    """Channels [n c h w] divided by their norm, which has a gradient also where all of them are zero."""
    norm = ops.sqrt(ops.maximum(ops.reduce_sum(ops.square(x), 1), 1e-20))
    return x / ops.expand_dims(norm + 1e-10, 1)


class Dissimilarity(nn.Cell):
    """Images [n 3 h w] in [-1, 1], twice -> 1 minus their structural similarity [n], from 0 to 2.

    SSIM (Wang et al. 2004, equation 13) of each channel, with Gaussian windows of 11 x 11 pixels that lie within the
    image, averaged. It needs no weights.
    """

    least_side = WINDOW

    def __init__(self):
        super().__init__()
        places = np.arange(WINDOW) - WINDOW // 2
        window = np.exp(-(places**2) / (2 * SIGMA**2))
        window = (window / window.sum()).astype(np.float32)
        self.rows, self.columns = Tensor(window[None, None, :, None]), Tensor(window[None, None, None, :])
        self.down = ops.Conv2D(1, (WINDOW, 1))
        self.across = ops.Conv2D(1, (1, WINDOW))
        self.c1, self.c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of values with a range of 2

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x, y = ops.reshape(x, (n * c, 1, h, w)), ops.reshape(y, (n * c, 1, h, w))
        parts = self.across(self.down(ops.cat((x, y, x * x, y * y, x * y), 0), self.rows), self.columns)
        mean_x, mean_y, square_x, square_y, product = ops.split(parts, n * c)
        means, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
        similarity = (ops.mul(means, 2.0) + self.c1) * (ops.mul(product - means, 2.0) + self.c2)
        similarity = similarity / ((squares + self.c1) * (square_x + square_y - squares + self.c2))
        return 1.0 - ops.mean(ops.reshape(similarity, (n, -1)), 1)


def load_lpips(path: str | Path) -> Lpips:
    """LPIPS from a file that `svd convert-lpips` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or of something else.
    """
    file = Checkpoint(path)
    if file.metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no LPIPS: make one of VGG16's and LPIPS' weights with `svd convert-lpips`")
    network = Lpips().set_train(False)
    file.load({"lpips": network})
    return network
