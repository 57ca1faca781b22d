"""Training of the autoencoder, and of its temporal decoder alone: by reconstruction, and against discriminators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from svd.autoencoder.autoencoder import autoencoder_part
from svd.config import AutoencoderConfig, LatentModel, ModelConfig
from svd.data.dataset import BadItem, Dataset, Unavailable, check_data
from svd.data.latents_dataset import LatentsDataset
from svd.data.video_dataset import Clip, pixels
from svd.errors import check
from svd.layers.marks import spatial_parameters, temporal_parameters
from svd.networks.discriminator import Discriminators, least_side
from svd.networks.perceptual import Dissimilarity, Lpips, load_lpips
from svd.placement import place
from svd.seeds import Purpose, generator
from svd.training.config import DiscriminatorConfig, LossConfig, TrainConfig
from svd.training.player import Opponent
from svd.training.reconstruction import AdversarialLoss, DiscriminatorLoss, ReconstructionLoss
from svd.training.tasks import Plan
from svd.training.tasks.video import encode_frames, frames_and_shape


class ReconstructionObjective:
    """Reconstruct clips from their latents; with discriminators, so that these cannot tell.

    Args:
        encoder: images [n 3 h w] -> mean and log-variance of latents [n 2c h' w'].
        decoder: latents [b t c h' w'] -> videos [b t 3 h w]; of images, [n c h' w'] -> [n 3 h w].
        config: of the autoencoder.
        loss: weights, and which perceptual loss there is.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
        seed: of the noise, and of which frames are decoded alone.
        perceptual: images [n 3 h w], twice -> their difference [n].
        discriminators: the opponent's networks.
        against: how it plays.
    """

    def __init__(
        self,
        encoder: nn.Cell,
        decoder: nn.Cell,
        config: AutoencoderConfig,
        loss: LossConfig,
        trained: dict[str, Parameter],
        seed: int,
        perceptual: Optional[nn.Cell] = None,
        discriminators: Optional[Discriminators] = None,
        against: DiscriminatorConfig = DiscriminatorConfig(),  # noqa: B008 (never changed)
    ):
        self.config, self.trained, self.seed, self.single_frames = config, trained, seed, loss.single_frames
        for name, parameter in trained.items():  # both networks have a conv_in.weight, which no tuple can hold
            parameter.name = name
        self.loss = ReconstructionLoss(encoder, decoder, loss.kl_weight, perceptual, loss.perceptual_weight)
        self.opponent: Optional[Opponent] = None
        if discriminators is not None:
            parameters = {f"discriminator.{p.name}": p for p in discriminators.get_parameters()}
            self.loss = AdversarialLoss(self.loss, discriminators, against.weight)
            play = self.loss.shown, against.start, against.learning_rate
            self.opponent = Opponent(DiscriminatorLoss(discriminators), parameters, *play)

    def inputs(self, clips: list[Clip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips and their sample numbers."""
        video, shape = frames_and_shape(clips, self.config)
        noise = [
            generator(self.seed, sample, Purpose.LOSS).standard_normal(shape, dtype=np.float32) for sample in samples
        ]
        inputs = Tensor(video), Tensor(np.stack(noise))
        if not self.single_frames:
            return inputs
        frames = video.shape[1]
        chosen = [
            generator(self.seed, sample, Purpose.FRAMES).choice(frames, self.single_frames, replace=False)
            for sample in samples
        ]
        alone = np.stack(chosen) + frames * np.arange(len(samples))[:, None]
        return *inputs, Tensor(alone.reshape(-1).astype(np.int32))


PERCEPTUAL = ("loss.perceptual", "loss.perceptual_weight", "loss.lpips")


