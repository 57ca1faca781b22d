"""The spatio-temporal transformer."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.layers.attention import TransformerBlock
from svd.layers.axes import fold_frames
from svd.layers.basic import GroupNorm, Linear, SwapAxes
from svd.layers.blend import Blend
from svd.layers.embeddings import EmbeddingMLP, frequencies, sinusoidal_embedding


class VideoTransformer(nn.Cell):
    """A transformer over the pixels of each frame, one over the frames of each pixel, and their learned blend.

    The frames' positions are embedded and added on the way into the temporal branch only.
    """

    def __init__(self, channels: int, head_dim: int, context_dim: int):
        super().__init__()
        heads = channels // head_dim
        self.frequencies = Tensor(frequencies(channels), ms.float32)
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.spatial = TransformerBlock(channels, heads, context_dim)
        self.frame_embedding = EmbeddingMLP(channels, 4 * channels, channels)
        self.temporal = TransformerBlock(channels, heads, context_dim, feed_forward_in=True)
        self.blend = Blend()
        self.proj_out = Linear(channels, channels)
        self.swap = SwapAxes()

    def construct(self, x: Tensor, context: Tensor, image_only: bool = False) -> Tensor:
        """x [b t c h w], context [b n d] -> [b t c h w]"""
        b, t, c, h, w = x.shape
        y = self.swap(ops.reshape(self.norm(fold_frames(x)), (b * t, c, h * w)))
        y = ops.reshape(self.proj_in(y), (b, t, h * w, c))
        y = self.spatial(y, context)
        if not image_only:
            positions = sinusoidal_embedding(ops.arange(t), self.frequencies).astype(y.dtype)
            frames = ops.reshape(self.frame_embedding(positions), (t, 1, c))
            temporal = self.temporal(self.swap(y + frames), context)  # [b (h w) t c]
            y = self.blend(y, self.swap(temporal))
        y = self.swap(ops.reshape(self.proj_out(y), (b * t, h * w, c)))
        return x + ops.reshape(y, (b, t, c, h, w))
