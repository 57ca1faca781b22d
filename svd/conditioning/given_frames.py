"""Frames that temporal layers are given, masked and with noise (VideoLDM, arXiv 2304.08818, sections 3.2 and 3.3)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor
from numpy.typing import ArrayLike

from svd.conditioning.conditioning import embed_numbers
from svd.config import VideoLDMConfig
from svd.config.temporal import INTERPOLATION
from svd.errors import check


class FramesConditioner:
    """Latents and which of them are given -> the inputs `frames` and `frames_noise` of a network.

    Args:
        sigmas: the noise levels of the model's timesteps, increasing [n].
        dim: sinusoids that the level of the noise is embedded as.
    """

    def __init__(self, sigmas: np.ndarray, dim: int):
        self.alpha_bar = np.append(1.0, 1 / (1 + np.square(sigmas, dtype=np.float64)))
        self.dim = dim

    @property
    def most_noise(self) -> int:
        """The largest level of noise."""
        return len(self.alpha_bar) - 1

    def __call__(
        self, latents: np.ndarray, mask: np.ndarray, level: ArrayLike, noise: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """(mask * latents, mask) [b t c+1 h w], and the embedded levels [b t d].

        Args:
            latents: scaled [b t c h w]; where the mask is 0 they do not matter.
            mask: 1 for the given frames, [b t].
            level: how many of the diffusion's steps the given frames get the noise of, 0 for none; one for all clips
                or [b].
            noise: unit Gaussian [b t c h w].
        """
        b, t, _, h, w = latents.shape
        levels = np.broadcast_to(level, (b,))
        alpha_bar = self.alpha_bar[levels].reshape(-1, 1, 1, 1, 1)
        given = np.where(mask.reshape(b, t, 1, 1, 1) > 0, latents, 0)
        noisy = np.sqrt(alpha_bar) * given + np.sqrt(1 - alpha_bar) * noise
        shown = np.broadcast_to(mask.reshape(b, t, 1, 1, 1), (b, t, 1, h, w))
        frames = np.concatenate([shown * noisy, shown], 2)
        embedded = mask[..., None] * embed_numbers(self.dim, b, levels).asnumpy()[:, None]
        return Tensor(frames.astype(np.float32)), Tensor(embedded.astype(np.float32))


def every_fourth(frames: int) -> np.ndarray:
    """The mask of a window of interpolation: 1 for the given frames, float32 [t]."""
    return (np.arange(frames) % INTERPOLATION == 0).astype(np.float32)


def check_window(model: VideoLDMConfig) -> None:
    """Raise ConfigError unless a window of a model for interpolation begins and ends with a given frame."""
    frames = model.sampling.num_frames
    right = frames > INTERPOLATION and frames % INTERPOLATION == 1
    check(right, f"sampling.num_frames of a model for interpolation must be 5, 9, 13, ..., got {frames}")
