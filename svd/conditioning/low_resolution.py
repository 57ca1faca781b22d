"""The conditioner of upsamplers: a low-resolution video with noise on it, the level of the noise, and a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor

from svd.conditioning.conditioning import Conditioning, embed_numbers
from svd.conditioning.text_conditioner import TextConditioner
from svd.config import UpsamplerConfig
from svd.data.pictures import scaled
from svd.diffusion.schedules import discrete_sigmas


class LowResolutionConditioner:
    """Low-resolution frames, their noise, its level and a text -> Conditioning (VideoLDM, arXiv 2304.08818, 3.4).

    Args:
        text: prompts -> Conditioning; None for models that are not given text.
    """

    def __init__(self, config: UpsamplerConfig, text: Optional[TextConditioner]):
        self.config, self.text = config, text
        self._variance = 1 / (1 + discrete_sigmas(config.low_resolution.schedule) ** 2)

    def noised(self, frames: np.ndarray, noise: np.ndarray, level: int) -> np.ndarray:
        """Frames [t 3 h w] in [-1, 1] as the network sees them: sqrt(a) frames + sqrt(1 - a) noise, with the alpha_bar
        of the level, enlarged by cubic interpolation to the size of what is denoised. float32 [t 3 h' w']
        """
        signal = self._variance[level]
        noisy = np.float32(np.sqrt(signal)) * frames + np.float32(np.sqrt(1 - signal)) * noise
        times, (height, width) = self.config.enlarged, frames.shape[-2:]
        if times == 1:
            return noisy.astype(np.float32)
        pictures = [scaled(frame.transpose(1, 2, 0), times * height, times * width) for frame in noisy]
        return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2), np.float32)

    def vector(self, levels: Sequence[int]) -> Tensor:
        """What the network is told of the noise levels of b clips: [b v]."""
        unet = self.config.unet
        if unet.noise_level == "sinusoids":
            return embed_numbers(unet.model_channels, len(levels), levels)
        chosen = np.zeros((len(levels), len(self._variance)), np.float32)
        chosen[np.arange(len(levels)), levels] = 1
        return Tensor(chosen)

    def contexts(self, prompts: Sequence[str]) -> Tensor:
        """The embeddings of b prompts [b n d]; zeros [b 1 1], which are not looked at, in models without text."""
        if self.text is None:
            return no_text(len(prompts))
        return self.text(prompts).context

    def __call__(self, concat: np.ndarray, levels: Sequence[int], context: Tensor) -> Conditioning:
        """The conditioning of b clips: of `noised` frames [b t 3 h w], their levels, and `contexts`."""
        return Conditioning(context, Tensor(np.ascontiguousarray(concat)), self.vector(levels))


def no_text(clips: int) -> Tensor:
    """What stands for the text of b clips where there is none: [b 1 1]."""
    return Tensor(np.zeros((clips, 1, 1), np.float32), ms.float32)
