"""Layers over the frames of a video, which make a video model of an image model.

Axes: b clips, t frames, p pixels of a frame, c channels, n tokens of the text, h w height and width.
"""

from typing import Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from svd.config import UNetConfig
from svd.layers.attention import Attention, FeedForward, TransformerBlock
from svd.layers.axes import fold_frames
from svd.layers.basic import GroupNorm, LayerNorm, Linear, SwapAxes, conv2d, in_type_of
from svd.layers.blend import Blend
from svd.layers.embeddings import frequencies
from svd.layers.marks import zero_init
from svd.layers.resblock import ResBlock, frame_by_frame
from svd.layers.transformer import add_tokens, tokens_of
from svd.operators.portable import MASKED
from svd.operators.shared import shared
from svd.operators.table import PORTABLE, Operators


def frame_positions(num_frames: int, frequencies: Tensor) -> Tensor:
    """Sinusoidal embeddings of 0, 1, ...: float32 [t 2f], the sine and the cosine of each frequency side by side."""
    angles = ops.expand_dims(ops.cast(ops.arange(num_frames), ms.float32), 1) * frequencies
    return ops.reshape(ops.stack((ops.sin(angles), ops.cos(angles)), 2), (num_frames, -1))


class RelativePositions(nn.Cell):
    """A learned number per head and distance, added to the scores of attention between frames.

    Frames further apart than `distance` are masked, so that attention is the same in the middle of a video of any
    length (VideoLDM, appendix).
    """

    is_temporal = True

    def __init__(self, heads: int, distance: int):
        super().__init__()
        self.heads, self.distance = heads, distance
        self.bias = Parameter(initializer("zeros", (heads, 2 * distance + 1), ms.float32), name="bias")

    def construct(self, num_frames: int) -> Tensor:
        """-> float32 [1 heads t t], query by key"""
        frames = ops.arange(num_frames)
        distances = ops.expand_dims(frames, 0) - ops.expand_dims(frames, 1)
        indices = ops.minimum(ops.maximum(distances + self.distance, 0), 2 * self.distance)
        bias = ops.gather(self.bias, ops.reshape(indices, (-1,)), 1)
        bias = ops.reshape(bias, (1, self.heads, num_frames, num_frames))
        return bias + ops.mul(ops.cast(ops.abs(distances) > self.distance, ms.float32), MASKED)


