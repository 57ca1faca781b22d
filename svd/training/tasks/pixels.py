"""The task of models in pixel space: all of the network on videos, on images, or on both; or its temporal layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.checkpoints.tensor_files import read_safetensors
from svd.config import VideoDiffusionConfig
from svd.data.clips_with_images import ClipsWithImages
from svd.data.latents_dataset import LatentsDataset
from svd.data.video_dataset import Clip, pixels
from svd.diffusion.ancestral import cosine_beta_sigmas, cosine_sigma, preconditioning_of
from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss, loss_coefficients
from svd.errors import check
from svd.layers.marks import temporal_parameters
from svd.seeds import Purpose, generator
from svd.training.config import LossConfig, TrainConfig
from svd.training.tasks import Plan
from svd.training.tasks.video import freeze_others


class Embeddings:
    """Embeddings of captions, from a .safetensors file that has them by their captions, the empty one among them.

    Raises:
        ConfigError, CheckpointError: it cannot be read, or has no embedding [n width] of the empty caption.
    """

    def __init__(self, path: str, width: int):
        self.path, self._stored, self._read = path, read_safetensors(Path(path)), {}
        shape = self._of("").shape
        check(len(shape) == 2 and shape[1] == width, f"train.embeddings: the network takes [n {width}], got {shape}")

    def __call__(self, clips: list[Clip], keep: np.ndarray) -> Tensor:
        """Those of clips [b n d]; of the empty caption for clips that are not kept, [b]."""
        return Tensor(np.stack([self._of(clip.caption if kept else "") for clip, kept in zip(clips, keep)]))

    def _of(self, caption: str) -> np.ndarray:
        if caption not in self._read:
            check(caption in self._stored, f"train.embeddings: {self.path} has none of the caption {caption!r}")
            self._read[caption] = self._stored[caption].read().astype(np.float32)
        return self._read[caption]


class PixelLoss(nn.Cell):
    """`DenoisingLoss` of a network in pixels; of what it is told, and drops, only what there is.

    Args:
        loss: of b clips.
        text: whether the network is given text.
        images: frames at the end of each clip that are images.
        dropout: rate of dropout.
    """

    def __init__(self, loss: DenoisingLoss, text: bool = False, images: int = 0, dropout: float = 0.0):
        super().__init__(auto_prefix=False)
        self.loss, self.text, self.images, self.dropout = loss, text, images, dropout

    def construct(self, frames: Tensor, noise: Tensor, coefficients: Tensor, *others: Tensor) -> Tensor:
        """As in `DenoisingLoss`; then, if there are any, the text [b n d], which frames are images, Boolean [b t], and
        which activations dropout keeps, Boolean [b m] (`PixelUNet.kept_size`).
        """
        context, independent = None, None
        if self.text:
            context, others = others[0], others[1:]
        if self.images > 0:
            independent = others[0]
        if self.dropout > 0:
            kept = ops.mul(ops.cast(others[-1], ms.float32), 1 / (1 - self.dropout))
            return self.loss(frames, noise, coefficients, context, None, None, independent, kept)
        if self.images > 0:
            return self.loss(frames, noise, coefficients, context, None, None, independent)
        return self.loss(frames, noise, coefficients, context, None, None)


class PixelObjective:
    """Denoise videos in pixels, at times that are uniform; the loss is plain |F - target|^2, of v or the noise. A clip
    has one time, and every frame that is an image its own.

    Args:
        network: it is trained, or a part of it.
        trained: the parameters to train by their names in a checkpoint; all others are frozen.
        images: frames at the end of each clip that are images.
        dropout: rate of dropout.
        embeddings: of captions, for a network that is given text.
        drop_context: how often the empty caption takes the place of another.
        seed: of the noise.
    """

    def __init__(
        self,
        network: nn.Cell,
        model: VideoDiffusionConfig,
        trained: dict[str, Parameter],
        images: int = 0,
        dropout: float = 0.0,
        embeddings: Optional[Embeddings] = None,
        drop_context: float = 0.0,
        seed: int = 0,
    ):
        self.network, self.model, self.trained = network, model, trained
        self.images, self.dropout, self.seed = images, dropout, seed
        self.embeddings, self.drop_context = embeddings, drop_context
        self.preconditioning = preconditioning_of(model.preconditioning, model.timesteps)
        if dropout:
            network.drop()
        loss = DenoisingLoss(Denoise(network), image_only=not model.temporal_layers)
        self.loss = PixelLoss(loss, embeddings is not None, images, dropout)
        freeze_others(network, trained)

    def inputs(self, clips: list[Clip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips and their sample numbers."""
        video = pixels(clips)
        if self.model.channels == 1:
            video = video.mean(2, keepdims=True)
        noise = [generator(self.seed, s, Purpose.LOSS).standard_normal(video.shape[1:], np.float32) for s in samples]
        sigma = np.stack([self.sigma(sample, video.shape[1]) for sample in samples])
        others = ()
        if self.embeddings is not None:
            dropped = np.array([generator(self.seed, s, Purpose.CAPTION).random() for s in samples])
            others += (self.embeddings(clips, dropped >= self.drop_context),)
        if self.images:
            b, t = video.shape[:2]
            others += (Tensor(np.broadcast_to(np.arange(t) >= t - self.images, (b, t)).copy()),)
        if self.dropout:
            m = self.network.kept_size(video.shape[1], *video.shape[3:])
            draws = [generator(self.seed, s, Purpose.DROPOUT).random(m, np.float32) for s in samples]
            others += (Tensor(np.stack(draws) >= self.dropout),)
        return Tensor(video), Tensor(np.stack(noise)), loss_coefficients(self.preconditioning, sigma), *others

    def sigma(self, sample: int, frames: int) -> np.ndarray:
        """The noise level of each frame of a sample, [t]; one for all, [], of a clip without images."""
        time = generator(self.seed, sample, Purpose.TIMESTEPS).random(1 + frames)
        if self.model.preconditioning == "cosine_eps":
            levels = cosine_beta_sigmas(self.model.timesteps)
            sigma = levels[(time * len(levels)).astype(int)]
        else:
            sigma = cosine_sigma(time)
        images = self.images if self.model.temporal_layers else frames
        if images == 0:
            return sigma[0]
        return np.concatenate([np.full(frames - images, sigma[0]), sigma[1 : 1 + images]])


