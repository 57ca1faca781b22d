"""The task of upsamplers: patches of videos, or of images, from low-resolution ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import numpy as np
from mindspore import Parameter, Tensor, nn

from svd.autoencoder.autoencoder import Autoencoder
from svd.conditioning.low_resolution import LowResolutionConditioner, no_text
from svd.conditioning.tokenizer import Tokenizer
from svd.config import UpsamplerConfig
from svd.data.latents_dataset import LatentsDataset
from svd.data.pictures import scaled
from svd.data.video_dataset import Clip
from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss, loss_coefficients
from svd.diffusion.preconditioning import DISCRETE_PRECONDITIONINGS
from svd.diffusion.schedules import discrete_sigmas
from svd.errors import check
from svd.layers.marks import temporal_parameters
from svd.seeds import Purpose, generator
from svd.training.config import TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.text import Captions
from svd.training.tasks.video import freeze_others


@dataclass(frozen=True)
class Patch:
    """A clip's patch and all random numbers of its loss."""

    frames: np.ndarray
    """uint8 [t h w 3]."""
    levels: np.ndarray
    """Timesteps of the noise on the low-resolution frames, [t]; a video's is the first."""
    timesteps: np.ndarray
    """Those of the loss, likewise."""
    keep_text: bool
    noise: np.ndarray
    """Of the loss, [t c h' w']."""
    posterior_noise: np.ndarray
    """For samples of the posterior of latents, of the same shape."""
    low_noise: np.ndarray
    """On the low-resolution frames, [t 3 h/4 w/4]."""


