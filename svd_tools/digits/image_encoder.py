"""Training of the image encoder as a classifier of digits, in place of CLIP's texts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.conditioning.clip_preprocess import clip_preprocess
from svd.config import ModelConfig
from svd.data.handwriting import CLASSES
from svd.data.moving_digits import DigitsClip, MovingDigits
from svd.data.video_dataset import pixels
from svd.errors import check
from svd.training.config import TrainConfig
from svd.training.tasks import Plan


def cross_entropy(logits: Tensor, present: Tensor) -> Tensor:
    """Binary cross-entropy with logits: -ln p where present is 1, -ln(1 - p) where it is 0; of any shape."""
    return ops.relu(logits) - logits * present + ops.log1p(ops.exp(-ops.abs(logits)))


class ClassificationLoss(nn.Cell):
    """Mean binary cross-entropy per class, with the product of embedding and class direction as logit.

    The directions are fixed and orthogonal, in place of CLIP's text embeddings: a trained layer would
    be no better (Hoffer et al. 2018, arXiv 1801.04540) and would belong to no model.
    """

    def __init__(self, encoder: nn.Cell, width: int):
        super().__init__(auto_prefix=False)
        self.encoder = encoder
        basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((width, CLASSES)))
        self.directions = Tensor((np.sqrt(width) * basis).astype(np.float32))  # scaled to the length of an embedding

    def construct(self, images: Tensor, present: Tensor) -> Tensor:
        """images preprocessed [b 3 s s], present [b 10] of 0 and 1 -> a float32 scalar"""
        return ops.mean(cross_entropy(ops.matmul(self.encoder(images), self.directions), present))


class ClassificationObjective:
    """Classify the digits in the first frames of clips.

    Args:
        encoder: preprocessed images [b 3 s s] -> embeddings [b d].
        image_size: s, in pixels.
        width: d.
        trained: its parameters, by their names in a checkpoint.
    """

    def __init__(self, encoder: nn.Cell, image_size: int, width: int, trained: dict[str, Parameter]):
        self.image_size, self.trained = image_size, trained
        self.loss = ClassificationLoss(encoder, width)

    def inputs(self, clips: list[DigitsClip], samples: list[int]) -> tuple[Tensor, ...]:
        """The inputs of `loss` for clips."""
        images = clip_preprocess(pixels(clips)[:, 0], self.image_size)
        present = np.zeros((len(clips), CLASSES), np.float32)
        for row, clip in zip(present, clips):
            row[list(clip.digits)] = 1
        return Tensor(images), Tensor(present)


class ImageEncoderTask:
    """Trains the image encoder to recognise digits."""

    kinds = ("svd",)
    settings = ()
    complete = False

    def check(self, train: TrainConfig, model: ModelConfig) -> None:
        known = isinstance(train.dataset, MovingDigits)
        check(known, f"train.task={train.task} needs data that say what is seen: train.dataset=MovingDigits")

    def needs(self, train: TrainConfig) -> tuple[str, ...]:
        return ("conditioner.image_encoder",)

    def trained(self, train: TrainConfig, networks: Mapping[str, nn.Cell]) -> dict[str, list[Parameter]]:
        return {name: list(networks[name].get_parameters()) for name in self.needs(train)}

    def build(self, plan: Plan) -> ClassificationObjective:
        encoder, c = plan.networks["conditioner.image_encoder"], plan.model.image_encoder
        return ClassificationObjective(encoder, c.image_size, c.output_dim, plan.trained)