class AutoencoderTask:
    """Trains the autoencoder to reconstruct clips: all but the decoder's temporal layers; or, as `of_videos`, with the
    encoder frozen, the decoder's temporal layers alone (VideoLDM, section 3.1.1) or all of the decoder.
    """

    complete = False

    def __init__(self, of_videos: bool):
        self.of_videos = of_videos
        self.kinds = ("svd",) if of_videos else ("svd", "image_ldm", "video_ldm")
        # a frozen encoder's divergence is a constant
        own = ("temporal_only", "loss.single_frames") if of_videos else ("loss.kl_weight", "scale_clips")
        self.settings = (*own, *PERCEPTUAL, "discriminator", "preview.clips")

    def check(self, train: TrainConfig, model: LatentModel) -> None:
        encoded, temporal = isinstance(train.dataset, LatentsDataset), model.autoencoder.decoder == "temporal"
        check(not encoded, f"train.task={train.task} learns from videos, not from latents: give another dataset")
        known = temporal or not isinstance(model, ModelConfig)  # whose image decoder may be the conditioner's
        check(known, f"train.task={train.task} is for models with autoencoder.decoder: temporal")
        data, loss, against = train.dataset, train.loss, train.discriminator
        enough = f"train.loss.single_frames is {loss.single_frames}, but clips have {data.frames} frames"
        check(loss.single_frames <= data.frames, enough)
        check(loss.perceptual != "lpips" or bool(loss.lpips), _NO_LPIPS)
        sides = {"none": 1, "ssim": Dissimilarity.least_side, "lpips": Lpips.least_side}
        _check_size(train, f"train.loss.perceptual is {loss.perceptual}", sides[loss.perceptual])
        if against.kind != "none":
            _check_size(train, f"train.discriminator.kind is {against.kind}", least_side(against.layers))
            seen = f"train.discriminator.kind is {against.kind}, but clips of one frame have no motion: use image"
            check(data.frames > 1 or against.kind == "image", seen)
            never = f"train.discriminator.start is {against.start}, but train.updates is {train.updates}"
            check(train.updates is None or against.start < train.updates, never)

    def needs(self, train: TrainConfig) -> tuple[str, ...]:
        return tuple(f"{of}autoencoder.{part}" for of in ("", "conditioner.") for part in ("encoder", "decoder"))

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        encoder, decoder = (autoencoder_part(networks, part) for part in ("encoder", "decoder"))
        if self.of_videos:
            chosen = temporal_parameters if train.temporal_only else _all_parameters
            return {decoder: chosen(networks[decoder])}
        return {encoder: list(networks[encoder].get_parameters()), decoder: spatial_parameters(networks[decoder])}

    def build(self, plan: Plan) -> ReconstructionObjective:
        train, frames = plan.train, plan.train.dataset.frames
        encoder, decoder = (plan.networks[autoencoder_part(plan.networks, part)] for part in ("encoder", "decoder"))
        perceptual, discriminators = None, None
        if train.loss.perceptual == "ssim":
            perceptual = Dissimilarity()
        elif train.loss.perceptual == "lpips":
            perceptual = judging(load_lpips(train.loss.lpips))
        against = train.discriminator
        if against.kind != "none":
            shape = against.channels, against.layers, train.seed, frames, train.loss.single_frames
            discriminators = judging(Discriminators(against.kind, *shape))
        judges = perceptual, discriminators, against
        return ReconstructionObjective(
            encoder, decoder, plan.model.autoencoder, train.loss, plan.trained, train.seed, *judges
        )


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


_NO_LPIPS = (
    "train.loss.perceptual is lpips, which needs train.loss.lpips: the file that `svd convert-lpips` makes of the "
    "published weights of VGG16 and LPIPS; ssim needs none"
)


def _check_size(train: TrainConfig, what: str, least: int) -> None:
    """Raise ConfigError for frames that are smaller than a loss needs."""
    height, width = train.dataset.height, train.dataset.width
    few = f"{what}, but frames of {height} x {width} pixels are too small for it: it needs {least}"
    check(min(height, width) >= least, few)


def judging(network: nn.Cell) -> nn.Cell:
    """A network that judges what is decoded, placed on the device in float32."""
    return place(network, ms.get_context("device_target"), ms.float32)


def _all_parameters(network: nn.Cell) -> list[Parameter]:
    return list(network.get_parameters())


AUTOENCODER, TEMPORAL_DECODER = AutoencoderTask(of_videos=False), AutoencoderTask(of_videos=True)