def draw_patch(clip: Clip, sample: int, size: Optional[int], model: UpsamplerConfig, train: TrainConfig) -> Patch:
    """Draw for a sample from its own generator, independently of its batch.

    Args:
        size: pixels of the patch's sides; whole frames if None.
    """
    rng = generator(train.seed, sample, Purpose.UPSAMPLING)
    frames, factor = clip.frames, model.low_resolution.factor
    t, height, width, _ = frames.shape
    places, keep = rng.random(2), rng.random()
    if size is not None:
        # on the grid of the low-resolution pixels, which are then those of the whole frame
        top, left = (factor * int(p * ((side - size) // factor + 1)) for p, side in zip(places, (height, width)))
        frames = frames[:, top : top + size, left : left + size]
        height = width = size
    latents = (t, model.channels, height // model.downsampling, width // model.downsampling)
    return Patch(
        frames,
        levels=rng.integers(model.low_resolution.max_noise_level, size=t),
        timesteps=rng.integers(model.schedule.timesteps, size=t),
        keep_text=keep >= train.loss.drop_context,
        noise=rng.standard_normal(latents, dtype=np.float32),
        posterior_noise=rng.standard_normal(latents, dtype=np.float32),
        low_noise=rng.standard_normal((t, 3, height // factor, width // factor), dtype=np.float32),
    )


def lowered(frames: np.ndarray, factor: int) -> np.ndarray:
    """Frames uint8 [t h w 3] at a factor-th of their height and width, by area averages: uint8."""
    height, width = (side // factor for side in frames.shape[1:3])
    return np.stack([scaled(frame, height, width) for frame in frames])


def in_range(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [t h w 3] as networks take them: float32 [t 3 h w] in [-1, 1]."""
    return frames.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


class UpsamplingObjective:
    """Denoise patches of clips given their low-resolution versions, with noise on these of a level that the network is
    told (VideoLDM, arXiv 2304.08818, section 3.4). A model of images learns from every frame by itself.

    Timesteps are uniform, and the loss is plain |F - target|^2, of noise or v.

    Args:
        captions: makes contexts; None for a model that is not given text.
        autoencoder: encodes; None for a model in pixel space.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
    """

    def __init__(
        self,
        network: nn.Cell,
        captions: Optional[Captions],
        autoencoder: Optional[Autoencoder],
        model: UpsamplerConfig,
        trained: dict[str, Parameter],
        train: TrainConfig,
    ):
        self.captions, self.autoencoder, self.model, self.train = captions, autoencoder, model, train
        self.trained, self.image_only = trained, model.temporal is None
        self.conditioner = LowResolutionConditioner(model, None)
        self.sigmas = discrete_sigmas(model.schedule)
        self.preconditioning = DISCRETE_PRECONDITIONINGS[model.preconditioning](self.sigmas)
        self.loss = DenoisingLoss(Denoise(network), self.image_only)
        freeze_others(network, trained)

    def inputs(self, clips: list[Clip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips and their sample numbers."""
        patches = [draw_patch(*pair, self.train.patch_size, self.model, self.train) for pair in zip(clips, samples)]
        keep = np.array([patch.keep_text for patch in patches])
        context = no_text(len(clips)) if self.captions is None else self.captions(clips, keep)
        latents = np.stack([in_range(patch.frames) for patch in patches])
        if self.autoencoder is not None:
            latents = self.autoencoder.encode(latents, np.stack([patch.posterior_noise for patch in patches])).asnumpy()
        noise, seen = np.stack([patch.noise for patch in patches]), np.stack([self._seen(patch) for patch in patches])
        levels, timesteps = (np.stack([getattr(p, name) for p in patches]) for name in ("levels", "timesteps"))
        if self.image_only:
            frames = latents.shape[1]
            latents, noise, seen = (x.reshape(-1, 1, *x.shape[2:]) for x in (latents, noise, seen))
            context = context.repeat_interleave(frames, 0)
            levels, timesteps = levels.reshape(-1), timesteps.reshape(-1)
        else:
            levels, timesteps = levels[:, 0], timesteps[:, 0]
        coefficients = loss_coefficients(self.preconditioning, self.sigmas[timesteps])
        given = self.conditioner(seen, levels, context)
        return Tensor(latents), Tensor(noise), coefficients, given.context, given.concat, given.vector

    def _seen(self, patch: Patch) -> np.ndarray:
        """What is concatenated to the noisy latents of a patch, [t 3 h' w']."""
        low = in_range(lowered(patch.frames, self.model.low_resolution.factor))
        if not self.image_only:
            return self.conditioner.noised(low, patch.low_noise, patch.levels[0])
        rows = zip(low[:, None], patch.low_noise[:, None], patch.levels)
        return np.concatenate([self.conditioner.noised(*row) for row in rows])


class UpsamplingTask:
    """Trains an upsampler: the temporal layers over its spatial ones, or all of it; of a model of images all."""

    kinds, complete = ("upsampler",), True
    settings = ("loss.drop_context", "temporal_only", "patch_size")

    def check(self, train: TrainConfig, model: UpsamplerConfig) -> None:
        data, multiple, size = train.dataset, model.size_multiple, train.patch_size
        encoded = isinstance(data, LatentsDataset)
        check(not encoded, f"train.task={train.task} learns from videos, not from latents: give another dataset")
        if size is not None:
            check(size % multiple == 0, f"train.patch_size must be a multiple of {multiple}, got {size}")
            smaller = f"train.patch_size {size} is larger than the clips, {data.height} x {data.width}"
            check(size <= min(data.height, data.width), smaller)
        default = type(train.loss)().drop_context
        unused = f"train.loss.drop_context is of models that are given text: leave it at {default}"
        check(model.text_encoder is not None or train.loss.drop_context == default, unused)

    def needs(self, train: TrainConfig) -> tuple[str, ...]:
        return "network", "text_encoder", "autoencoder.encoder"

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        network = networks["network"]
        temporal = temporal_parameters(network) if train.temporal_only else []
        return {"network": temporal or list(network.get_parameters())}

    def build(self, plan: Plan) -> UpsamplingObjective:
        model, networks, captions, autoencoder = plan.model, plan.networks, None, None
        if model.text_encoder is not None:
            tokenizer = Tokenizer.of_checkpoint(plan.metadata, model.text_encoder)
            captions = Captions(tokenizer, networks["text_encoder"])
        if model.autoencoder is not None:
            autoencoder = Autoencoder(networks["autoencoder.encoder"], None, model.autoencoder)
        return UpsamplingObjective(networks["network"], captions, autoencoder, model, plan.trained, plan.train)


UPSAMPLING = UpsamplingTask()
