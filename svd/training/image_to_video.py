"""The task of image-to-video training: a clip from its first frame (SVD, appendix D)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, Tensor

from svd.autoencoder.autoencoder import Autoencoder
from svd.conditioning.conditioner import Conditioner
from svd.data.stream import LOSS, generator
from svd.data.video_dataset import Clip
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.loss import DenoisingLoss, log_normal, loss_coefficients
from svd.training.config import LossConfig


@dataclass(frozen=True)
class Draws:
    """All that is random about the loss of b clips."""

    sigma: np.ndarray
    """Noise level, [b]."""
    noise: np.ndarray
    """Added to the latents, unit variance, [b t c h w]."""
    posterior_noise: np.ndarray
    """By which the encoder's distribution is sampled, unit variance, [b t c h w]."""
    aug_strength: np.ndarray
    """Standard deviation of the noise on the conditioning frame, [b]."""
    aug_noise: np.ndarray
    """That noise, unit variance, [b 3 H W]."""
    keep_context: np.ndarray
    """Whether the image embedding is given, [b]."""
    keep_concat: np.ndarray
    """Whether the conditioning frame's latents are given, [b]."""


def draw(config: LossConfig, seed: int, samples: list[int], latents: tuple, image: tuple) -> Draws:
    """Draw for each sample from a generator of its own: what a clip meets does not depend on its batch.

    Args:
        samples: numbers of the samples in the stream, b of them.
        latents: shape of a clip's latents, [t c h w].
        image: shape of its conditioning frame, [3 H W].
    """
    columns = []
    for sample in samples:
        rng = generator(seed, sample, LOSS)
        sigma, strength = rng.standard_normal(2)
        context, concat = rng.random(2)
        noise, posterior_noise = (rng.standard_normal(latents, dtype=np.float32) for _ in range(2))
        columns.append(
            (
                log_normal(sigma, config.p_mean, config.p_std),
                noise,
                posterior_noise,
                log_normal(strength, config.noise_aug_mean, config.noise_aug_std),
                rng.standard_normal(image, dtype=np.float32),
                context >= config.drop_context,
                concat >= config.drop_concat,
            )
        )
    return Draws(*(np.stack(column) for column in zip(*columns)))


class ImageToVideoTask:
    """What the trainer asks of a task: `loss`, `trained` and `inputs`.

    Args:
        conditioner, autoencoder, denoiser: of a pipeline; the first two are only used, the denoiser's network learns.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
        seed: of the noise.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        trained: dict[str, Parameter],
        config: LossConfig,
        seed: int,
    ):
        self.conditioner, self.autoencoder = conditioner, autoencoder
        self.preconditioning, self.config, self.seed = denoiser.preconditioning, config, seed
        self.trained = trained
        self.loss = DenoisingLoss(denoiser.network)
        learned = {id(parameter) for parameter in trained.values()}
        for parameter in denoiser.network.get_parameters():
            parameter.requires_grad = id(parameter) in learned

    def inputs(self, clips: list[Clip], samples: list[int]) -> tuple[Tensor, ...]:
        """What `loss` takes for these clips, which are the samples of these numbers."""
        video = np.stack([clip.frames for clip in clips]).transpose(0, 1, 4, 2, 3)
        video = video.astype(np.float32) / 127.5 - 1  # [b t 3 h w]
        scale, channels = self.autoencoder.config.downsampling, self.autoencoder.config.latent_channels
        frames, height, width = video.shape[1], video.shape[-2] // scale, video.shape[-1] // scale
        draws = draw(self.config, self.seed, samples, (frames, channels, height, width), video.shape[2:])
        return self.loss_inputs(video, [clip.fps for clip in clips], [clip.motion_bucket_id for clip in clips], draws)

    def loss_inputs(
        self, video: np.ndarray, fps: list[float], motion_bucket_id: list[float], draws: Draws
    ) -> tuple[Tensor, ...]:
        """The same from a video [b t 3 h w] in [-1, 1], its numbers [b] and given random numbers."""
        latents = self.autoencoder.encode(video, draws.posterior_noise)
        told = self.conditioner(video[:, 0], video.shape[1], fps, motion_bucket_id, draws.aug_strength, draws.aug_noise)
        context = told.context * _mask(draws.keep_context, told.context)
        concat = told.concat * _mask(draws.keep_concat, told.concat)
        coefficients = loss_coefficients(self.preconditioning, draws.sigma)
        return latents, Tensor(draws.noise), coefficients, context, concat, told.vector


def _mask(keep: np.ndarray, x: Tensor) -> Tensor:
    """[b] -> [b 1 ...] float32, to multiply x [b ...] by."""
    return Tensor(keep.astype(np.float32).reshape((-1,) + (1,) * (x.ndim - 1)))
