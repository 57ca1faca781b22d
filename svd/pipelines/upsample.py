"""Videos of higher resolution (VideoLDM, arXiv 2304.08818, section 3.4; Stable Diffusion's x4 upscaler)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor
from tqdm import tqdm

from svd import runtime
from svd.autoencoder.autoencoder import Autoencoder
from svd.autoencoder.windows import WindowedAxis, apply_in_windows
from svd.conditioning.low_resolution import LowResolutionConditioner
from svd.config import ConfigError, UpsamplerConfig, UpsamplingConfig
from svd.console import log
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import guided
from svd.diffusion.samplers import ddim
from svd.diffusion.schedules import discrete_sigmas, visited_levels
from svd.errors import NumericalError
from svd.pipelines import pipeline
from svd.pipelines.moving_windows import Estimate, Frame, denoise_stream
from svd.pipelines.pipeline import Output, Seed, check_output

PEAK_COPIES = 176
"""Memory of an evaluation in arrays of the UNet's first level, as measured on CPU with temporal layers."""


@dataclass(frozen=True)
class Run:
    """What all frames of a video have in common."""

    settings: UpsamplingConfig
    sigmas: np.ndarray
    """Noise levels, decreasing, [n+1]."""
    contexts: tuple[Tensor, Tensor]
    """Of the text, and of what guidance leads away from, [1 n d]."""
    seed: Seed
    noise: Optional[np.ndarray]
    low_noise: Optional[np.ndarray]
    image_only: bool


