"""Sampling in overlapping windows of frames: videos longer than a model was trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor

from svd.autoencoder.windows import WindowedAxis, apply_in_windows

Denoise = Callable[[Tensor, float], Tensor]


def in_windows(denoise: Denoise, window: int, overlap: int, anchored: bool = False) -> Denoise:
    """Return (x, sigma) -> D [b t c h w] for more frames than the network sees at a time: the average over overlapping
    windows, cross-faded where they overlap, as if it denoised them all (MultiDiffusion, arXiv 2302.08113).

    With `anchored`, the first frame of the video is the first frame of every window, in front of window - 1 others: for
    networks that take the first frame for the image that they are given. It is the average of all windows.
    """
    axes = [WindowedAxis(1, window - anchored, overlap)]

    def denoise_windows(x: Tensor, sigma: float) -> Tensor:
        frames, anchors = x.asnumpy(), []
        anchor = frames[:, :anchored]

        def of_window(part: np.ndarray) -> np.ndarray:
            x0 = denoise(Tensor(np.concatenate([anchor, part], 1)), sigma).asnumpy()
            anchors.append(x0[:, :anchored])
            return x0[:, anchored:]

        rest = apply_in_windows(of_window, frames[:, anchored:], axes)
        return Tensor(np.concatenate([np.mean(anchors, 0), rest], 1))

    return denoise_windows


def share_noise(noise: np.ndarray, orders: np.ndarray, window: int) -> np.ndarray:
    """Unit noise [b t c h w] of which all anchored windows have the same frames, in other orders: a copy.

    Frames beyond the first window get the noise of those a window before, shuffled within the step from one window to
    the next (FreeNoise, arXiv 2310.15169). The first frame keeps its own.

    Args:
        orders: permutations of the frames of a step, [b step]; a step is window - 1 less the overlap.
        window: as for `in_windows`.
    """
    shared, size, step = noise.copy(), window - 1, orders.shape[1]
    for start in range(1 + size, noise.shape[1], step):
        count = min(step, noise.shape[1] - start)
        for clip, order in zip(shared, orders):
            clip[start : start + count] = clip[start - size + order[:count]]
    return shared
