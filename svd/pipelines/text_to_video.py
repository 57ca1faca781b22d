"""Images and videos from text (Stable Diffusion, VideoLDM and its kin)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Optional

import numpy as np
from mindspore import Tensor

from svd.autoencoder.autoencoder import Autoencoder
from svd.conditioning.conditioning import Conditioning
from svd.conditioning.text_conditioner import TextConditioner
from svd.config import ConfigError, ImageLDMConfig, TextSamplingConfig, VideoLDMConfig
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import guidance_applies, guided
from svd.diffusion.samplers import DISCRETE_SAMPLERS
from svd.diffusion.schedules import discrete_sigmas, visited_levels
from svd.pipelines import pipeline
from svd.pipelines.pipeline import NoiseSource, Output, Seed, check_output, latents_shape, solve, warn_of_size
from svd.pipelines.progress import Bars
from svd.pipelines.windows import in_windows


class TextToVideo:
    """The pipeline of models that are given text, as `svd.load_pipeline` builds it; its parts can be called by
    themselves.
    """

    settings, decode, _as_output = pipeline.settings, pipeline.decode, pipeline.as_output

    def __init__(
        self,
        config: ImageLDMConfig,
        conditioner: TextConditioner,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        free_memory: Callable[[], int],
    ):
        """`free_memory()` returns the free bytes on the device, which the decoding chunk is chosen by."""
        self.config = config
        self.conditioner, self.denoiser, self.autoencoder = conditioner, denoiser, autoencoder
        self.free_memory, self.bars = free_memory, Bars()
        self.makes_videos = isinstance(config, VideoLDMConfig)
        self.sigmas = discrete_sigmas(config.schedule)

    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] = "",
        *,
        settings: Optional[TextSamplingConfig] = None,
        seed: Seed | list[Seed] = 0,
        noise: Optional[np.ndarray] = None,
        output: Output = "uint8",
        image_only: bool = False,
        progress: bool = True,
        **sampling,
    ) -> np.ndarray:
        """Generate a video for each prompt; an image, if the model is one of images.

        Args:
            prompt: what is to be seen, or a list of several. An empty one leaves it to the model.
            negative_prompt: what guidance leads away from: one for all prompts, or one for each.
            settings: sampling settings; the model's own if None.
            seed: of the noise; every clip of a batch gets the same noise as alone. A list has one per prompt.
            noise: the latents' noise at unit variance, [b t c h/8 w/8] (t is 1 for images); replaces the seed's.
            output: `uint8` video [t h w 3], `float` video in [0, 1], or scaled `latents` [t c h/8 w/8]; an image is
                without t.
            image_only: leave the temporal layers out (alpha = 1): the image model alone, frame by frame.
            progress: show progress bars.
            **sampling: fields of svd.config.TextSamplingConfig that override the settings: num_frames, height, width,
                sampling_steps, guidance, ...

        Returns:
            One video or image, or [b ...] when a list of prompts was given.

        Raises:
            ConfigError: a setting is unknown or out of bounds.
            PromptError: a prompt is no text.
            NumericalError: the network returned values that are not finite.
        """
        settings = self.settings(settings, **sampling)
        check_output(output)
        several = not isinstance(prompt, str)
        prompts = _texts(prompt, "prompt")
        negative = _texts(negative_prompt, "negative_prompt")
        if len(negative) not in (1, len(prompts)):
            raise ConfigError(f"negative_prompt must be one, or one for each of {len(prompts)} prompts")
        if settings.guidance == 1 and any(negative):
            raise ConfigError("negative_prompt acts through guidance, which 1 leaves out", setting="guidance")
        warn_of_size(self.config, settings)

        draw = NoiseSource(seed, clips=len(prompts))
        noise = draw.or_given("noise", noise, latents_shape(self.config, settings))
        pair = self.condition(prompts, negative * (len(prompts) // len(negative)), settings, progress)
        latents = self.sample(pair, noise, settings, draw, progress, image_only)
        result = self._as_output(latents, settings, output, progress, image_only)
        result = result if self.makes_videos else result[:, 0]
        return result if several else result[0]

    def levels(self, settings: TextSamplingConfig) -> np.ndarray:
        """The noise levels of the sampler, decreasing: float64 [n]."""
        n, to_zero = settings.sampling_steps, settings.sampler != "ddim"
        return visited_levels(self.sigmas, n, settings.spacing, settings.offset, to_zero)

    def condition(
        self, prompts: list[str], negative: list[str], settings: TextSamplingConfig, progress: bool = True
    ) -> tuple[Conditioning, Conditioning]:
        """b prompts, and what guidance leads away from, b -> the pair (cond, uncond)."""
        bar = self.bars(progress, "encoding", "prompt", ())  # one graph, however many there are
        for texts in bar([prompts]):
            pair = self.conditioner.pair(texts, negative, settings.fps, settings.motion_bucket_id)
        return pair

    def sample(
        self,
        pair: tuple[Conditioning, Conditioning],
        noise: np.ndarray,
        settings: TextSamplingConfig,
        fresh_noise: Callable[[tuple], Tensor],
        progress: bool = True,
        image_only: bool = False,
    ) -> np.ndarray:
        """Unit noise [b t c h w] -> scaled latents [b t c h w], float32, by the pair (cond, uncond).

        `fresh_noise` draws unit Gaussian noise of a shape, for eta; `image_only` leaves the temporal layers out
        (alpha = 1).
        """
        sigmas = self.levels(settings)
        bind = partial(self.denoiser.bind, image_only=image_only, reuse=settings.reuse)
        skip, scale, interval = self.denoiser.preconditioning.c_skip, settings.guidance, settings.guidance_interval
        denoise = guided(bind, *pair, scale, interval, settings.guidance_rescale, skip)
        frames = settings.num_frames
        window = min(settings.window or frames, frames)
        if window < frames:
            overlap = settings.window_overlap
            denoise = in_windows(denoise, window, window // 4 if overlap is None else overlap)
        size = (len(noise), window, *noise.shape[2:], guidance_applies(sigmas[0], scale, interval), image_only)
        options = {"eta": settings.eta, "noise": fresh_noise} if settings.eta else {}
        options |= {"progress": self.bars(progress, "sampling", "step", size)}
        latents = solve(DISCRETE_SAMPLERS[settings.sampler], denoise, noise, sigmas, **options)
        # a last noise level above 0 is part of what the autoencoder is given, on the model's own scale
        return latents / np.float32(np.sqrt(1 + sigmas[-1] ** 2))


def _texts(given: str | list[str], name: str) -> list[str]:
    """One text or several as a list; raises ConfigError for anything else."""
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, (list, tuple)) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{name} must be text, or a list of texts", setting=name)
    return texts
