"""Videos and images in pixel space (Video Diffusion Models, arXiv 2204.03458)."""

from __future__ import annotations

from functools import partial
from typing import Literal, Optional, get_args

import numpy as np
from mindspore import Tensor

from svd.conditioning.conditioning import Conditioning
from svd.config import ConfigError, PixelSamplingConfig, VideoDiffusionConfig
from svd.diffusion.ancestral import ancestral, clipped, cosine_beta_sigmas, cosine_sigmas, thresholded
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import guided
from svd.diffusion.reconstruction import DenoiseWithGradient, corrected, replaced, with_gradient
from svd.diffusion.samplers import Denoise, Noise
from svd.graphs import keep_latest
from svd.pipelines import pipeline
from svd.pipelines.given import Given, as_video, extend
from svd.pipelines.pipeline import NoiseSource, Seed, solve, warn_of_size
from svd.pipelines.progress import Bars

Output = Literal["uint8", "float"]


class VideoDiffusion:
    """The pipeline of models in pixel space, as `svd.load_pipeline` builds it; its parts can be called by themselves.

    Args:
        null: what a network that is told something is told in place of it, without guidance: [n d] of a text, or [d];
            None if the caller has to say.
    """

    settings = pipeline.settings
    extend = extend

    def __init__(self, config: VideoDiffusionConfig, denoiser: Denoiser, null: Optional[np.ndarray] = None):
        self.config, self.denoiser, self.null, self.bars = config, denoiser, null, Bars()
        self.gradient = DenoiseWithGradient(denoiser.cell)
        keep_latest(self.gradient)

    def __call__(
        self,
        num_samples: int = 1,
        *,
        condition: Optional[np.ndarray] = None,
        unconditional: Optional[np.ndarray] = None,
        settings: Optional[PixelSamplingConfig] = None,
        seed: Seed | list[Seed] = 0,
        noise: Optional[np.ndarray] = None,
        given: Optional[Given] = None,
        noised: Optional[np.ndarray] = None,
        time: float = 1.0,
        output: Output = "uint8",
        image_only: bool = False,
        progress: bool = True,
        **sampling,
    ) -> np.ndarray:
        """Generate videos.

        Args:
            num_samples: how many.
            condition: what a network is told that is told something: embeddings of a text [b n d], or numbers [b d],
                or one for all samples, without b.
            unconditional: what it is told for guidance in its place; of the same form.
            settings: sampling settings; the model's own if None.
            seed: of the noise: a number, from which every sample gets noise of its own, or a list with one per sample.
            noise: the noise to begin with, at unit variance, [b t c h w]; replaces the seed's.
            given: frames that are known, or a lower resolution.
            noised: videos that are noised and denoised instead of drawn from noise alone, uint8 or floats in [0, 1],
                [b t h w c].
            time: how far, from 0 to 1, which is noise alone.
            output: `uint8`, or `float` in [0, 1].
            image_only: leave the temporal layers out: every frame is an image of its own.
            progress: show progress bars.
            **sampling: fields of svd.config.PixelSamplingConfig that override the settings: num_frames, height, width,
                sampling_steps, gamma, ...

        Returns:
            [b t h w c].

        Raises:
            ConfigError: a setting is unknown or out of bounds, or a condition is missing.
            NumericalError: the network returned values that are not finite.
        """
        settings = self.settings(settings, **sampling)
        if output not in get_args(Output):
            raise ConfigError(f"output must be uint8 or float, got {output!r}")
        if num_samples < 1:
            raise ConfigError(f"num_samples must be positive, got {num_samples}", setting="num_samples")
        if not 0 < time <= 1 or (time < 1 and noised is None):
            raise ConfigError(f"time must be above 0, to 1, and is for noised videos, got {time}", setting="time")
        if given is not None:
            given = given.checked(num_samples, settings, self.config.channels)
            if image_only or noised is not None:
                raise ConfigError("given is for videos that are drawn from noise alone, by all layers", setting="given")
        warn_of_size(self.config, settings)
        draw = NoiseSource(self.seeds(seed, num_samples), clips=num_samples)
        shape = (settings.num_frames, self.config.channels, settings.height, settings.width)
        start, levels = draw.or_given("noise", noise, shape), self.levels(settings, time)
        if noised is not None:
            video = as_video(noised)
            if video.shape != start.shape:
                raise ConfigError(f"noised must be [b t h w c] of {list(start.shape)}, got {list(noised.shape)}")
            start = (video + levels[0] * start) / np.sqrt(1 + levels[0] ** 2)
        pair = self.conditionings(num_samples, condition, unconditional, settings)
        video = self.sample(pair, start, settings, draw, progress, image_only, given, levels)
        return self.as_output((video.transpose(0, 1, 3, 4, 2) + 1) / 2, output)

    def seeds(self, seed: Seed | list[Seed], num_samples: int) -> list[Seed]:
        """One for each sample."""
        return seed if isinstance(seed, list) else [[*np.atleast_1d(seed).tolist(), i] for i in range(num_samples)]

    def as_output(self, video: np.ndarray, output: Output) -> np.ndarray:
        """Floats [b t h w c], about in [0, 1], cut to them, or as uint8."""
        video = np.clip(video, 0, 1)
        return video if output == "float" else np.round(video * 255).astype(np.uint8)

    def conditionings(
        self,
        clips: int,
        condition: Optional[np.ndarray],
        unconditional: Optional[np.ndarray],
        settings: PixelSamplingConfig,
    ) -> tuple[Conditioning, Conditioning]:
        """The pair (cond, uncond) of so many clips; raises ConfigError."""
        if not self.config.conditioned:
            if condition is not None or unconditional is not None:
                raise ConfigError("this model is told nothing: leave condition out", setting="condition")
            return Conditioning(None), Conditioning(None)
        null = self.null if unconditional is None else unconditional
        if null is None and settings.guidance != 1:
            raise ConfigError("guidance needs unconditional, such as the embedding of an empty text", "unconditional")
        condition = null if condition is None else condition
        if condition is None:
            raise ConfigError("this model is told something: give condition", setting="condition")
        return self._told(clips, condition), self._told(clips, condition if null is None else null)

    def _told(self, clips: int, values: np.ndarray) -> Conditioning:
        text, values = self.config.lucidrains is None, np.asarray(values, np.float32)
        given = list(values.shape)
        axes = 3 if text else 2
        width = self.config.unet.context_dim if text else self.config.lucidrains.cond_dim
        values = values[None] if values.ndim == axes - 1 else values
        if values.ndim != axes or values.shape[-1] != width or len(values) not in (1, clips):
            form = f"[{clips} n {width}]" if text else f"[{clips} {width}]"
            raise ConfigError(f"condition must be {form}, got {given}", setting="condition")
        tensor = Tensor(np.ascontiguousarray(np.broadcast_to(values, (clips, *values.shape[1:]))))
        return Conditioning(tensor) if text else Conditioning(None, vector=tensor)

    def levels(self, settings: PixelSamplingConfig, time: float = 1.0) -> np.ndarray:
        """The noise levels of the sampler from a time on, decreasing to 0: float64 [n+1]."""
        steps = settings.sampling_steps
        if self.config.preconditioning != "cosine_eps":
            return cosine_sigmas(steps, time)
        levels = cosine_beta_sigmas(self.config.timesteps)
        visited = np.round(np.linspace(time * (len(levels) - 1), 0, steps)).astype(int)
        return np.append(levels[np.unique(visited)[::-1]], 0.0)

    def sample(
        self,
        pair: tuple[Conditioning, Conditioning],
        noise: np.ndarray,
        settings: PixelSamplingConfig,
        fresh_noise: Noise,
        progress: bool = True,
        image_only: bool = False,
        given: Optional[Given] = None,
        levels: Optional[np.ndarray] = None,
    ) -> np.ndarray:
        """Unit noise [b t c h w] -> videos [b t c h w] in [-1, 1], float32, by the pair (cond, uncond).

        Args:
            fresh_noise: draws unit Gaussian noise of a shape.
            given: what is known of the videos, `checked`.
            levels: noise levels; those of all steps if None, at the first of which the noise is that of videos scaled
                to unit variance.
        """
        if given is None:
            bind = partial(self.denoiser.bind, image_only=image_only)
            denoise = self.bounded(guided(bind, *pair, settings.guidance), settings)
        else:
            denoise = self.knowing(given, pair, settings, fresh_noise, noise.shape)
        levels = self.levels(settings) if levels is None else levels
        graph = None if given is None else (given.weight > 0, given.low is None)
        bar = self.bars(progress, "sampling", "step", (*noise.shape, settings.guidance == 1, image_only, graph))
        options = {"gamma": settings.gamma, "langevin": settings.langevin, "noise": fresh_noise, "progress": bar}
        return solve(ancestral, denoise, noise, levels, **options)

    def knowing(
        self,
        given: Given,
        pair: tuple[Conditioning, Conditioning],
        settings: PixelSamplingConfig,
        fresh_noise: Noise,
        shape: tuple[int, ...],
    ) -> Denoise:
        """(x, sigma) -> x0 of videos of this shape, of which something is known."""
        known = np.isin(np.arange(shape[1]), list(given.known)).astype(np.float32).reshape(1, -1, 1, 1, 1)
        frames = np.zeros(shape, np.float32) if given.frames is None else given.frames * known
        frames, known = Tensor(frames), Tensor(known)
        low = None if given.low is None else Tensor(given.low)
        if given.weight:
            predict = with_gradient(self.gradient, self.denoiser, pair, settings.guidance, frames, known, low)
            denoise = self.bounded(corrected(predict, given.weight), settings)
        else:
            denoise = self.bounded(guided(self.denoiser.bind, *pair, settings.guidance), settings)
        return replaced(denoise, frames, known, fresh_noise) if given.known else denoise

    def bounded(self, denoise: Denoise, settings: PixelSamplingConfig) -> Denoise:
        """`denoise` with its result kept within [-1, 1] as the settings say."""
        if settings.bound == "clip":
            return clipped(denoise)
        return thresholded(denoise, settings.quantile) if settings.bound == "dynamic" else denoise
