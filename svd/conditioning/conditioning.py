"""The inputs that a network is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import ArrayLike

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

    @property
    def inputs(self) -> tuple[Optional[Tensor], ...]:
        """The inputs of the network: context and vector, and the context of temporal layers if there is another one."""
        others = () if self.temporal_context is None else (self.temporal_context,)
        return self.context, self.vector, *others

    def stack(self, other: Conditioning) -> Conditioning:
        """The two as one batch; both must have the same fields."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return Conditioning(*(None if a is b is None else ops.cat((a, b)) for a, b in pairs))


def embed_numbers(dim: int, clips: int, *numbers: ArrayLike) -> Tensor:
    """Each number, one for all clips or [b], as `dim` sinusoids, side by side: float32 [b v]."""
    columns = []
    for number in numbers:
        angles = np.broadcast_to(np.asarray(number, np.float64), (clips,))[:, None] * frequencies(dim)
        columns += [np.cos(angles), np.sin(angles)]
    return Tensor(np.concatenate(columns, axis=1), ms.float32)
