"""The text tower of CLIP (ViT-L/14 in Stable Diffusion 1, OpenCLIP's ViT-H/14 in 2): what cross-attention sees."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from svd.conditioning.clip_layers import EncoderLayer
from svd.config import TextEncoderConfig
from svd.layers.basic import LayerNorm


class TextEncoder(nn.Cell):
    """Tokens, int32 [b n] -> their embeddings after the final normalisation, float32 [b n d].

    A token sees itself and those before it; padding is not masked. Stable Diffusion 2 leaves out the last layer of its
    tower, but not the normalisation that was trained for its output.
    """

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        self.compute_dtype = ms.float32  # svd.placement sets it
        width = config.width
        tokens, positions = Normal(0.02), Normal(0.01)  # CLIP's
        self.token_embedding = Parameter(
            initializer(tokens, (config.vocabulary, width), ms.float32), name="token_embedding"
        )
        self.position_embedding = Parameter(
            initializer(positions, (config.tokens, width), ms.float32), name="position_embedding"
        )
        layers = [EncoderLayer(width, config.heads, config.activation) for _ in range(config.layers)]
        self.layers = nn.CellList(layers)
        self.norm_out = LayerNorm(width)
        later = np.triu(np.ones((config.tokens, config.tokens), bool), 1)
        self.mask = Tensor(later[None, None])  # [1 1 n n], true where a query must not see a key

    def construct(self, tokens: Tensor) -> Tensor:
        x = ops.gather(self.token_embedding, tokens, 0) + self.position_embedding
        x = x.astype(self.compute_dtype)
        for layer in self.layers:
            x = layer(x, self.mask)
        return self.norm_out(x).astype(ms.float32)