class Upsample:
    """The pipeline of upsamplers, as `svd.load_pipeline` builds it; its parts can be called by themselves."""

    settings = pipeline.settings

    def __init__(
        self,
        config: UpsamplerConfig,
        conditioner: LowResolutionConditioner,
        denoiser: Denoiser,
        autoencoder: Optional[Autoencoder],
        free_memory: Callable[[], int],
    ):
        """`free_memory()` returns the free bytes on the device, which what is asked for has to fit in."""
        self.config = config
        self.conditioner, self.denoiser, self.autoencoder = conditioner, denoiser, autoencoder
        self.free_memory = free_memory
        self.sigmas = discrete_sigmas(config.schedule)

    def __call__(
        self,
        video: np.ndarray,
        prompt: str = "",
        negative_prompt: str = "",
        *,
        settings: Optional[UpsamplingConfig] = None,
        seed: Seed = 0,
        noise: Optional[np.ndarray] = None,
        low_noise: Optional[np.ndarray] = None,
        output: Output = "uint8",
        image_only: bool = False,
        progress: bool = True,
        **sampling,
    ) -> np.ndarray:
        """Upsample a video.

        Args:
            video: [t h w 3], uint8, or floats in [0, 1]; or an image [h w 3].
            prompt: what it shows, for models that are given text.
            negative_prompt: what guidance leads away from.
            settings: sampling settings; the model's own if None.
            seed: of the noise; a frame's depends on its number alone.
            noise: the noise to begin with at unit variance, [t c h' w'], of latents or pixels; replaces the seed's.
            low_noise: the noise on the given video at unit variance, [t 3 h w]; replaces the seed's.
            output: `uint8` video [t H W 3], `float` video in [0, 1], or scaled `latents` [t c h' w'].
            image_only: leave the temporal layers out (alpha = 1): every frame is an image of its own.
            progress: show a progress bar.
            **sampling: fields of svd.config.UpsamplingConfig that override the settings: noise_level, sampling_steps,
                guidance, window, tile, ...

        Returns:
            A video, or an image if one was given.

        Raises:
            ConfigError: a setting is unknown or out of bounds, or the video is none.
            MemoryLimitError: it would not fit into the memory limit.
            PromptError: a prompt is no text.
            NumericalError: the network returned values that are not finite.
        """
        video = np.asarray(video)
        image = video.ndim == 3
        frames = video[None] if image else video
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
            raise ConfigError(f"video must be [t h w 3], got {list(video.shape)}", setting="video")
        result = self.stream(
            frames, prompt, negative_prompt, settings=settings, seed=seed, noise=noise, low_noise=low_noise,
            output=output, image_only=image_only, progress=progress, length=len(frames), **sampling,
        )  # fmt: skip
        result = np.stack(list(result))
        return result[0] if image else result

    def stream(
        self,
        frames: Iterable[np.ndarray],
        prompt: str = "",
        negative_prompt: str = "",
        *,
        settings: Optional[UpsamplingConfig] = None,
        seed: Seed = 0,
        noise: Optional[np.ndarray] = None,
        low_noise: Optional[np.ndarray] = None,
        output: Output = "uint8",
        image_only: bool = False,
        progress: bool = True,
        length: Optional[int] = None,
        **sampling,
    ) -> Iterator[np.ndarray]:
        """The same for frames [h w 3] one after the other, of any number, in constant memory: they are taken when they
        are needed. `length` is their number, for the progress bar, if it is known.
        """
        settings = self.settings(settings, **sampling)
        check_output(output)
        if output == "latents" and self.autoencoder is None:
            raise ConfigError("output latents is for models that have some", setting="output")
        for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if text and self.config.text_encoder is None:
                raise ConfigError(f"{name} is for models that are given text: leave it out", setting=name)
        if negative_prompt and settings.guidance == 1:
            raise ConfigError("negative_prompt acts through guidance, which 1 leaves out", setting="guidance")
        if np.min(seed) < 0:
            raise ConfigError(f"seed must not be negative, got {seed}", setting="seed")
        source = iter(frames)
        first = next(source, None)
        if first is None:
            raise ConfigError("video has no frames", setting="video")
        height, width = first.shape[:2]
        self.check_memory(settings, height, width, length)
        levels = visited_levels(self.sigmas, settings.sampling_steps, settings.spacing, settings.offset, to_zero=False)
        contexts = (self.conditioner.contexts([prompt]), self.conditioner.contexts([negative_prompt]))
        run = Run(settings, levels, contexts, seed, noise, low_noise, image_only)
        begun = (self._begin(number, frame, run) for number, frame in enumerate(chain([first], source)))
        steps, size = len(levels) - 1, settings.window
        windows = None if length is None else -(-max(length - settings.window_overlap, 1) // self._stride(settings))
        with tqdm(total=windows and windows * steps, desc="upsampling", unit="window", disable=not progress) as bar:
            estimate = _announced(partial(self._estimate, run=run), progress, bar)
            advance = partial(self._advance, run=run)
            for frame in denoise_stream(begun, size, settings.window_overlap, steps, estimate, advance):
                yield self._finish(frame.x, run, output, height, width)

    def check_memory(self, settings: UpsamplingConfig, height: int, width: int, length: Optional[int] = None) -> None:
        """Raise MemoryLimitError if a video of this size does not fit into the memory limit; it says what would."""
        self._check_kept(settings, height, width, length)
        limit = self.free_memory() if settings.memory_gb is None else settings.memory_gb * 1e9
        frames = min(settings.window, length or settings.window)
        needed = self.evaluation_bytes(settings, height, width, frames, settings.tile)
        if needed > limit:
            multiple = self.config.size_multiple // self.config.low_resolution.factor
            tiles = range(multiple, min(max(height, width), 8192) + 1, multiple)
            of_tiles = partial(self.evaluation_bytes, settings, height, width, frames)
            fitting = [tile for tile in tiles if of_tiles(tile) <= limit]
            remedy = f"tile={fitting[-1]}" if fitting else f"a window below {settings.window}, in tiles of {multiple}"
            raise MemoryLimitError(_too_large(f"{width} x {height}", needed, limit, remedy), setting="tile")
        if self.autoencoder is None:
            return
        grid = self._padded(height) * self.config.enlarged, self._padded(width) * self.config.enlarged
        needed = self.autoencoder.decode_bytes_per_frame(*grid, settings.decode_tile_size)
        if needed > limit:
            side = int((limit / needed * np.prod(grid)) ** 0.5) * self.config.downsampling // 8 * 8
            what = f"decoding {width} x {height}"
            remedy = f"decode_tile_size={max(side, 8)}"
            raise MemoryLimitError(_too_large(what, needed, limit, remedy), setting="decode_tile_size")

    def _check_kept(self, settings: UpsamplingConfig, height: int, width: int, length: Optional[int]) -> None:
        """Raise MemoryLimitError if the frames that are on their way at a time do not fit into the host's memory."""
        stride = self._stride(settings)
        windows = settings.sampling_steps + 2 if settings.window_overlap else 1
        frames = min(windows * stride + settings.window, length or inf)
        elements = self._padded(height) * self._padded(width) * self.config.enlarged**2
        needed = frames * elements * (3 * self.config.channels + 3) * 4  # noisy, estimated twice, and what is given
        limit = runtime.free_memory("CPU") if settings.memory_gb is None else settings.memory_gb * 1e9
        if needed > limit:
            what = f"keeping {frames} frames of {width} x {height}, as many as are denoised at a time,"
            remedy = "window_overlap=0" if settings.window_overlap else "a smaller window"
            raise MemoryLimitError(_too_large(what, needed, limit, remedy), setting="window_overlap")

    def evaluation_bytes(
        self, settings: UpsamplingConfig, height: int, width: int, frames: int, tile: Optional[int]
    ) -> int:
        """About the peak memory in bytes of one evaluation of the UNet, for so many given frames of this size."""
        seen = [min(self._padded(side), tile or self._padded(side)) for side in (height, width)]
        elements = np.prod(seen) * self.config.enlarged**2 * frames * (1 if settings.guidance == 1 else 2)
        element = 4 if self.denoiser.network.compute_dtype == ms.float32 else 2
        unet = self.config.unet
        return int(PEAK_COPIES * elements * unet.channel_mult[0] * unet.model_channels * element)

    def _stride(self, settings: UpsamplingConfig) -> int:
        return settings.window - settings.window_overlap

    def _padded(self, side: int) -> int:
        """The side of a given frame, made a multiple of what the networks take."""
        multiple = self.config.size_multiple // self.config.low_resolution.factor
        return -(-side // multiple) * multiple

    def _begin(self, number: int, frame: np.ndarray, run: Run) -> Frame:
        """A given frame [h w 3], and noise in the place of the result."""
        frame = np.asarray(frame)
        pixels = frame.astype(np.float32) / 255 if frame.dtype == np.uint8 else frame.astype(np.float32)
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ConfigError("video must be uint8, or floats in [0, 1]", setting="video")
        pixels = (2 * pixels - 1).transpose(2, 0, 1)
        _, height, width = pixels.shape
        missing = self._padded(height) - height, self._padded(width) - width
        pixels = np.pad(pixels, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge")
        rng = np.random.default_rng([*np.atleast_1d(run.seed).tolist(), number])
        shape = (self.config.channels, *(side * self.config.enlarged for side in pixels.shape[1:]))
        low_noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        noise = rng.standard_normal(shape, dtype=np.float32)
        if run.noise is not None:
            noise = _taken("noise", run.noise, number, noise)
        if run.low_noise is not None:
            low_noise[:, :height, :width] = _taken("low_noise", run.low_noise, number, low_noise[:, :height, :width])
        seen = self.conditioner.noised(pixels[None], low_noise[None], run.settings.noise_level)[0]
        return Frame(number, noise * np.float32(np.sqrt(1 + run.sigmas[0] ** 2)), seen, rng)

    def _estimate(self, frames: list[Frame], step: int, run: Run) -> np.ndarray:
        """Clean frames [t c h w] of noisy ones, evaluated tile by tile."""
        settings, channels, sigma = run.settings, self.config.channels, float(run.sigmas[step])
        x = np.stack([np.concatenate((frame.x, frame.given)) for frame in frames])[None]

        def of_tile(tile: np.ndarray) -> np.ndarray:
            noisy, seen = np.ascontiguousarray(tile[:, :, :channels]), tile[:, :, channels:]
            cond, uncond = (self.conditioner(seen, [settings.noise_level], context) for context in run.contexts)
            denoise = guided(partial(self.denoiser.bind, image_only=run.image_only), cond, uncond, settings.guidance)
            return denoise(Tensor(noisy), sigma).asnumpy()

        result = apply_in_windows(of_tile, x, self._tiles(settings, max(x.shape[-2:])))[0]
        if not np.isfinite(result).all():
            raise NumericalError("the network returned values that are not finite: try amp_level O0", "amp_level")
        return result

    def _tiles(self, settings: UpsamplingConfig, largest: int) -> list[WindowedAxis]:
        times = self.config.enlarged
        size = settings.tile * times if settings.tile else largest
        overlap = settings.shared_pixels * times
        return [WindowedAxis(axis, size, overlap, margin=overlap // 4) for axis in (3, 4)]

    def _advance(self, frame: Frame, estimated: np.ndarray, step: int, run: Run) -> np.ndarray:
        """One step of DDIM."""
        options = {}
        if run.settings.eta:
            draw = partial(frame.rng.standard_normal, dtype=np.float32)
            options = {"eta": run.settings.eta, "noise": draw}
        estimated = estimated.astype(np.float32)
        if self.autoencoder is None:
            estimated = np.clip(estimated, -1, 1)  # pixels are nowhere else
        return ddim(lambda x, sigma: estimated, frame.x, run.sigmas[step : step + 2], **options)

    def _finish(self, x: np.ndarray, run: Run, output: Output, height: int, width: int) -> np.ndarray:
        """What has taken all steps [c h w] as a frame [H W 3]."""
        # a last noise level above 0 is part of what the autoencoder is given, on the model's own scale
        x = x / np.float32(np.sqrt(1 + run.sigmas[-1] ** 2))
        if output == "latents":
            return x
        if self.autoencoder is not None:
            x = self.autoencoder.decode(x[None, None], tile_size=run.settings.decode_tile_size)[0, 0]
        if not np.isfinite(x).all():
            raise NumericalError("the decoder returned values that are not finite: try amp_level O0", "amp_level")
        factor = self.config.low_resolution.factor
        frame = np.clip((x[:, : factor * height, : factor * width].transpose(1, 2, 0) + 1) / 2, 0, 1)
        return frame if output == "float" else np.round(frame * 255).astype(np.uint8)


def _announced(estimate: Estimate, progress: bool, bar: tqdm) -> Estimate:
    """Evaluations that move the bar; those that compile a graph are told of."""
    seen: set[tuple] = set()

    def announced(frames: list[Frame], step: int) -> np.ndarray:
        size = (len(frames), frames[0].x.shape)
        if progress and size not in seen and ms.get_context("mode") == ms.GRAPH_MODE:
            log("upsampling: compiling the graph ... (once per size)")
        seen.add(size)
        result = estimate(frames, step)
        bar.update()
        return result

    return announced


class MemoryLimitError(ConfigError):
    """Frames are too large for the memory; the message says in which tiles they fit."""


def _too_large(what: str, needed: float, limit: float, remedy: str) -> str:
    return f"{what} needs about {needed / 1e9:.1f} GB, and there are {limit / 1e9:.1f} GB: give {remedy}"


def _taken(name: str, given: np.ndarray, number: int, drawn: np.ndarray) -> np.ndarray:
    """A frame of the caller's noise, checked."""
    if number >= len(given) or np.shape(given[number]) != drawn.shape:
        raise ConfigError(f"{name} must be {list(drawn.shape)} for each frame, got {list(np.shape(given))}", name)
    return np.asarray(given[number], np.float32)
