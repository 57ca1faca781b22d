"""What the two towers of CLIP are made of."""

from typing import Optional

from mindspore import Tensor, nn, ops

from svd.layers.attention import Attention
from svd.layers.basic import GELU, LayerNorm, Linear


class QuickGELU(nn.Cell):
    """x sigmoid(1.702 x), the approximation of the GELU that OpenAI's towers were trained with."""

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(ops.mul(x, 1.702))


ACTIVATIONS = {"gelu": GELU, "quick_gelu": QuickGELU}


class MLP(nn.Cell):
    """[... c] -> 4c, GELU -> [... c]"""

    def __init__(self, width: int, activation: str = "gelu"):
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.gelu = ACTIVATIONS[activation]()
        self.fc2 = Linear(4 * width, width)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(self.gelu(self.fc1(x)))


class EncoderLayer(nn.Cell):
    """A pre-norm transformer layer over tokens [b n c]; bias as `svd.layers.attention.DotProductAttention`."""

    is_block = True

    def __init__(self, width: int, heads: int, activation: str = "gelu"):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads, qkv_bias=True)
        self.norm2 = LayerNorm(width)
        self.mlp = MLP(width, activation)

    def construct(self, x: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        x = x + self.attn(self.norm1(x), None, bias)
        return x + self.mlp(self.norm2(x))
