"""Training of the autoencoder, and of its temporal decoder alone, by reconstruction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.autoencoder.autoencoder import autoencoder_part
from svd.config import AutoencoderConfig, LatentModel, ModelConfig
from svd.data.dataset import BadItem, Dataset, Unavailable, check_data
from svd.data.latents_dataset import LatentsDataset
from svd.data.video_dataset import Clip, pixels
from svd.errors import check
from svd.layers.axes import fold_frames, per_image
from svd.layers.marks import spatial_parameters, temporal_parameters
from svd.seeds import Purpose, generator
from svd.training.config import TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.video import encode_frames, frames_and_shape


class ReconstructionLoss(nn.Cell):
    """mean |decoder(z) - x| + weight * KL(q(z | x) || N(0, 1)) / latents, z ~ q (Kingma and Welling 2013; LDM, G).

    Without the perceptual and adversarial terms of latent diffusion models (arXiv 2112.10752, appendix G).
    """

    def __init__(self, encoder: nn.Cell, decoder: nn.Cell, kl_weight: float):
        super().__init__(auto_prefix=False)
        self.encoder, self.decoder, self.kl_weight = encoder, decoder, kl_weight
        self.by_frame = not getattr(decoder, "temporal", True)

    def construct(self, video: Tensor, noise: Tensor) -> Tensor:
        """video [b t 3 h w] in [-1, 1], noise of its latents, unit variance [b t c h' w'] -> a float32 scalar"""
        moments = ops.reshape(self.encoder(fold_frames(video)), noise.shape[:2] + (-1,) + noise.shape[3:])
        mean, log_variance = ops.chunk(moments, 2, 2)
        log_variance = ops.clamp(log_variance, -30.0, 20.0)
        variance = ops.exp(log_variance)
        divergence = ops.mean(ops.square(mean) + variance - 1.0 - log_variance)
        latents = mean + ops.sqrt(variance) * noise
        decoded = per_image(self.decoder, latents) if self.by_frame else self.decoder(latents)
        return ops.mean(ops.abs(decoded - video)) + 0.5 * self.kl_weight * divergence


class ReconstructionObjective:
    """Reconstruct clips from their latents.

    Args:
        encoder: images [n 3 h w] -> mean and log-variance of latents [n 2c h' w'].
        decoder: latents [b t c h' w'] -> videos [b t 3 h w]; of images, [n c h' w'] -> [n 3 h w].
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
        """The inputs of `loss` for clips and their sample numbers."""
        video, shape = frames_and_shape(clips, self.config)
        noise = [
            generator(self.seed, sample, Purpose.LOSS).standard_normal(shape, dtype=np.float32) for sample in samples
        ]
        return Tensor(video), Tensor(np.stack(noise))


class AutoencoderTask:
    """Trains the autoencoder to reconstruct clips: all but the decoder's temporal layers or, with `temporal_only`,
    these alone (SVD, appendix D).
    """

    complete = False

    def __init__(self, temporal_only: bool):
        self.temporal_only = temporal_only
        self.kinds = ("svd",) if temporal_only else ("svd", "image_ldm", "video_ldm")
        self.settings = (
            () if temporal_only else ("loss.kl_weight", "scale_clips")
        )  # a frozen encoder's divergence is a constant

    def check(self, train: TrainConfig, model: LatentModel) -> None:
        encoded, temporal = isinstance(train.dataset, LatentsDataset), model.autoencoder.decoder == "temporal"
        check(not encoded, f"train.task={train.task} learns from videos, not from latents: give another dataset")
        known = temporal or not isinstance(model, ModelConfig)  # whose image decoder may be the conditioner's
        check(known, f"train.task={train.task} is for models with autoencoder.decoder: temporal")

    def needs(self, train: TrainConfig) -> tuple[str, ...]:
        return tuple(f"{of}autoencoder.{part}" for of in ("", "conditioner.") for part in ("encoder", "decoder"))

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        encoder, decoder = (autoencoder_part(networks, part) for part in ("encoder", "decoder"))
        if self.temporal_only:
            return {decoder: temporal_parameters(networks[decoder])}
        return {encoder: list(networks[encoder].get_parameters()), decoder: spatial_parameters(networks[decoder])}

    def build(self, plan: Plan) -> ReconstructionObjective:
        encoder, decoder = (plan.networks[autoencoder_part(plan.networks, part)] for part in ("encoder", "decoder"))
        kl_weight, seed = plan.train.loss.kl_weight, plan.train.seed
        return ReconstructionObjective(encoder, decoder, plan.model.autoencoder, kl_weight, plan.trained, seed)


def latents_deviation(encoder: nn.Cell, dataset: Dataset, clips: int, seed: int) -> float:
    """The standard deviation of the latents of a dataset's first clips, over all of their numbers (arXiv 2112.10752,
    appendix G): of samples of the posterior, whose own variance counts. Clips that cannot be read are left out.

    Raises:
        DatasetError: none can be read.
    """
    total, squares, count = 0.0, 0.0, 0
    for index in range(min(clips, len(dataset))):
        try:
            clip = dataset.load(index, generator(seed, index, Purpose.DATA))
        except (BadItem, Unavailable):
            continue
        mean, log_variance = np.split(encode_frames(encoder, pixels([clip])[0]).astype(np.float64), 2, 1)
        total, count = total + mean.sum(), count + mean.size
        squares += (mean**2 + np.exp(np.clip(log_variance, -30, 20))).sum()
    check_data(count > 0, "no clip can be read, of which the latents' deviation is to be measured")
    return float(np.sqrt(squares / count - (total / count) ** 2))


AUTOENCODER, TEMPORAL_DECODER = AutoencoderTask(temporal_only=False), AutoencoderTask(temporal_only=True)
