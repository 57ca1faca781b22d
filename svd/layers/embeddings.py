"""Sinusoidal embeddings of numbers, and the two-layer networks that follow them."""

import math

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.layers.basic import Linear


def sinusoidal_embedding(x: Tensor, dim: int) -> Tensor:
    """Embed numbers as cosines, then sines, of geometrically spaced frequencies (period up to 10,000).

    [...] -> float32 [... dim]; dim is even. The transformer's position encoding in the order that SVD uses.
    """
    half = dim // 2
    frequencies = ops.exp(ops.arange(half).astype(ms.float32) * (-math.log(10000.0) / half))
    angles = x.astype(ms.float32).expand_dims(-1) * frequencies
    return ops.cat((ops.cos(angles), ops.sin(angles)), -1)


class EmbeddingMLP(nn.Cell):
    """[... in] -> [... out]: linear, SiLU, linear."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int):
        super().__init__()
        self.linear_1 = Linear(in_dim, hidden_dim)
        self.linear_2 = Linear(hidden_dim, out_dim)

    def construct(self, x: Tensor) -> Tensor:
        return self.linear_2(ops.silu(self.linear_1(x)))
