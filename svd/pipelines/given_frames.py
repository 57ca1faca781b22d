"""Windows of a video of which some frames are given: prediction and interpolation (VideoLDM, arXiv 2304.08818)."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import inf

import numpy as np
from mindspore import ops

from svd.conditioning.conditioning import Conditioning
from svd.conditioning.given_frames import FramesConditioner
from svd.config import ConfigError, TextSamplingConfig
from svd.pipelines.pipeline import NoiseSource, Seed
from svd.pipelines.text_to_video import TextToVideo


class FramesSampler:
    """Draws windows of latents with a model that is given frames.

    Args:
        pipe: of a model with temporal.video_ldm.frames.
        settings: of the sampler; the number of frames and the guidance by text have no say.
        guidance: the scale of context guidance: how far predictions are led away from what the model would draw
            without the given frames (section 3.2); 1 leaves it out.
        noise: timesteps of the diffusion whose noise the given frames get, which the model is told; 0 for none.

    Raises:
        ConfigError: the model is given no frames, or a number is out of bounds.
    """

    def __init__(self, pipe: TextToVideo, settings: TextSamplingConfig, guidance: float = 1.0, noise: int = 0):
        layers = pipe.config.own_layers
        if layers is None or not layers.frames:
            raise ConfigError("the model is given no frames: it takes one with temporal.video_ldm.frames: true")
        self.given = FramesConditioner(pipe.sigmas, pipe.config.unet.model_channels)
        if not 0 <= noise <= self.given.most_noise:
            raise ConfigError(f"context_noise must be 0 to {self.given.most_noise}, got {noise}", "context_noise")
        if not 0 <= guidance <= 1000:
            raise ConfigError(f"context_guidance must be 0 to 1000, got {guidance}", "context_guidance")
        self.pipe, self.noise = pipe, noise
        self.settings = replace(
            settings, guidance=guidance, guidance_interval=[0.0, inf], window=None, window_overlap=None
        )
        self._labelled = lru_cache(8)(pipe.conditioner)

    def __call__(
        self, latents: np.ndarray, mask: np.ndarray, seed: Seed, prompt: str, fps: float, motion_bucket_id: float
    ) -> np.ndarray:
        """A window of scaled latents, float32 [t c h w]; given frames are drawn anew, like all others.

        Args:
            latents: scaled, [t c h w]; where the mask is 0 they do not matter.
            mask: 1 for the given frames, [t].
            seed: of all noise.
            prompt: what spatial layers are told, perhaps nothing.
            fps, motion_bucket_id: what temporal layers are told, if they are.

        Raises:
            NumericalError: the network returned values that are not finite.
        """
        draw = NoiseSource(seed, clips=1)
        noise, on_frames = draw((1, *latents.shape)), draw((1, *latents.shape))
        told = self._labelled((prompt,), fps, motion_bucket_id)
        frames, level = self.given(latents[None], mask[None], self.noise, on_frames.asnumpy())
        cond = replace(told, frames=frames, frames_noise=level)
        settings = replace(self.settings, num_frames=len(latents))
        return self.pipe.sample((cond, without_frames(cond)), noise.asnumpy(), settings, draw, progress=False)[0]


def without_frames(cond: Conditioning) -> Conditioning:
    """The same without given frames, which context guidance leads away from."""
    return replace(cond, frames=ops.zeros_like(cond.frames), frames_noise=ops.zeros_like(cond.frames_noise))
