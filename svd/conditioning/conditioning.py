"""What a network is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Optional

from mindspore import Tensor, ops


@dataclass(frozen=True)
class Conditioning:
    """One record for b clips of t frames. A conditioner makes a pair of them: cond, and uncond to guide away from."""

    context: Tensor
    """What cross-attention sees, [b n d]."""
    concat: Optional[Tensor] = None
    """Joined to the channels of every frame's noisy latents, [b t c h w]."""
    vector: Optional[Tensor] = None
    """Embedded numbers, [b v]."""

    @property
    def inputs(self) -> tuple[Optional[Tensor], ...]:
        """What the network takes after latents and noise level."""
        return self.context, self.vector

    def stack(self, other: Conditioning) -> Conditioning:
        """These clips and then the other's, as one batch; both have the same fields."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return Conditioning(*(None if a is b is None else ops.cat((a, b)) for a, b in pairs))