class PixelTask:
    """Trains a model in pixel space on videos, or on frames as images where it has no temporal layers; with
    `ClipsWithImages` on both (arXiv 2204.03458, section 4.3.1). With `temporal_only` the layers over frames alone, over
    a frozen image model (arXiv 2304.08818).
    """

    kinds, complete = ("video_diffusion",), True
    settings = ("temporal_only", "dropout", "embeddings", "loss.drop_context")

    def check(self, train: TrainConfig, model: VideoDiffusionConfig) -> None:
        data = train.dataset
        check(not isinstance(data, LatentsDataset), f"train.task={train.task} learns from videos, not from latents")
        text = model.lucidrains is None and model.conditioned
        check(text or not model.conditioned, "lucidrains.cond_dim cannot be trained: data have no such numbers")
        check(text or train.embeddings is None, "train.embeddings is for models that are given text (unet.context_dim)")
        silent = text or train.loss.drop_context == LossConfig.drop_context
        check(silent, "train.loss.drop_context is for models that are given text: leave it out")
        missing = "the model is given text: give train.embeddings, a file of the captions' embeddings"
        check(train.embeddings is not None or not text, missing)
        check(not text or data.captioned, "the model is given text, and the data have no captions")
        check(model.channels in (1, 3), f"frames have 1 or 3 channels; those of the model have {model.channels}")
        own = model.lucidrains is None
        check(own or not train.dropout, "train.dropout is for the networks of unet and temporal, not for lucidrains")
        layers = model.temporal_layers
        all_of_it = "the model has no temporal layers: give train.temporal_only=false, and its frames are images"
        check(layers or not train.temporal_only, all_of_it)
        if isinstance(data, ClipsWithImages):
            masked = own and model.temporal.factorised is not None and not model.temporal.reference
            check(masked, "ClipsWithImages is for models with temporal.factorised, which can hide images from frames")
        if own and model.temporal.reference:
            only = model.temporal.factorised.distance + 1
            check(data.frames == only, f"clips must have {only} frames with temporal.factorised.reference")

    def needs(self, train: TrainConfig) -> Optional[tuple[str, ...]]:
        return None

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        network = networks["network"]
        return {"network": temporal_parameters(network) if train.temporal_only else list(network.get_parameters())}

    def build(self, plan: Plan) -> PixelObjective:
        train = plan.train
        images = train.dataset.images if isinstance(train.dataset, ClipsWithImages) else 0
        context_dim, embeddings = plan.model.unet.context_dim, None
        if train.embeddings is not None:
            embeddings = Embeddings(train.embeddings, context_dim)
        options = {"images": images, "dropout": train.dropout, "embeddings": embeddings, "seed": train.seed}
        options["drop_context"] = train.loss.drop_context
        return PixelObjective(plan.networks["network"], plan.model, plan.trained, **options)
