"""CLIPSIM (GODIVA, arXiv 2104.14806, section 4.2): how similar frames and their text are to CLIP's ViT-B/32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image

from svd.conditioning.clip_preprocess import CLIP_MEAN, CLIP_STD
from svd.conditioning.image_encoder import ImageEncoder
from svd.conditioning.text_encoder import TextEncoder
from svd.conditioning.tokenizer import Tokenizer
from svd.config import ImageEncoderConfig, TextEncoderConfig
from svd.layers.basic import Linear

IMAGE = ImageEncoderConfig(width=768, layers=12, heads=12, patch_size=32, image_size=224, output_dim=512)
TEXT = TextEncoderConfig(width=512, layers=12, heads=8)
ACTIVATION = "quick_gelu"
"""Of OpenAI's towers."""


class TextTower(nn.Cell):
    """Tokens [b n], and where each text ends as float32 [b n], 1 there and 0 elsewhere -> embeddings [b d]."""

    def __init__(self, config: TextEncoderConfig, output_dim: int):
        super().__init__()
        self.encoder = TextEncoder(config)
        self.projection = Linear(config.width, output_dim, bias=False)

    def construct(self, tokens: Tensor, end: Tensor) -> Tensor:
        x = ops.sum(self.encoder(tokens) * ops.expand_dims(end, 2), 1)
        return self.projection(x)


class Clip(nn.Cell):
    """The two towers, which are called one at a time."""

    def __init__(self, image: ImageEncoderConfig = IMAGE, text: TextEncoderConfig = TEXT):
        super().__init__()
        self.image = ImageEncoder(image, ACTIVATION)
        self.text = TextTower(text, image.output_dim)


class ClipSimilarity:
    """Cosines of the embeddings of frames and of a text.

    Args:
        metadata: of the checkpoint, which has the vocabulary.

    Raises:
        TokenizerError: it has none, or a damaged one.
    """

    def __init__(self, clip: Clip, metadata: Mapping[str, str], text: TextEncoderConfig = TEXT, side: int = 224):
        self._clip, self._side = clip, side
        self._tokenizer = Tokenizer.of_checkpoint(metadata, text)

    def __call__(self, clips: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Means over the frames of each clip, uint8 [b t h w 3]: [b]"""
        b, t = clips.shape[:2]
        frames = prepared(clips.reshape(b * t, *clips.shape[2:]), self._side)
        images = unit(self._clip.image(Tensor(frames)).asnumpy()).reshape(b, t, -1)
        return np.einsum("btd,bd->b", images, self.texts(texts)) / t

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts, [b d], of length 1; what is longer than the tower sees is cut."""
        tokens, _ = self._tokenizer(texts)
        end = np.eye(tokens.shape[1], dtype=np.float32)[tokens.argmax(1)]  # its token is the last of the vocabulary
        return unit(self._clip.text(Tensor(tokens), Tensor(end)).asnumpy())


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors [... d] divided by their lengths."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def prepared(frames: np.ndarray, side: int = 224) -> np.ndarray:
    """OpenAI's preprocessing of uint8 [n h w 3]: Pillow's bicubic resize of the shorter side, a crop of the centre, and
    CLIP's mean and deviation; float32 [n 3 side side].
    """
    height, width = frames.shape[1:3]
    size = (side, side * height // width) if width <= height else (side * width // height, side)
    left, top = (int(round((n - side) / 2)) for n in size)
    resized = (np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames)
    crops = np.stack([frame[top : top + side, left : left + side] for frame in resized])
    return ((np.moveaxis(crops, -1, 1) / 255 - CLIP_MEAN) / CLIP_STD).astype(np.float32)
