"""What pipelines of latents share: noise, sampling, and decoding within a memory limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Optional

import numpy as np
from mindspore import Tensor

from svd.conditioning.conditioning import Conditioning
from svd.config import ConfigError, SamplingConfig
from svd.console import log
from svd.diffusion.guidance import guidance_applies, guided, linear_scale, triangular_scale
from svd.diffusion.samplers import SAMPLERS, Churn
from svd.diffusion.schedules import karras
from svd.errors import NumericalError

GUIDANCE_SHAPES = {"linear": linear_scale, "triangular": triangular_scale}
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

    def or_given(self, name: str, given: Optional[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """The caller's noise, checked, or else drawn noise: float32 [b, *shape]."""
        drawn = self._draw(shape)  # always drawn: later noise must not depend on what was given
        if given is None:
            return drawn
        given = np.asarray(given, np.float32)
        if given.shape != drawn.shape:
            raise ConfigError(f"{name} must be of shape {list(drawn.shape)}, got {list(given.shape)}")
        return given


# Used as methods of every pipeline, which has a `denoiser`, an `autoencoder`, `bars` and `free_memory`.


def sample(
    self,
    pair: tuple[Conditioning, Conditioning],
    noise: np.ndarray,
    settings: SamplingConfig,
    churn_noise: Callable[[tuple], Tensor],
    progress: bool = True,
    image_only: bool = False,
) -> np.ndarray:
    """Unit noise [b t c h w] -> scaled latents [b t c h w], float32 (SVD, appendix D.3), by the pair (cond, uncond).

    `churn_noise` draws unit Gaussian noise of a shape; `image_only` leaves the temporal layers out (alpha = 1).
    Steps with and without guidance have two batch sizes, and so two graphs. If a guidance interval needs both, the
    second is compiled in the middle of sampling; the message about compilation is about the first step's.
    """
    sigmas = karras(settings.sampling_steps, settings.sigma_max, settings.sigma_min, settings.rho)
    scale = GUIDANCE_SHAPES[settings.guidance_shape](*settings.guidance, settings.num_frames)
    bind = partial(self.denoiser.bind, image_only=image_only)
    denoise = guided(bind, *pair, scale, settings.guidance_interval)
    x = Tensor((noise * np.sqrt(1 + sigmas[0] ** 2)).astype(np.float32))
    guided_first = guidance_applies(sigmas[0], scale, settings.guidance_interval)
    bar = self.bars(progress, "sampling", "step", (*noise.shape, guided_first, image_only))
    options = {"churn": Churn(settings.churn), "noise": churn_noise} if settings.churn else {}
    latents = SAMPLERS[settings.sampler](denoise, x, sigmas, progress=bar, **options).asnumpy()
    if not np.isfinite(latents).all():
        raise NumericalError("the network returned values that are not finite: try amp_level O0", "amp_level")
    return latents


def decode(
    self, latents: np.ndarray, settings: SamplingConfig, progress: bool = True, image_only: bool = False
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


def _chunk_within_memory(pipe, shape: tuple, settings: SamplingConfig, progress: bool) -> int:
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