class FrameConvolutions(nn.Cell):
    """Several times group normalisation over all frames, SiLU and a convolution of three frames; plus x, if `residual`.

    x [b t c h w] -> [b t c h w]
    """

    is_temporal = True

    def __init__(self, channels: int, layers: int, residual: bool):
        super().__init__()
        self.residual = residual
        self.norms = nn.CellList([GroupNorm(channels, silu=True) for _ in range(layers)])
        self.convs = nn.CellList([conv2d(channels, channels, (3, 1)) for _ in range(layers)])
        if residual:
            zero_init(self.convs[-1])
        self.swap = SwapAxes()

    def construct(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        x = self.swap(ops.reshape(x, (b, t, c, h * w)))
        y = self.norms[0](x)
        for i in range(len(self.convs) - 1):
            bias = ops.reshape(in_type_of(y, self.convs[i].bias), (1, 1, c))
            y = self.norms[i + 1](self.convs[i].without_bias(y), ops.broadcast_to(bias, (b, 1, c)))
        y = self.convs[-1].add_to(x, y) if self.residual else self.convs[-1](y)
        return ops.reshape(self.swap(y), (b, t, c, h, w))


class FrameBlock(nn.Cell):
    """Self-attention over the frames of each pixel; again, or cross-attention to the text, or neither; feed-forward.

    Each is computed of the normalised input, and added to it.

    Args:
        distance: attend by `RelativePositions` up to this distance.
    """

    is_temporal = True

    def __init__(
        self,
        dim: int,
        heads: int,
        twice: bool = False,
        context_dim: Optional[int] = None,
        distance: Optional[int] = None,
    ):
        super().__init__()
        self.twice, self.sees_text, self.relative = twice, context_dim is not None, distance is not None
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        if twice or self.sees_text:
            self.norm2 = LayerNorm(dim)
            self.attn2 = Attention(dim, heads, context_dim)
        self.norm3 = LayerNorm(dim)
        self.ff = FeedForward(dim)
        if self.relative:
            self.positions = RelativePositions(heads, distance)
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.add_bias = shared(operators.add_bias)

    def construct(self, x: Tensor, positions: Optional[Tensor] = None, text: Optional[Tensor] = None) -> Tensor:
        """x [b p t c] -> [b p t c]

        Args:
            positions: [t c], added to what attends over frames; or relative ones, [1 heads t t].
            text: what cross-attention sees, [b n d].
        """
        shape = x.shape
        b, p, t, c = shape
        x = ops.reshape(x, (b, p * t, c))
        x = self.attn1.to_out.add_to(x, self._over_frames(self.attn1, self.norm1(x), t, positions))
        if self.twice:
            x = self.attn2.to_out.add_to(x, self._over_frames(self.attn2, self.norm2(x), t, positions))
        elif self.sees_text:
            x = self.attn2.to_out.add_to(x, self.attn2.attend(self.norm2(x), text))
        return ops.reshape(self.ff(x, self.norm3(x)), shape)

    def _over_frames(self, attention: Attention, x: Tensor, t: int, positions: Optional[Tensor]) -> Tensor:
        """Attention of x [b (p t) c], without the output projection -> [b (p t) c]"""
        shape, c = x.shape, x.shape[2]
        bias = positions if self.relative else None
        if positions is not None and not self.relative:
            x = self.add_bias(ops.reshape(x, (-1, t * c)), ops.reshape(positions, (t * c,)))
        return ops.reshape(attention.attend(ops.reshape(x, (-1, t, c)), None, bias), shape)


class FrameTransformer(nn.Cell):
    """x plus a transformer over the frames of each pixel: normalisation, projection, `FrameBlock`, projection.

    Args:
        inner: channels between the projections.
        pooled: normalise over all frames, not every frame by itself.
        max_frames: frames that there are positions for; None: it knows of no positions.
    """

    is_temporal = True

    def __init__(self, channels: int, inner: int, heads: int, pooled: bool, max_frames: Optional[int] = None):
        super().__init__()
        self.pooled, self.max_frames = pooled, max_frames
        if max_frames is not None:
            self.frequencies = Tensor(frequencies(inner), ms.float32)
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, inner)
        self.block = FrameBlock(inner, heads, twice=True)
        self.proj_out = zero_init(Linear(inner, channels))
        self.swap = SwapAxes()

    def constants(self, text: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        """The positions [t inner], if it has any.

        Raises:
            ValueError: there are more frames than positions.
        """
        if self.max_frames is None:
            return ()
        if num_frames > self.max_frames:
            raise ValueError(f"{num_frames} frames, but there are positions for {self.max_frames}")
        return (ops.cast(frame_positions(num_frames, self.frequencies), text.dtype),)

    def construct(self, x: Tensor, positions: Optional[Tensor] = None) -> Tensor:
        """x [b t c h w], and the constants -> [b t c h w]"""
        b, t, c, h, w = x.shape
        if self.pooled:
            y = self.norm(self.swap(ops.reshape(x, (b, t, c, h * w))))
            y = ops.reshape(self.swap(ops.reshape(y, (b, c, t * h * w))), (b, t, h * w, c))
        else:
            y = self.swap(ops.reshape(self.norm(fold_frames(x)), (b * t, c, h * w)))
            y = ops.reshape(y, (b, t, h * w, c))
        y = self.proj_in(self.swap(y))
        y = self.swap(self.proj_out(self.block(y, positions)))
        return x + ops.reshape(self.swap(ops.reshape(y, (b * t, h * w, c))), (b, t, c, h, w))


class FollowedResBlock(nn.Cell):
    """The image model's residual block of each frame, then a temporal layer; blended, or not.

    Args:
        temporal: a layer [b t c h w] -> [b t c h w].
        blend: of the residual block's result and the temporal layer's; None: the latter alone.
    """

    is_block = True

    def __init__(
        self, in_channels: int, channels: int, unet: UNetConfig, temporal: nn.Cell, blend: Optional[Blend] = None
    ):
        super().__init__()
        self.spatial = ResBlock(in_channels, channels, emb_dim=4 * unet.model_channels)
        self.temporal, self.blend = temporal, blend

    def construct(self, x: Tensor, emb: Tensor, temporal_emb: Tensor, image_only: bool = False) -> Tensor:
        """x [b t c h w], emb [b t e] -> [b t c' h w]"""
        x = frame_by_frame(self.spatial, x, emb)
        if image_only:
            return x
        y = self.temporal(x)
        return y if self.blend is None else self.blend(x, y)


class FollowedTransformer(nn.Cell):
    """The image model's transformer over the pixels of each frame, then a temporal layer; blended, or not.

    Args:
        temporal: a layer (x [b t c h w], *constants) -> x with a method `constants(text, num_frames)`.
        blend: of the transformer's result and the temporal layer's; None: the latter alone.
    """

    is_block = True

    def __init__(self, channels: int, unet: UNetConfig, temporal: nn.Cell, blend: Optional[Blend] = None):
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.spatial = TransformerBlock(channels, unet.heads(channels), unet.context_dim, upcast=unet.upcast_attention)
        self.proj_out = zero_init(Linear(channels, channels))
        self.swap = SwapAxes()
        self.temporal, self.blend = temporal, blend

    def constants(self, context: Tensor, temporal_context: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        """The context of the spatial transformer, and the constants of the temporal layer."""
        return (self.spatial.constant(context),) + self.temporal.constants(temporal_context, num_frames)

    def construct(self, x: Tensor, of_space: Tensor, *others) -> Tensor:
        """x [b t c h w], the constants, image_only -> [b t c h w]"""
        y = self.spatial(tokens_of(x, self.norm, self.swap, self.proj_in), of_space)
        x = add_tokens(x, y, self.proj_out, self.swap)
        if others[-1]:  # image_only
            return x
        y = self.temporal(x, *others[:-1])
        return y if self.blend is None else self.blend(x, y)
