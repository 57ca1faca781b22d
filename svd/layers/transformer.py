"""The spatio-temporal transformer."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.layers.attention import TransformerBlock
from svd.layers.axes import fold_frames
from svd.layers.basic import GroupNorm
from svd.layers.blend import Blend
from svd.layers.embeddings import EmbeddingMLP, sinusoidal_embedding


class VideoTransformer(nn.Cell):
    """A transformer over the pixels of each frame, one over the frames of each pixel, and their learned blend.

    The frames' positions are embedded and added on the way into the temporal branch only.
    """

    def __init__(self, channels: int, head_dim: int, context_dim: int):
        super().__init__()
        heads = channels // head_dim
        self.channels = channels
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = nn.Dense(channels, channels)
        self.spatial = TransformerBlock(channels, heads, context_dim)
        self.frame_embedding = EmbeddingMLP(channels, 4 * channels, channels)
        self.temporal = TransformerBlock(channels, heads, context_dim, feed_forward_in=True)
        self.blend = Blend()
        self.proj_out = nn.Dense(channels, channels)

    def construct(self, x: Tensor, context: Tensor, image_only: bool = False) -> Tensor:
        """x [b t c h w], context [b n d] -> [b t c h w]"""
        b, t, c, h, w = x.shape
        y = self.norm(fold_frames(x)).reshape((b, t, c, h * w)).swapaxes(2, 3)
        y = self.spatial(self.proj_in(y), context)  # [b t (h w) c]
        if not image_only:
            positions = sinusoidal_embedding(ops.arange(t).astype(ms.float32), self.channels).astype(y.dtype)
            frames = self.frame_embedding(positions).reshape((t, 1, c))
            temporal = self.temporal((y + frames).swapaxes(1, 2), context)  # [b (h w) t c]
            y = self.blend(y, temporal.swapaxes(1, 2))
        return x + self.proj_out(y).swapaxes(2, 3).reshape((b, t, c, h, w))
