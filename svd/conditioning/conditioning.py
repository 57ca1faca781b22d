"""The inputs that a network is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import ArrayLike

from svd.config import ImageLDMConfig
from svd.layers.embeddings import frequencies


@dataclass(frozen=True)
class Conditioning:
    """Conditioning of b clips of t frames."""

    context: Optional[Tensor]
    """Context of cross-attention, [b n d]; None for networks without it."""
    concat: Optional[Tensor] = None
    """Concatenated to the channels of the noisy latents, [b t c h w]."""
    vector: Optional[Tensor] = None
    """Embedded numbers, [b v]."""
    temporal_context: Optional[Tensor] = None
    """Context of cross-attention in temporal layers, if it is another one, [b n d]."""
    frames: Optional[Tensor] = None
    """Given frames, (mask * latents, mask), [b t c+1 h w]; None where networks are given none."""
    frames_noise: Optional[Tensor] = None
    """Embedded levels of the noise in them, zero for the others, [b t d]."""

    @property
    def inputs(self) -> tuple[Optional[Tensor], ...]:
        """The inputs of the network: context and vector, and the context of temporal layers and given frames if there
        are any.
        """
        others = () if self.temporal_context is None else (self.temporal_context,)
        if self.frames is not None:
            others = self.temporal_context, self.frames, self.frames_noise
        return self.context, self.vector, *others

    def stack(self, other: Conditioning) -> Conditioning:
        """The two as one batch; both must have the same fields."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return Conditioning(*(None if a is b is None else ops.cat((a, b)) for a, b in pairs))


class Labels:
    """Embeds what temporal layers of VideoLDM are told: frame rate, motion bucket, and a label of the frame rate."""

    def __init__(self, config: ImageLDMConfig):
        self.layers, self.dim = config.own_layers, config.unet.model_channels

    def __call__(self, clips: int, fps: ArrayLike, motion_bucket_id: ArrayLike) -> Optional[Tensor]:
        """Numbers, one for all clips or [b] -> [b v]; None for networks that are told none."""
        layers = self.layers
        if layers is None or not layers.told:
            return None
        told = [fps] * layers.fps + [motion_bucket_id] * layers.motion
        if layers.rates:
            told.append([layers.rate_of(rate) for rate in np.broadcast_to(fps, (clips,))])
        return embed_numbers(self.dim, clips, *told)


def embed_numbers(dim: int, clips: int, *numbers: ArrayLike) -> Tensor:
    """Each number, one for all clips or [b], as `dim` sinusoids, side by side: float32 [b v]."""
    columns = []
    for number in numbers:
        angles = np.broadcast_to(np.asarray(number, np.float64), (clips,))[:, None] * frequencies(dim)
        columns += [np.cos(angles), np.sin(angles)]
    return Tensor(np.concatenate(columns, axis=1), ms.float32)
