"""C3D (Tran et al. 2015, arXiv 1412.0767), fine-tuned on UCF101 by its authors: the classifier of the video IS."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.layers.basic import Linear
from svd.metrics.resizing import bilinear, channels_first
from svd.metrics.volumes import Conv3d, MaxPool3d

FRAMES = 16
SIDE = 112
"""Pixels of a frame's height and width."""
_CHANNELS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Of the convolutions in front of each pool."""


class C3D(nn.Cell):
    """Clips [b 16 3 112 112], blue first, 0 to 255 less the mean clip of the training -> logits [b classes].

    That mean is kept with the weights. The last pool has windows that are not filled, as in Caffe and Chainer: its 7
    pixels become 4.
    """

    def __init__(self, classes: int = 101):
        super().__init__()
        channels, layers = 3, []
        for number, widths in enumerate(_CHANNELS):
            for width in widths:
                layers += [Conv3d(channels, width), nn.ReLU()]
                channels = width
            window = (2, 2) if number else (1, 2)
            layers.append(MaxPool3d(window, window, at_end=True))
        self.features = nn.SequentialCell(*layers)
        self.fc6, self.fc7 = Linear(512 * 4 * 4, 4096), Linear(4096, 4096)
        self.fc8 = Linear(4096, classes)
        self.mean = Parameter(Tensor(np.zeros((FRAMES, 3, SIDE, SIDE), np.float32)), name="mean", requires_grad=False)

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two layers of 4096 in front of the logits."""
        x = self.features(x)
        first = ops.relu(self.fc6(ops.reshape(x, (x.shape[0], -1))))
        return first, ops.relu(self.fc7(first))

    def construct(self, x: Tensor) -> Tensor:
        return self.fc8(self.hidden(x)[1])


def prepared(clips: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """TGANv2's preprocessing of uint8 [b 16 h w 3]: the whole frame is made 112 x 112 pixels with its corners in place,
    blue comes first, values span 256, and the mean clip [16 3 112 112] is subtracted; float32 [b 16 3 112 112].
    """
    x = channels_first(clips)[:, :, ::-1] * np.float32(128 / 127.5) - 128
    return bilinear(x, SIDE, SIDE, align_corners=True) + (128 - mean)
