"""What pipelines of latents share: noise, sampling, and decoding within a memory limit."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, Optional, get_args

import numpy as np
from mindspore import Tensor

from svd.config import ConfigError, LatentModel, Model, PixelSamplingConfig, SamplingConfig, TextSamplingConfig
from svd.console import log
from svd.errors import NumericalError

Settings = SamplingConfig | TextSamplingConfig | PixelSamplingConfig
Output = Literal["uint8", "float", "latents"]
Seed = int | Sequence[int]
"""Seeds of NumPy's generators."""


class NoiseSource:
    """Unit Gaussian noise for b clips, independent of their batch.

    Args:
        seed: one for all clips, which get the same noise; or a list with one per clip.

    Raises:
        ConfigError: a seed is negative, or there are not as many as clips.
    """

    def __init__(self, seed: Seed | list[Seed], clips: int):
        seeds = seed if isinstance(seed, list) else [seed]
        if len(seeds) != clips and isinstance(seed, list):
            raise ConfigError(f"seed must be one number, or one for each of {clips} clips, got {len(seeds)}")
        for each in seeds:
            if np.min(each) < 0:
                raise ConfigError(f"seed must not be negative, got {each}")
        self._generators, self._clips = [np.random.default_rng(each) for each in seeds], clips

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        noise = np.stack([each.standard_normal(shape, dtype=np.float32) for each in self._generators])
        return np.broadcast_to(noise, (self._clips, *shape))

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """[b ...] for the sampler."""
        return Tensor(np.ascontiguousarray(self._draw(tuple(shape[1:]))))

    def orders(self, n: int) -> np.ndarray:
        """A permutation of n for each clip, [b n]."""
        orders = np.stack([each.permutation(n) for each in self._generators])
        return np.broadcast_to(orders, (self._clips, n))

    def or_given(self, name: str, given: Optional[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The caller's noise, checked, or else drawn noise: float32 [b, *shape]."""
        drawn = self._draw(shape)  # always drawn: later noise must not depend on what was given
        if given is None:
            return drawn
        given = np.asarray(given, np.float32)
        if given.shape != drawn.shape:
            raise ConfigError(f"{name} must be of shape {list(drawn.shape)}, got {list(given.shape)}")
        return given


def solve(sampler: Callable, denoise: Callable, x: np.ndarray, sigmas: np.ndarray, **options) -> np.ndarray:
    """Unit noise x [b t c h w] -> what the sampler makes of it at the last of these noise levels, float32.

    Raises:
        NumericalError: the network returned values that are not finite.
    """
    start = Tensor((x * np.sqrt(1 + sigmas[0] ** 2)).astype(np.float32))
    latents = sampler(denoise, start, sigmas, **options).asnumpy()
    if not np.isfinite(latents).all():
        raise NumericalError("the network returned values that are not finite: try amp_level O0", "amp_level")
    return latents


def latents_shape(config: LatentModel, settings: Settings) -> tuple[int, ...]:
    """[t c h/8 w/8] of a video."""
    scale = config.autoencoder.downsampling
    return (settings.num_frames, config.autoencoder.latent_channels, settings.height // scale, settings.width // scale)


def warn_of_size(config: Model, settings: Settings) -> None:
    """Warn if the size is not the model's own; called by a pipeline's `__call__`."""
    trained = (config.sampling.height, config.sampling.width)
    if (settings.height, settings.width) != trained:
        warnings.warn(
            f"{settings.height} x {settings.width} is not the size that the model was trained on: "
            f"{trained[0]} x {trained[1]}",
            stacklevel=3,
        )


def check_output(output: str) -> None:
    """Raise ConfigError unless `output` is one that pipelines give."""
    if output not in get_args(Output):
        raise ConfigError(f"output must be uint8, float or latents, got {output!r}")


# Used as methods of every pipeline, which has a `config`, a `denoiser`, an `autoencoder`, `bars` and `free_memory`.


def settings(self, settings: Optional[Settings] = None, **sampling) -> Settings:
    """These settings, or the model's own, with some fields changed.

    Raises:
        ConfigError: an unknown field, or a value out of bounds.
    """
    known = [field.name for field in dataclasses.fields(self.config.sampling)]
    unknown = [name for name in sampling if name not in known]
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
    settings = dataclasses.replace(settings or self.config.sampling, **sampling)
    self.config.check_sampling(settings)
    return settings


def as_output(
    self, latents: np.ndarray, settings: Settings, output: Output, progress: bool, image_only: bool
) -> np.ndarray:
    """Scaled latents [b t c h w] as they are, or decoded to [b t h w 3]: uint8, or float32 in [0, 1]."""
    if output == "latents":
        return latents
    video = self.decode(latents, settings, progress, image_only)
    return video if output == "float" else np.round(video * 255).astype(np.uint8)


def decode(
    self, latents: np.ndarray, settings: Settings, progress: bool = True, image_only: bool = False
) -> np.ndarray:
    """Scaled latents [b t c h w] -> video [b t 8h 8w 3], float32 in [0, 1], within the memory limit.

    `image_only` leaves out the temporal layers that are blended with those of images (alpha = 1).
    """
    chunk, tile = settings.decode_chunk_size, settings.decode_tile_size
    if chunk is None:
        chunk = _chunk_within_memory(self, latents.shape, settings, progress)
    bar = self.bars(progress, "decoding", "chunk", (chunk, tile, *latents.shape, image_only))
    video = self.autoencoder.decode(latents, chunk, settings.decode_overlap, tile, bar, image_only)
    if not np.isfinite(video).all():
        raise NumericalError("the decoder returned values that are not finite: try amp_level O0", "amp_level")
    return np.clip((video.transpose(0, 1, 3, 4, 2) + 1) / 2, 0, 1)


def _chunk_within_memory(pipe, shape: tuple, settings: Settings, progress: bool) -> int:
    """Number of frames to decode at a time within the memory limit, with a message."""
    clips, frames, _, h, w = shape
    limit = settings.decode_memory_gb
    limit = 0.5 * pipe.free_memory() if limit is None else limit * 1e9
    per_frame = clips * pipe.autoencoder.decode_bytes_per_frame(h, w, settings.decode_tile_size)
    chunk = int(min(max(limit // per_frame, 1), frames))
    if progress:
        log(
            f"decoding {chunk} of {frames} frames at a time: about {chunk * per_frame / 1e9:.1f} GB "
            f"of the {limit / 1e9:.1f} GB allowed (decode_chunk_size changes it)"
        )
    return chunk
