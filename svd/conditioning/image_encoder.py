"""The image tower of CLIP (OpenCLIP ViT-H/14 in SVD): the embedding that cross-attention sees."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from svd.conditioning.clip_layers import EncoderLayer
from svd.config import ImageEncoderConfig
from svd.layers.basic import Conv2d, LayerNorm, Linear


class ImageEncoder(nn.Cell):
    """Preprocessed images [b 3 s s] -> embeddings [b d], projected and not normalised."""

    def __init__(self, config: ImageEncoderConfig, activation: str = "gelu"):
        super().__init__()
        self.compute_dtype = ms.float32  # svd.placement sets it
        width, patch = config.width, config.patch_size
        tokens = (config.image_size // patch) ** 2 + 1
        self.patch_embedding = Conv2d(3, width, patch, stride=patch, pad_mode="valid", has_bias=False)
        embedding = Normal(width**-0.5)
        self.class_embedding = Parameter(initializer(embedding, (width,), ms.float32), name="class_embedding")
        self.position_embedding = Parameter(
            initializer(embedding, (tokens, width), ms.float32), name="position_embedding"
        )
        self.norm_pre = LayerNorm(width)
        self.layers = nn.CellList([EncoderLayer(width, config.heads, activation) for _ in range(config.layers)])
        self.norm_post = LayerNorm(width)
        self.projection = Linear(width, config.output_dim, bias=False)

    def construct(self, pixels: Tensor) -> Tensor:
        out_dtype, dtype = pixels.dtype, self.compute_dtype
        x = self.patch_embedding.without_bias(pixels.astype(dtype))
        b, c = x.shape[:2]
        patches = ops.transpose(ops.reshape(x, (b, c, -1)), (0, 2, 1))
        first = self.class_embedding.astype(dtype).broadcast_to((b, 1, c))
        x = ops.cat((first, patches), 1) + self.position_embedding.astype(dtype)
        x = self.norm_pre(x)
        for layer in self.layers:
            x = layer(x)
        return self.projection(self.norm_post(x[:, 0])).astype(out_dtype)
