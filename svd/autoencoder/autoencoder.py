"""The autoencoder: scales latents, and decodes within a memory limit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.autoencoder.windows import WindowedAxis, apply_in_windows
from svd.config import AutoencoderConfig

PEAK_COPIES = 6
"""Arrays of the widest full-resolution layer that are alive at once in decoding, as measured on CPU."""


class Autoencoder:
    """Pixels in [-1, 1] <-> latents scaled for diffusion."""

    def __init__(self, encoder: Encoder, decoder: Decoder, config: AutoencoderConfig):
        self.encoder, self.decoder, self.config = encoder, decoder, config

    def encode(self, video: np.ndarray | Tensor, noise: Optional[np.ndarray] = None) -> Tensor:
        """Video [b t 3 h w] in [-1, 1] -> scaled latents [b t c h/8 w/8], float32, frame by frame.

        With unit Gaussian noise [b t c h/8 w/8] they are samples of the posterior, as in the training of Stability's
        models, and its mode otherwise. The video and the noise go to the device once, and nothing comes back from it.
        """
        latents, log_variance = ops.Split(2, 2)(self.moments(video))
        if noise is not None:
            deviation = ops.exp(0.5 * ops.minimum(ops.maximum(log_variance, -30.0), 20.0))
            latents = latents + deviation * Tensor(noise.astype(np.float32))
        return latents * self.config.scale_factor

    def moments(self, video: np.ndarray | Tensor) -> Tensor:
        """Video [b t 3 h w] in [-1, 1] -> the moments of its latents, not scaled [b t 2c h/8 w/8], frame by frame."""
        if not isinstance(video, Tensor):
            video = Tensor(np.ascontiguousarray(video, np.float32))
        return ops.stack([self.encoder(frame) for frame in ops.Unstack(1)(video)], 1)

    def decode(
        self,
        latents: np.ndarray | Tensor,
        chunk_size: Optional[int] = None,
        overlap: Optional[int] = None,
        tile_size: Optional[int] = None,
        progress: Callable[[list], Iterable] = iter,
        image_only: bool = False,
    ) -> np.ndarray:
        """Scaled latents [b t c h w] -> video [b t 3 8h 8w], float32, about [-1, 1].

        Args:
            latents: of any number of frames.
            chunk_size: frames decoded at a time; all of them if None.
            overlap: frames that neighbouring chunks share and cross-fade over; a third of a chunk if None.
            tile_size: pixels of square tiles, overlapping by a quarter; whole frames if None.
            progress: wraps the list of chunks, as tqdm does.
            image_only: leave a temporal decoder's blended layers out (alpha = 1).
        """
        z = latents.asnumpy() if isinstance(latents, Tensor) else np.asarray(latents)
        z = z.astype(np.float32) / np.float32(self.config.scale_factor)
        frames = min(chunk_size or z.shape[1], z.shape[1])
        shared = frames // 3 if overlap is None else min(overlap, frames - 1)
        scale = self.config.downsampling
        tile = max(tile_size // scale, 1) if tile_size else max(z.shape[-2:])
        axes = [
            WindowedAxis(1, frames, shared),
            WindowedAxis(3, tile, tile // 4, scale),
            WindowedAxis(4, tile, tile // 4, scale),
        ]
        window = partial(self._decode_window, image_only=True) if image_only else self._decode_window
        return apply_in_windows(window, z, axes, progress)

    def decode_bytes_per_frame(self, height: int, width: int, tile_size: Optional[int] = None) -> int:
        """Peak memory in bytes of decoding one frame of latents [h w].

        The peak is at the full resolution, where the last level still has the channels of the level before.
        """
        scale = self.config.downsampling
        pixels = min(height * scale, tile_size or height * scale) * min(width * scale, tile_size or width * scale)
        mult = self.config.channel_mult
        channels = self.config.channels * mult[min(1, len(mult) - 1)]
        element = 4 if self.decoder.compute_dtype == ms.float32 else 2
        return int(PEAK_COPIES * pixels * channels * element)

    def _decode_window(self, z: np.ndarray, image_only: bool = False) -> np.ndarray:
        """[b t c h w] -> [b t 3 8h 8w], all at once."""
        z = np.ascontiguousarray(z)
        if self.decoder.temporal:
            return self.decoder(Tensor(z), *[True] * image_only).asnumpy()
        images = self.decoder(Tensor(z.reshape((-1,) + z.shape[2:]))).asnumpy()
        return images.reshape(z.shape[:2] + images.shape[1:])


def autoencoder_part(networks: Collection[str], part: str) -> str:
    """The prefix of the autoencoder's own encoder or decoder, or of the conditioner's if there is no other."""
    own = f"autoencoder.{part}"
    return own if own in networks else f"conditioner.{own}"
