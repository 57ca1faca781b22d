"""Transformers over images, and over videos."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.layers.attention import TransformerBlock
from svd.layers.axes import fold_frames
from svd.layers.basic import GroupNorm, Linear, SwapAxes
from svd.layers.blend import Blend
from svd.layers.embeddings import EmbeddingMLP, frequencies, sinusoidal_embedding
from svd.layers.marks import temporal, zero_init
from svd.operators.shared import shared
from svd.operators.table import PORTABLE, Operators


class SpatialTransformer(nn.Cell):
    """A transformer over the pixels of each frame."""

    is_block = True

    def __init__(self, channels: int, heads: int, context_dim: int, upcast: bool = False):
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.spatial = TransformerBlock(channels, heads, context_dim, upcast=upcast)
        self.proj_out = zero_init(Linear(channels, channels))
        self.swap = SwapAxes()

    def constants(self, context: Tensor, temporal_context: Tensor, num_frames: int) -> tuple[Tensor]:
        """What does not depend on x: the context."""
        return (self.spatial.constant(context),)

    def construct(self, x: Tensor, of_space: Tensor, image_only: bool = False) -> Tensor:
        """x [b t c h w], and the constant -> [b t c h w]"""
        y = self.spatial(tokens_of(x, self.norm, self.swap, self.proj_in), of_space)
        return add_tokens(x, y, self.proj_out, self.swap)


def tokens_of(x: Tensor, norm: nn.Cell, swap: SwapAxes, proj_in: nn.Cell) -> Tensor:
    """The tokens that a transformer sees of x: [b t c h w] -> [b t (h w) c], after norm and proj_in"""
    b, t, c, h, w = x.shape
    y = swap(ops.reshape(norm(fold_frames(x)), (b * t, c, h * w)))
    return ops.reshape(proj_in(y), (b, t, h * w, c))


def add_tokens(x: Tensor, y: Tensor, proj_out: nn.Cell, swap: SwapAxes) -> Tensor:
    """x [b t c h w] + proj_out(y), y the tokens [b t (h w) c]"""
    b, t, c, h, w = x.shape
    y = swap(ops.reshape(proj_out(y), (b * t, h * w, c)))
    return x + ops.reshape(y, (b, t, c, h, w))


class VideoTransformer(nn.Cell):
    """A transformer over the pixels of each frame, one over the frames of each pixel, and their learned blend.

    Embedded frame positions are added to the input of the temporal branch only.
    """

    is_block = True

    def __init__(self, channels: int, heads: int, context_dim: int):
        super().__init__()
        self.frequencies = Tensor(frequencies(channels), ms.float32)
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.spatial = TransformerBlock(channels, heads, context_dim)
        self.frame_embedding = temporal(EmbeddingMLP(channels, 4 * channels, channels))
        zero_init(self.frame_embedding.linear_2)
        self.temporal = TransformerBlock(channels, heads, context_dim, temporal=True)
        self.blend = Blend()
        self.proj_out = zero_init(Linear(channels, channels))
        self.swap = SwapAxes()
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.add_bias = shared(operators.add_bias)

    def constants(self, context: Tensor, temporal_context: Tensor, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """What does not depend on x: the context of both branches, and embedded frame positions [t c]."""
        positions = ops.cast(sinusoidal_embedding(ops.arange(num_frames), self.frequencies), context.dtype)
        of_space, of_time = self.spatial.constant(context), self.temporal.constant(temporal_context)
        return of_space, of_time, self.frame_embedding(positions)

    def construct(
        self, x: Tensor, of_space: Tensor, of_time: Tensor, frames: Tensor, image_only: bool = False
    ) -> Tensor:
        """x [b t c h w], and the constants -> [b t c h w]"""
        b, t, c, h, w = x.shape
        y = self.spatial(tokens_of(x, self.norm, self.swap, self.proj_in), of_space)
        if not image_only:
            temporal = ops.reshape(self.swap(y), (b * h * w, t * c))
            temporal = ops.reshape(self.add_bias(temporal, ops.reshape(frames, (t * c,))), (b, h * w, t, c))
            y = self.blend(y, self.swap(self.temporal(temporal, of_time)))
        return add_tokens(x, y, self.proj_out, self.swap)
