"""The tasks of the autoencoder: pixels to latents and back, and then its temporal decoder alone."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.config import AutoencoderConfig
from svd.data.pixels import pixels
from svd.data.video_dataset import Clip
from svd.layers.axes import fold_frames
from svd.seeds import LOSS, generator


class ReconstructionLoss(nn.Cell):
    """mean |decoder(z) - x| + weight * KL(q(z | x) || N(0, 1)) / latents, z ~ q (Kingma and Welling 2013; LDM, G).

    Without the perceptual and adversarial terms of latent diffusion models (arXiv 2112.10752, appendix G).
    """

    def __init__(self, encoder: nn.Cell, decoder: nn.Cell, kl_weight: float):
        super().__init__(auto_prefix=False)
        self.encoder, self.decoder, self.kl_weight = encoder, decoder, kl_weight

    def construct(self, video: Tensor, noise: Tensor) -> Tensor:
        """video [b t 3 h w] in [-1, 1], noise of its latents, unit variance [b t c h' w'] -> a float32 scalar"""
        moments = ops.reshape(self.encoder(fold_frames(video)), noise.shape[:2] + (-1,) + noise.shape[3:])
        mean, log_variance = ops.chunk(moments, 2, 2)
        log_variance = ops.clamp(log_variance, -30.0, 20.0)
        variance = ops.exp(log_variance)
        divergence = ops.mean(ops.square(mean) + variance - 1.0 - log_variance)
        decoded = self.decoder(mean + ops.sqrt(variance) * noise)
        return ops.mean(ops.abs(decoded - video)) + 0.5 * self.kl_weight * divergence


class AutoencoderTask:
    """To give clips back from their latents.

    Args:
        encoder: images [n 3 h w] -> mean and log-variance of latents [n 2c h' w'].
        decoder: latents [b t c h' w'] -> videos [b t 3 h w].
        config: of the autoencoder.
        kl_weight: of the latents' divergence from unit Gaussian noise.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
        seed: of the noise.
    """

    def __init__(
        self,
        encoder: nn.Cell,
        decoder: nn.Cell,
        config: AutoencoderConfig,
        kl_weight: float,
        trained: dict[str, Parameter],
        seed: int,
    ):
        self.config, self.trained, self.seed = config, trained, seed
        for name, parameter in trained.items():  # both networks have a conv_in.weight, which no tuple can hold
            parameter.name = name
        self.loss = ReconstructionLoss(encoder, decoder, kl_weight)

    def inputs(self, clips: list[Clip], samples: list[int]) -> tuple[Tensor, ...]:
        """What `loss` takes for these clips, which are the samples of these numbers."""
        video, c = pixels(clips), self.config
        t, _, height, width = video.shape[1:]
        shape = t, c.latent_channels, height // c.downsampling, width // c.downsampling
        noise = [generator(self.seed, sample, LOSS).standard_normal(shape, dtype=np.float32) for sample in samples]
        return Tensor(video), Tensor(np.stack(noise))
