"""From an image to a video (Stable Video Diffusion)."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor
from PIL import Image

from svd.autoencoder.autoencoder import Autoencoder
from svd.conditioning.conditioner import Conditioner, Conditioning
from svd.config import ConfigError, ModelConfig, SamplingConfig
from svd.console import log
from svd.data.images import ImageError, load_image, prepare_image, to_float
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import acts, guided, linear_scale, triangular_scale
from svd.diffusion.samplers import SAMPLERS, Churn
from svd.diffusion.schedules import karras
from svd.errors import NumericalError
from svd.pipelines.progress import steps

GUIDANCE_SHAPES = {"linear": linear_scale, "triangular": triangular_scale}
ImageLike = str | Path | Image.Image | np.ndarray


class ImageToVideo:
    """The pipeline that `svd.load_pipeline` makes; its parts can be called by themselves."""

    def __init__(
        self,
        config: ModelConfig,
        conditioner: Conditioner,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        free_memory: Callable[[], int],
    ):
        """`free_memory()` tells the bytes that are free on the device; decoding is planned by it."""
        self.config = config
        self.conditioner, self.denoiser, self.autoencoder = conditioner, denoiser, autoencoder
        self._free_memory = free_memory
        self._compiled: set[tuple] = set()

    def __call__(
        self,
        image: ImageLike | list[ImageLike],
        *,
        seed: int = 0,
        noise: Optional[np.ndarray] = None,
        aug_noise: Optional[np.ndarray] = None,
        output: Literal["uint8", "float", "latents"] = "uint8",
        resize: Literal["crop", "pad", "fit"] = "crop",
        progress: bool = True,
        **sampling,
    ) -> np.ndarray:
        """Draw a video for each image.

        Args:
            image: a path, a PIL image or an array [h w 3]; or several: a list of these, or an array [b h w 3]. Arrays
                are uint8, or floats in [0, 1].
            seed: of the noise; every clip of a batch gets the noise that it would get alone.
            noise: the latents' noise at unit variance, [b t c h/8 w/8]; replaces the seed's.
            aug_noise: the noise added to the image, at unit variance, [b 3 h w]; replaces the seed's.
            output: `uint8` video [t h w 3], `float` video in [0, 1], or scaled `latents` [t c h/8 w/8].
            resize: how an image of another size is brought to height x width: `crop` fills it, `pad` shows all of the
                image on black, `fit` chooses another size of the video, of the image's shape.
            progress: show progress bars.
            **sampling: the fields of svd.config.SamplingConfig that are to differ from the model's configuration:
                num_frames, fps, motion_bucket_id, noise_aug_strength, sampling_steps, guidance, decode_chunk_size, ...

        Returns:
            One video, or [b ...] when several images were given.

        Raises:
            ConfigError: a setting that is unknown or out of bounds.
            ImageError: an image that cannot be used.
            NumericalError: the network returned values that are not finite.
        """
        settings = self.settings(**sampling)
        if output not in ("uint8", "float", "latents"):
            raise ConfigError(f"output must be uint8, float or latents, got {output!r}")
        pixels, several = self._prepare(image, settings, resize)
        settings = dataclasses.replace(settings, height=pixels.shape[-2], width=pixels.shape[-1])
        self._warn_outside_training(settings)

        draw = _NoiseSource(seed, clips=len(pixels))
        noise = draw.or_given("noise", noise, self._latents_shape(settings))
        aug_noise = draw.or_given("aug_noise", aug_noise, pixels.shape[1:])
        conditioning = self.condition(pixels, aug_noise, settings, progress)
        latents = self.sample(conditioning, noise, settings, draw, progress)
        result = latents if output == "latents" else self.decode(latents, settings, progress)
        if output == "uint8":
            result = np.round(result * 255).astype(np.uint8)
        return result if several else result[0]

    def settings(self, **sampling) -> SamplingConfig:
        """The model's sampling configuration with these fields changed.

        Raises:
            ConfigError: an unknown field, or a value out of bounds.
        """
        known = [field.name for field in dataclasses.fields(SamplingConfig)]
        unknown = [name for name in sampling if name not in known]
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
        settings = dataclasses.replace(self.config.sampling, **sampling)
        self.config.check_size(settings.height, settings.width)
        return settings

    def condition(
        self, pixels: np.ndarray, aug_noise: np.ndarray, settings: SamplingConfig, progress: bool = True
    ) -> Conditioning:
        """Images [b 3 h w] in [-1, 1] and the unit noise to add to them, [b 3 h w] -> what the network is told."""
        numbers = (settings.fps, settings.motion_bucket_id, settings.noise_aug_strength)
        bar = self._progress(progress, "encoding", "image", pixels.shape)
        for images in bar([pixels]):
            conditioning = self.conditioner(images, settings.num_frames, *numbers, aug_noise)
        return conditioning

    def sample(
        self,
        conditioning: Conditioning,
        noise: np.ndarray,
        settings: SamplingConfig,
        churn_noise: Callable[[tuple], Tensor],
        progress: bool = True,
    ) -> np.ndarray:
        """Unit noise [b t c h w] -> scaled latents [b t c h w], float32 (SVD, appendix D.3).

        With and without guidance are two batch sizes, and so two graphs. Where a guidance interval needs both, the
        second is compiled in the middle of sampling; what is said of compiling is about the first step's.
        """
        sigmas = karras(settings.sampling_steps, settings.sigma_max, settings.sigma_min, settings.rho)
        scale = GUIDANCE_SHAPES[settings.guidance_shape](*settings.guidance, settings.num_frames)
        denoiser, uncond = self.denoiser.for_one_video(), conditioning.without_image()
        denoise = guided(denoiser, conditioning, uncond, scale, settings.guidance_interval)
        x = Tensor((noise * np.sqrt(1 + sigmas[0] ** 2)).astype(np.float32))
        guided_first = acts(sigmas[0], scale, settings.guidance_interval)
        bar = self._progress(progress, "sampling", "step", (*noise.shape, guided_first))
        options = {"churn": Churn(settings.churn), "noise": churn_noise} if settings.churn else {}
        latents = SAMPLERS[settings.sampler](denoise, x, sigmas, progress=bar, **options).asnumpy()
        if not np.isfinite(latents).all():
            raise NumericalError("the network returned values that are not finite: try amp_level O0", "amp_level")
        return latents

    def decode(self, latents: np.ndarray, settings: SamplingConfig, progress: bool = True) -> np.ndarray:
        """Scaled latents [b t c h w] -> video [b t 8h 8w 3], float32 in [0, 1], within the memory limit."""
        chunk = settings.decode_chunk_size
        if chunk is None:
            chunk = self._chunk_within_memory(latents.shape, settings, progress)
        key = (chunk, settings.decode_tile_size, *latents.shape)
        video = self.autoencoder.decode(
            latents,
            chunk,
            settings.decode_overlap,
            settings.decode_tile_size,
            progress=self._progress(progress, "decoding", "chunk", key),
        )
        if not np.isfinite(video).all():
            raise NumericalError("the decoder returned values that are not finite: try amp_level O0", "amp_level")
        return np.clip((video.transpose(0, 1, 3, 4, 2) + 1) / 2, 0, 1)

    def _chunk_within_memory(self, shape: tuple, settings: SamplingConfig, progress: bool) -> int:
        """Frames to decode at a time so that the limit holds; said aloud."""
        clips, frames, _, h, w = shape
        limit = settings.decode_memory_gb
        limit = 0.5 * self._free_memory() if limit is None else limit * 1e9
        per_frame = clips * self.autoencoder.decode_bytes_per_frame(h, w, settings.decode_tile_size)
        chunk = int(min(max(limit // per_frame, 1), frames))
        if progress:
            log(
                f"decoding {chunk} of {frames} frames at a time: about {chunk * per_frame / 1e9:.1f} GB "
                f"of the {limit / 1e9:.1f} GB allowed (set --SVD.decode_chunk_size to change it)"
            )
        return chunk

    def _prepare(self, image, settings: SamplingConfig, resize: str) -> tuple[np.ndarray, bool]:
        """float32 [b 3 h w] in [-1, 1] of the video's size, and whether several images were given."""
        several = isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4)
        size = (settings.height, settings.width)
        arrays = []
        for item in image if several else [image]:
            if not isinstance(item, np.ndarray):
                item = prepare_image(load_image(item), *size, resize, self.config.size_multiple)
            elif item.shape[:2] != size:
                # Resizing happens in 8 bits, as for files; an array that has the size keeps its values.
                pixels = np.round((to_float(item)[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
                item = prepare_image(Image.fromarray(pixels), *size, resize, self.config.size_multiple)
            arrays.append(to_float(item)[0])
        if not arrays:
            raise ImageError("no image was given")
        if len({array.shape for array in arrays}) > 1:
            raise ImageError("images of different shapes cannot be fitted in one batch: call the pipeline for each")
        return np.stack(arrays), several

    def _latents_shape(self, settings: SamplingConfig) -> tuple[int, ...]:
        scale = self.config.autoencoder.downsampling
        channels = self.config.autoencoder.latent_channels
        return (settings.num_frames, channels, settings.height // scale, settings.width // scale)

    def _warn_outside_training(self, settings: SamplingConfig) -> None:
        for name in ("fps", "motion_bucket_id", "noise_aug_strength"):
            low, high = getattr(self.config.trained_range, name)
            value = getattr(settings, name)
            if not low <= value <= high:
                bounds = f"{low:g} to {high:g}" if low < high else f"{low:g} only"
                warnings.warn(f"{name} {value:g} is outside of what the model was trained on: {bounds}", stacklevel=3)
        trained = (self.config.sampling.height, self.config.sampling.width)
        if (settings.height, settings.width) != trained:
            warnings.warn(
                f"{settings.height} x {settings.width} is not the size that the model was trained on: "
                f"{trained[0]} x {trained[1]}",
                stacklevel=3,
            )

    def _progress(self, enabled: bool, description: str, unit: str, key: tuple) -> Callable[[list], object]:
        """A wrapper for the sampler's steps or the decoder's chunks; `key` tells graphs apart."""
        compiling = ms.get_context("mode") == ms.GRAPH_MODE and (description, *key) not in self._compiled
        self._compiled.add((description, *key))
        if not enabled:
            return iter
        return lambda items: steps(items, description, unit, compiling)


class _NoiseSource:
    """Unit Gaussian noise from a seed, the same for every clip, so that no clip depends on its batch."""

    def __init__(self, seed: int, clips: int):
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}")
        self._generator, self._clips = np.random.default_rng(seed), clips

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        noise = self._generator.standard_normal(shape, dtype=np.float32)
        return np.broadcast_to(noise, (self._clips, *shape))

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """[b ...] for the sampler."""
        return Tensor(np.ascontiguousarray(self._draw(tuple(shape[1:]))))

    def or_given(self, name: str, given: Optional[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The noise that the caller gave, checked, or else one drawn: float32 [b, *shape]."""
        drawn = self._draw(shape)  # drawn in any case: what comes after it must not depend on what was given
        if given is None:
            return drawn
        given = np.asarray(given, np.float32)
        if given.shape != drawn.shape:
            raise ConfigError(f"{name} must be of shape {list(drawn.shape)}, got {list(given.shape)}")
        return given
