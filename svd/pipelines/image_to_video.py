"""Image to video (Stable Video Diffusion)."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, Optional

import numpy as np
from mindspore import Tensor
from numpy.typing import ArrayLike
from PIL import Image

from svd.autoencoder.autoencoder import Autoencoder
from svd.conditioning.conditioner import Conditioner
from svd.conditioning.conditioning import Conditioning
from svd.config import ConfigError, ModelConfig, SamplingConfig
from svd.config.presets import Preset, with_preset
from svd.data.images import ImageError, load_image, prepare_image, to_float
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import guidance_applies, guided, linear_scale, triangular_scale
from svd.diffusion.key_frames import (
    Both,
    BothWays,
    apart,
    bind_both,
    forward_share,
    fused,
    fused_scale,
    renoised,
    together,
)
from svd.diffusion.samplers import SAMPLERS, STOCHASTIC, Churn
from svd.diffusion.schedules import consistency_levels, karras
from svd.pipelines import pipeline
from svd.pipelines.pipeline import NoiseSource, Output, Seed, check_output, latents_shape, solve, warn_of_size
from svd.pipelines.progress import Bars
from svd.pipelines.windows import in_windows, share_noise

GUIDANCE_SHAPES = {"linear": linear_scale, "triangular": triangular_scale}
ImageLike = str | Path | Image.Image | np.ndarray
Pair = tuple[Conditioning, Conditioning]
"""(cond, uncond)"""


class ImageToVideo:
    """The image-to-video pipeline, as `svd.load_pipeline` builds it; its parts can be called by themselves."""

    settings, decode, _as_output = pipeline.settings, pipeline.decode, pipeline.as_output

    def __init__(
        self,
        config: ModelConfig,
        conditioner: Conditioner,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        free_memory: Callable[[], int],
    ):
        """`free_memory()` returns the free bytes on the device, which the decoding chunk is chosen by."""
        self.config = config
        self.conditioner, self.denoiser, self.autoencoder = conditioner, denoiser, autoencoder
        self.free_memory, self.bars = free_memory, Bars()
        self.paired = False
        """Whether the network is one of forward and backward clips (svd.layers.reversal)."""

    def __call__(
        self,
        image: ImageLike | list[ImageLike],
        *,
        last_image: Optional[ImageLike | list[ImageLike]] = None,
        settings: Optional[SamplingConfig] = None,
        preset: Optional[Preset] = None,
        motion_bucket_id: Optional[ArrayLike] = None,
        seed: Seed | list[Seed] = 0,
        noise: Optional[np.ndarray] = None,
        aug_noise: Optional[np.ndarray] = None,
        output: Output = "uint8",
        resize: Literal["crop", "pad", "fit"] = "crop",
        image_only: bool = False,
        progress: bool = True,
        **sampling,
    ) -> np.ndarray:
        """Generate a video for each image.

        Args:
            image: a path, a PIL image or an array [h w 3]; or several: a list of these, or an array [b h w 3]. Arrays
                are uint8, or floats in [0, 1].
            last_image: an image that the video ends with: one for all clips, or several, one for each. The video is
                drawn forward from the first image and backward from the last one at the same time.
            settings: sampling settings; the model's own if None.
            preset: a named combination of them: fast, balanced, or reference, the model's own (svd.config.presets).
            motion_bucket_id: overrides that of the settings, one for all clips or [b].
            seed: of the noise; every clip of a batch gets the same noise as alone. A list has one per clip.
            noise: the latents' noise at unit variance, [b t c h/8 w/8]; replaces the seed's.
            aug_noise: the noise added to the image, and to the last one, at unit variance, [b 3 h w]; replaces the
                seed's.
            output: `uint8` video [t h w 3], `float` video in [0, 1], or scaled `latents` [t c h/8 w/8].
            resize: how an image of another size is brought to height x width: `crop` fills it, `pad` shows all of the
                image on black, `fit` chooses another size of the video, of the image's shape.
            image_only: leave the temporal layers out (alpha = 1): the image model alone, frame by frame.
            progress: show progress bars.
            **sampling: fields of svd.config.SamplingConfig that override settings and preset: num_frames, fps,
                noise_aug_strength, sampling_steps, guidance, decode_chunk_size, ...

        Returns:
            One video, or [b ...] when several images were given.

        Raises:
            ConfigError: a setting is unknown or out of bounds.
            ImageError: an image cannot be used.
            NumericalError: the network returned values that are not finite.
        """
        settings = self.settings(settings, **with_preset(self.config, preset, sampling))
        check_output(output)
        pixels, several = self._prepare(image, settings, resize)
        settings = dataclasses.replace(settings, height=pixels.shape[-2], width=pixels.shape[-1])
        buckets = self._motion_buckets(settings, motion_bucket_id, clips=len(pixels))
        self.config.check_ends(settings, last_image is not None, self.paired)
        if image_only and last_image is not None:
            raise ConfigError("image_only leaves out what joins two images: leave out it, or last_image", "image_only")
        last = None if last_image is None else self._prepare_last(last_image, settings, resize, clips=len(pixels))
        self._warn_outside_training(settings, buckets)
        warn_of_size(self.config, settings)

        draw, given = NoiseSource(seed, clips=len(pixels)), noise is not None
        noise = draw.or_given("noise", noise, latents_shape(self.config, settings))
        aug_noise = draw.or_given("aug_noise", aug_noise, pixels.shape[1:])
        if settings.frames_seen < settings.num_frames and not given:
            step = settings.frames_seen - 1 - _overlap(settings)
            noise = share_noise(noise, draw.orders(step), settings.frames_seen)
        pair = self.condition(pixels, aug_noise, settings, progress, buckets)
        last_pair = None if last is None else self.condition(last, aug_noise, settings, progress, buckets)
        latents = self.sample(pair, noise, settings, draw, progress, image_only, last_pair)
        result = self._as_output(latents, settings, output, progress, image_only)
        return result if several else result[0]

    def condition(
        self,
        pixels: np.ndarray,
        aug_noise: np.ndarray,
        settings: SamplingConfig,
        progress: bool = True,
        motion_bucket_id: Optional[ArrayLike] = None,
    ) -> Pair:
        """Images [b 3 h w] in [-1, 1] and the unit noise to add to them, [b 3 h w] -> the pair (cond, uncond), for as
        many frames as the network sees at a time.

        The motion buckets are the settings', or one for each clip, [b].
        """
        bucket = settings.motion_bucket_id if motion_bucket_id is None else motion_bucket_id
        numbers = settings.fps, bucket, settings.noise_aug_strength
        bar = self.bars(progress, "encoding", "image", pixels.shape)
        for images in bar([pixels]):
            pair = self.conditioner.pair(images, settings.frames_seen, *numbers, aug_noise)
        return pair

    def sample(
        self,
        pair: Pair,
        noise: np.ndarray,
        settings: SamplingConfig,
        churn_noise: Callable[[tuple], Tensor],
        progress: bool = True,
        image_only: bool = False,
        last: Optional[Pair] = None,
    ) -> np.ndarray:
        """Unit noise [b t c h w] -> scaled latents [b t c h w], float32 (SVD, appendix D.3), by a pair (cond, uncond),
        and by another if there is a last image.

        `churn_noise` draws unit Gaussian noise of a shape, for samplers that add some; `image_only` leaves the temporal
        layers out (alpha = 1).
        Steps with and without guidance have two batch sizes, and so two graphs. If a guidance interval needs both, the
        second is compiled in the middle of sampling; the message about compilation is about the first step's.
        """
        steps, levels = settings.sampling_steps, (settings.sigma_max, settings.sigma_min, settings.rho)
        sigmas = karras(steps, *levels)
        if settings.sampler == "consistency":
            sigmas = consistency_levels(steps, settings.consistency_levels, *levels)
        seen, interval = settings.frames_seen, settings.guidance_interval
        scale = GUIDANCE_SHAPES[settings.guidance_shape](*settings.guidance, seen)
        bind = partial(self.denoiser.bind, image_only=image_only, reuse=settings.reuse)
        if last is not None:
            scale = fused_scale(scale, settings.fusion)
            denoise = fused(self._both_ways(bind, pair, last, scale, interval), forward_share(settings.fusion, seen))
        else:
            denoise = guided(bind, *pair, scale, interval)
        if seen < noise.shape[1]:
            denoise = in_windows(denoise, seen, _overlap(settings), anchored=True)
        guided_first = guidance_applies(sigmas[0], scale, interval)
        clips = len(noise) * (1 + self.paired)
        bar = self.bars(progress, "sampling", "step", (clips, seen, *noise.shape[2:], guided_first, image_only))
        sampler, options = SAMPLERS[settings.sampler], {}
        if settings.churn:
            options |= {"churn": Churn(settings.churn), "noise": churn_noise}
        if settings.sampler in STOCHASTIC:
            options |= {"noise": churn_noise}
        if settings.sampler == "dpmpp_2m_sde":
            options |= {"eta": settings.eta}
        if settings.renoise:
            sampler = renoised(sampler, settings.renoise, settings.renoise_part)
            options |= {"noise": churn_noise}
        return solve(sampler, denoise, noise, sigmas, progress=bar, **options)

    def _both_ways(self, bind: Callable, first: Pair, last: Pair, scale: np.ndarray, interval: list[float]) -> Both:
        """The guided denoisers of videos forward from the first image, and backward from the last one."""
        if not self.paired:
            return apart(*(guided(bind, *pair, scale, interval) for pair in (first, last)))
        pair = (BothWays(*ways) for ways in zip(first, last))
        return together(guided(bind_both(bind), *pair, np.concatenate([scale, scale]), interval))

    def _prepare(self, image, settings: SamplingConfig, resize: str) -> tuple[np.ndarray, bool]:
        """float32 [b 3 h w] in [-1, 1] of the video's size, and whether several images were given."""
        several = isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4)
        size = (settings.height, settings.width)
        arrays = []
        for item in image if several else [image]:
            if not isinstance(item, np.ndarray):
                item = prepare_image(load_image(item), *size, resize, self.config.size_multiple)
            elif item.shape[:2] != size:
                # Resized in 8 bits, like files; an array of the right size keeps its values.
                pixels = np.round((to_float(item)[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
                item = prepare_image(Image.fromarray(pixels), *size, resize, self.config.size_multiple)
            arrays.append(to_float(item)[0])
        if not arrays:
            raise ImageError("no image was given")
        if len({array.shape for array in arrays}) > 1:
            raise ImageError("images of different shapes cannot be fitted in one batch: call the pipeline for each")
        return np.stack(arrays), several

    def _prepare_last(self, image, settings: SamplingConfig, resize: str, clips: int) -> np.ndarray:
        """The last images, float32 [b 3 h w] in [-1, 1]; the size is that of the first ones."""
        pixels, _ = self._prepare(image, settings, "crop" if resize == "fit" else resize)
        if len(pixels) not in (1, clips):
            raise ConfigError(f"last_image must be one image, or one for each of {clips}, got {len(pixels)}")
        return np.repeat(pixels, clips // len(pixels), axis=0)

    def _motion_buckets(self, settings: SamplingConfig, given: Optional[ArrayLike], clips: int) -> list[float]:
        """One for all clips, or one for each; within bounds."""
        buckets = np.ravel(settings.motion_bucket_id if given is None else given).tolist()
        if len(buckets) not in (1, clips):
            raise ConfigError(f"motion_bucket_id must be one number, or one for each of {clips} images")
        return [dataclasses.replace(settings, motion_bucket_id=bucket).motion_bucket_id for bucket in buckets]

    def _warn_outside_training(self, settings: SamplingConfig, buckets: list[float]) -> None:
        numbers = [("fps", settings.fps), *(("motion_bucket_id", bucket) for bucket in buckets)]
        for name, value in [*numbers, ("noise_aug_strength", settings.noise_aug_strength)]:
            low, high = getattr(self.config.trained_range, name)
            if not low <= value <= high:
                bounds = f"{low:g} to {high:g}" if low < high else f"{low:g} only"
                warnings.warn(f"{name} {value:g} is outside of what the model was trained on: {bounds}", stacklevel=3)


def _overlap(settings: SamplingConfig) -> int:
    """Frames that neighbouring windows share, beside the first frame of the video."""
    overlap = settings.window_overlap
    return (settings.frames_seen - 1) // 2 if overlap is None else overlap
