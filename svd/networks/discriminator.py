"""Patch discriminators of frames and of clips, which tell decoded ones from real ones, and their losses."""

from __future__ import annotations

from zlib import crc32

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from svd.layers.axes import fold_frames, over_frames
from svd.layers.basic import Conv2d, GroupNorm, SwapAxes
from svd.seeds import Purpose, generator

KERNEL = 4
SLOPE = 0.2
MOST_GROUPS = 32


class PatchDiscriminator(nn.Cell):
    """Clips [b t 3 h w] in [-1, 1] -> logits of patches [b t h' w'], high for real ones.

    PatchGAN (arXiv 1611.07004) as latent diffusion models have it: `layers` convolutions with stride 2 and one without,
    group normalisation in place of the batch's, whose statistics would depend on how clips are divided among
    micro-batches and cards. A temporal one convolves three frames at a time (kernel 3 x 4 x 4, stride 1 x 2 x 2) and
    normalises over all frames; the other sees each frame by itself.

    Args:
        channels: of the first layer; each further one has twice as many, up to eight times.
        layers: of stride 2. Frames have to be at least 3 x 2^layers pixels high and wide.
        temporal: whether it sees motion; clips then have at least two frames.
    """

    def __init__(self, channels: int = 64, layers: int = 3, temporal: bool = True):
        super().__init__()
        self.compute_dtype = ms.float32  # svd.placement sets it
        self.temporal = temporal
        widths = [3, *(channels * min(2**i, 8) for i in range(layers + 1)), 1]
        strides = [2] * layers + [1, 1]
        seen = 3 if temporal else 1
        self.convs = nn.CellList([
            Conv2d(seen * a, b, KERNEL, stride=stride, pad_mode="pad", padding=1, has_bias=i in (0, layers + 1))
            for i, (a, b, stride) in enumerate(zip(widths, widths[1:], strides))
        ])  # fmt: skip
        self.norms = nn.CellList([GroupNorm(c, groups=min(MOST_GROUPS, c)) for c in widths[2:-1]])
        self.swap = SwapAxes()

    def construct(self, video: Tensor) -> Tensor:
        x = ops.leaky_relu(self._convolved(self.convs[0], ops.cast(video, self.compute_dtype)), SLOPE)
        for i in range(len(self.norms)):
            x = self._normalised(self.norms[i], self._convolved(self.convs[i + 1], x))
            x = ops.leaky_relu(x, SLOPE)
        x = ops.cast(self._convolved(self.convs[-1], x), ms.float32)
        return ops.reshape(x, x.shape[:2] + x.shape[3:])

    def _convolved(self, conv: Conv2d, x: Tensor) -> Tensor:
        """[b t c h w] -> [b t d h' w']. A convolution of three frames is one of images with three times the channels,
        as Ascend's of videos computes in float16 alone.
        """
        b, t = x.shape[:2]
        if self.temporal:
            nothing = ops.zeros_like(x[:, :1])
            x = ops.cat((ops.cat((nothing, x[:, : t - 1]), 1), x, ops.cat((x[:, 1:], nothing), 1)), 2)
        x = fold_frames(x)
        if conv.has_bias:  # noqa: SIM108 - graph mode would compile both
            x = conv(x)
        else:
            x = conv.without_bias(x)
        return ops.reshape(x, (b, t) + x.shape[1:])

    def _normalised(self, norm: GroupNorm, x: Tensor) -> Tensor:
        if self.temporal:
            return over_frames(norm, self.swap, x)
        return ops.reshape(norm(fold_frames(x)), x.shape)


class Discriminators(nn.Cell):
    """A discriminator of clips, of single frames, or both.

    Args:
        kind: temporal, image or both.
        channels, layers: of each.
        seed: of the initial weights.
        length: frames of a clip.
        alone: frames for each clip that are no part of one.
    """

    def __init__(self, kind: str, channels: int, layers: int, seed: int, length: int, alone: int = 0):
        super().__init__()
        self.length, self.alone = length, alone
        self.sees_clips, self.sees_frames = kind in ("temporal", "both"), kind in ("image", "both")
        if self.sees_clips:
            self.clips = PatchDiscriminator(channels, layers, temporal=True)
        if self.sees_frames:
            self.frames = PatchDiscriminator(channels, layers, temporal=False)
        for parameter in self.get_parameters():
            parameter.set_data(Tensor(_initial_value(parameter.name, parameter.shape, seed)))

    def construct(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Frames [n 3 h w] in [-1, 1], those of clips before those that are alone -> logits of each discriminator."""
        logits = ()
        if self.sees_clips:
            clips = frames.shape[0] // (self.length + self.alone)
            video = ops.reshape(frames[: clips * self.length], (clips, self.length) + frames.shape[1:])
            logits = logits + (self.clips(video),)
        if self.sees_frames:
            logits = logits + (self.frames(ops.expand_dims(frames, 0)),)
        return logits


def _initial_value(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Normal with a deviation of 0.02: weights of convolutions about 0, those of normalisations about 1; no biases."""
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    rng = generator(seed, crc32(name.encode()), Purpose.INITIALIZATION)
    return rng.normal(float(len(shape) == 1), 0.02, shape).astype(np.float32)


def least_side(layers: int) -> int:
    """Pixels that frames need for a discriminator to have a patch."""
    return 3 * 2**layers


def deceiving_loss(logits: tuple[Tensor, ...]) -> Tensor:
    """The decoder's: minus the mean of the logits of what it decoded, summed over discriminators."""
    total = ops.neg(ops.mean(logits[0]))
    for other in logits[1:]:
        total = total - ops.mean(other)
    return total


def hinge_loss(real: tuple[Tensor, ...], decoded: tuple[Tensor, ...]) -> Tensor:
    """The discriminators': (mean relu(1 - real) + mean relu(1 + decoded)) / 2, summed over them (arXiv 1705.02894)."""
    total = ops.zeros((), ms.float32)
    for i in range(len(real)):
        margins = ops.mean(ops.relu(1.0 - real[i])) + ops.mean(ops.relu(1.0 + decoded[i]))
        total = total + ops.mul(margins, 0.5)
    return total
