"""Sinusoidal embeddings of numbers, and the two-layer networks that follow them."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from svd.layers.basic import Linear


def frequencies(dim: int) -> np.ndarray:
    """The frequencies of an embedding of even size `dim`: geometric, periods up to 10,000. float64 [dim / 2]

    Computed on the host: MindSpore's exp on CPU is off by 2e-6, which frame positions multiply.
    """
    return 10000.0 ** (-np.arange(dim // 2) / (dim // 2))


def sinusoidal_embedding(x: Tensor, frequencies: Tensor) -> Tensor:
    """Embed numbers as cosines, then sines: [...] and [d / 2] -> float32 [... d] (the order that SVD uses)."""
    angles = ops.expand_dims(ops.cast(x, ms.float32), -1) * frequencies
    return ops.cat((ops.cos(angles), ops.sin(angles)), -1)


class EmbeddingMLP(nn.Cell):
    """[... in] -> [... out]: linear, SiLU, linear."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int):
        super().__init__()
        self.linear_1 = Linear(in_dim, hidden_dim)
        self.linear_2 = Linear(hidden_dim, out_dim)

    def construct(self, x: Tensor) -> Tensor:
        return self.linear_2(ops.silu(self.linear_1(x)))
