"""What prediction and interpolation have in common: clips of which some frames are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor, nn

from svd.autoencoder.autoencoder import Autoencoder
from svd.conditioning.conditioning import Labels
from svd.conditioning.given_frames import FramesConditioner
from svd.config import VideoLDMConfig
from svd.data.latents_dataset import EncodedClip
from svd.data.video_dataset import Clip
from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss, loss_coefficients
from svd.diffusion.preconditioning import DISCRETE_PRECONDITIONINGS
from svd.diffusion.schedules import discrete_sigmas
from svd.errors import check
from svd.seeds import Purpose, generator
from svd.training.config import LossConfig, TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.text import TEXT_TO_VIDEO, Captions, TextClipEncoder, captions_of
from svd.training.tasks.video import (
    check_frames,
    draw,
    frames_and_shape,
    freeze_others,
    trained_parameters,
    training_autoencoder,
)

AnyClip = Clip | EncodedClip
Mask = Callable[[np.random.Generator, int], np.ndarray]
"""Draws which of t frames are given, [t]."""


class GivenFramesLoss(nn.Cell):
    """`DenoisingLoss` of networks that are given frames."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.loss = DenoisingLoss(Denoise(network))

    def construct(
        self,
        latents: Tensor,
        noise: Tensor,
        coefficients: Tensor,
        context: Tensor,
        frames: Tensor,
        frames_noise: Tensor,
        *vector,
    ) -> Tensor:
        """As in `DenoisingLoss`; and a vector if the model has one."""
        told = vector[0] if vector else None
        return self.loss(latents, noise, coefficients, context, None, told, None, frames, frames_noise)


class GivenFramesObjective:
    """Denoise a clip of which some frames are given, with noise of a timestep that is drawn (VideoLDM, section 3.2).

    The loss is that of text to video, over all frames. The noise on given ones is independent of that to be removed.

    Args:
        captions, autoencoder: make the inputs; for encoded clips the autoencoder is given moments instead of frames.
        network: it is trained, or its temporal layers.
        model: its preconditioning and its schedule.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
        seed: of all that is drawn.
        mask: draws which frames are given.
        cut: (clip, random numbers) -> the part of it that is learned from.
    """

    def __init__(
        self,
        captions: Captions,
        autoencoder: Autoencoder,
        network: nn.Cell,
        model: VideoLDMConfig,
        trained: dict[str, Parameter],
        config: LossConfig,
        seed: int,
        mask: Mask,
        cut: Callable[[AnyClip, np.random.Generator], AnyClip],
    ):
        self.captions, self.autoencoder, self.config, self.seed = captions, autoencoder, config, seed
        self.trained, self.mask, self.cut = trained, mask, cut
        self.labels, self.sigmas = Labels(model), discrete_sigmas(model.schedule)
        self.given = FramesConditioner(self.sigmas, model.unet.model_channels)
        self.preconditioning = DISCRETE_PRECONDITIONINGS[model.preconditioning](self.sigmas)
        self.loss = GivenFramesLoss(network)
        freeze_others(network, trained)

    def inputs(self, clips: list[AnyClip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips and their sample numbers."""
        clips = [self.cut(clip, generator(self.seed, sample, Purpose.WINDOW)) for clip, sample in zip(clips, samples)]
        frames, shape = frames_and_shape(clips, self.autoencoder.config)
        draws = draw(self.config, self.seed, samples, shape, (0,), sigmas=self.sigmas)
        latents = self.autoencoder.encode(frames, draws.posterior_noise)
        masks, levels, noises = zip(*(self._draw_given(sample, shape) for sample in samples))
        given = self.given(latents.asnumpy(), np.stack(masks), np.array(levels), np.stack(noises))
        coefficients = loss_coefficients(self.preconditioning, draws.sigma)
        inputs = latents, Tensor(draws.noise), coefficients, self.captions(clips, draws.keep_context), *given
        numbers = [clip.fps for clip in clips], [clip.motion_bucket_id for clip in clips]
        vector = self.labels(len(clips), *numbers)
        return inputs if vector is None else (*inputs, vector)

    def _draw_given(self, sample: int, shape: tuple[int, ...]) -> tuple[np.ndarray, int, np.ndarray]:
        """Of a sample's clip: which frames are given [t], the level of their noise, and that noise [t c h w]."""
        rng = generator(self.seed, sample, Purpose.GIVEN)
        everything, level = rng.random() < self.config.all_frames, rng.integers(self.config.frames_noise + 1)
        mask = self.mask(rng, shape[0])
        noise = rng.standard_normal(shape, dtype=np.float32)
        return np.ones_like(mask) if everything else mask, int(level), noise


class GivenFramesTask(ABC):
    """Trains temporal layers that are given frames, or all of the UNet, over clips with or without captions.

    Spatial layers see the caption, or the empty prompt where there is none, as in text to video; cached latents are
    those of that task.
    """

    kinds, complete = ("video_ldm",), True

    def check(self, train: TrainConfig, model: VideoLDMConfig) -> None:
        check_frames(train, False)
        layers = model.own_layers
        given = layers is not None and layers.frames
        check(given, f"train.task={train.task} is for models with temporal.video_ldm.frames: true")
        timesteps = model.schedule.timesteps
        noise = train.loss.frames_noise
        check(noise <= timesteps, f"loss.frames_noise must be at most {timesteps}, the timesteps, got {noise}")

    def needs(self, train: TrainConfig) -> Optional[tuple[str, ...]]:
        return TEXT_TO_VIDEO.needs(train)

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        return {"network": trained_parameters(networks["network"], train.temporal_only)}

    def encoders(self, train: TrainConfig) -> tuple[str, ...]:
        return TEXT_TO_VIDEO.encoders(train)

    def cached(self, train: TrainConfig, model: VideoLDMConfig, metadata: Mapping[str, str]) -> dict[str, Any]:
        return TEXT_TO_VIDEO.cached(train, model, metadata)

    def clip_encoder(self, plan: Plan) -> TextClipEncoder:
        return TEXT_TO_VIDEO.clip_encoder(plan)

    def build(self, plan: Plan) -> GivenFramesObjective:
        inputs = captions_of(plan), training_autoencoder(plan), plan.networks["network"], plan.model, plan.trained
        return GivenFramesObjective(*inputs, plan.train.loss, plan.train.seed, *self.draws(plan))

    @abstractmethod
    def draws(self, plan: Plan) -> tuple[Mask, Callable[[AnyClip, np.random.Generator], AnyClip]]:
        """`mask` and `cut` of the objective."""
