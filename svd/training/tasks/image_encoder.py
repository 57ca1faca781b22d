"""The task of an image encoder: to tell what is seen, where pictures come with classes and not with texts."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from svd.conditioning.clip_preprocess import clip_preprocess
from svd.data.handwriting import CLASSES
from svd.data.moving_digits import DigitsClip
from svd.data.pixels import pixels


def cross_entropy(logits: Tensor, present: Tensor) -> Tensor:
    """-ln p of what is there (1) and -ln(1 - p) of what is not (0), p = sigmoid(logits); of any shape."""
    return ops.relu(logits) - logits * present + ops.log1p(ops.exp(-ops.abs(logits)))


class ClassificationLoss(nn.Cell):
    """The mean cross-entropy of whether each class is there, from the embedding's product with the class's direction.

    The directions are fixed and at right angles, in place of the texts that CLIP compares with: a trained layer would
    be no better (Hoffer et al. 2018, arXiv 1801.04540) and would belong to no model.
    """

    def __init__(self, encoder: nn.Cell, width: int):
        super().__init__(auto_prefix=False)
        self.encoder = encoder
        basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((width, CLASSES)))
        self.directions = Tensor((np.sqrt(width) * basis).astype(np.float32))  # lengths as of an embedding

    def construct(self, images: Tensor, present: Tensor) -> Tensor:
        """images preprocessed [b 3 s s], present [b 10] of 0 and 1 -> a float32 scalar"""
        return ops.mean(cross_entropy(ops.matmul(self.encoder(images), self.directions), present))


class ImageEncoderTask:
    """Which digits a picture shows, of the clips' first frames.

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
        """What `loss` takes for these clips."""
        images = clip_preprocess(pixels(clips)[:, 0], self.image_size)
        present = np.zeros((len(clips), CLASSES), np.float32)
        for row, clip in zip(present, clips):
            row[list(clip.digits)] = 1
        return Tensor(images), Tensor(present)
