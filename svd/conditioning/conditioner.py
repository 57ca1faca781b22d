"""The conditioner of image-to-video: the image, as an embedding and as latents, and three numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import ArrayLike

from svd.conditioning.clip_preprocess import clip_preprocess
from svd.conditioning.conditioning import Conditioning, embed_numbers


def unconditional(cond: Conditioning) -> Conditioning:
    """Zero image embedding and latents, the same numbers (SVD, appendix D.4)."""
    return replace(cond, context=ops.zeros_like(cond.context), concat=ops.zeros_like(cond.concat))


class Conditioner:
    """Image and numbers -> Conditioning (SVD, appendix D.4).

    Args:
        image_encoder: preprocessed images [b 3 s s] -> embeddings [b d].
        encoder: images [b 3 h w] in [-1, 1] -> moments of their latents [b 2c h/8 w/8].
        image_size: s, in pixels.
        vector_dim: size of the vector, a third for each number.
    """

    def __init__(self, image_encoder: nn.Cell, encoder: nn.Cell, image_size: int, vector_dim: int):
        self.image_encoder, self.encoder = image_encoder, encoder
        self.image_size, self.vector_dim = image_size, vector_dim

    def __call__(
        self,
        image: np.ndarray,
        num_frames: int,
        fps: ArrayLike,
        motion_bucket_id: ArrayLike,
        noise_aug_strength: ArrayLike,
        aug_noise: np.ndarray,
    ) -> Conditioning:
        """The conditioning of b clips.

        Args:
            image: float32 [b 3 h w] in [-1, 1].
            num_frames: t.
            fps: frames per second, one for all clips or [b]; the network is given fps - 1, as in training.
            motion_bucket_id: 0 to 255, one or [b].
            noise_aug_strength: standard deviation of the noise on the image, one or [b].
            aug_noise: that noise at unit variance, [b 3 h w].
        """
        b = image.shape[0]
        strength = np.broadcast_to(np.asarray(noise_aug_strength, np.float32), (b,))
        noisy = image + strength.reshape(-1, 1, 1, 1) * aug_noise.astype(np.float32)
        latents = self.encode_image(noisy)
        concat = latents.expand_dims(1).broadcast_to((b, num_frames) + latents.shape[1:])
        vector = self.embed_numbers(b, np.asarray(fps) - 1, motion_bucket_id, noise_aug_strength)
        return Conditioning(self.embed_image(image), concat, vector)

    def pair(self, *args: ArrayLike) -> tuple[Conditioning, Conditioning]:
        """(cond, uncond) of the arguments of a call."""
        cond = self(*args)
        return cond, unconditional(cond)

    def embed_image(self, image: np.ndarray) -> Tensor:
        """[b 3 h w] in [-1, 1] -> image embeddings as a context of one token, [b 1 d]."""
        return self.image_encoder(Tensor(clip_preprocess(image, self.image_size))).expand_dims(1)

    def encode_image(self, image: np.ndarray) -> Tensor:
        """[b 3 h w] in [-1, 1] -> latents (the mode, not scaled), [b c h/8 w/8]."""
        moments = self.encoder(Tensor(image.astype(np.float32)))
        return moments[:, : moments.shape[1] // 2]

    def embed_numbers(self, clips: int, *numbers: ArrayLike) -> Tensor:
        """Each number, one for all clips or [b], as sinusoids side by side: float32 [b v]."""
        return embed_numbers(self.vector_dim // len(numbers), clips, *numbers)
