"""Attention, and the transformer block that spatial and temporal layers share.

Axes: b clips, g groups that attend separately, l tokens of a group, n tokens of the context, c d channels.
"""

from typing import Optional

from mindspore import Tensor, nn, ops

from svd.layers.basic import Geglu, LayerNorm, Linear
from svd.layers.marks import zero_init
from svd.operators.shared import shared
from svd.operators.table import PORTABLE, Operators


class DotProductAttention(nn.Cell):
    """softmax(q k^T / sqrt(d) + bias) v in several heads. q [b l c], k v [b n c] -> [b l c]

    bias: [b or 1, heads or 1, l, n], added to the scores; or a mask of Booleans, true where a query must not see a key.
    upcast: compute the scores of 16-bit queries and keys in float32, for networks whose scores float16 cannot hold.
    """

    def __init__(self, heads: int, upcast: bool = False):
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.set_operators(PORTABLE)

    def set_operators(self, operators: Operators) -> None:
        self.attention = shared(operators.attention, self.heads, self.upcast)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        return self.attention(q, k, v, bias)


class Attention(nn.Cell):
    """Multi-head attention of x [b l c] over the context [b n d], or over itself.

    bias and upcast as `DotProductAttention`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: Optional[int] = None,
        qkv_bias: bool = False,
        upcast: bool = False,
    ):
        super().__init__()
        self.to_q = Linear(dim, dim, bias=qkv_bias)
        self.to_k = Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_v = Linear(context_dim or dim, dim, bias=qkv_bias)
        self.attention = DotProductAttention(heads, upcast)
        self.to_out = Linear(dim, dim)

    def attend(self, x: Tensor, context: Optional[Tensor] = None, bias: Optional[Tensor] = None) -> Tensor:
        """Without the output projection."""
        if context is None:
            context = x
        return self.attention(self.to_q(x), self.to_k(context), self.to_v(context), bias)

    def construct(self, x: Tensor, context: Optional[Tensor] = None, bias: Optional[Tensor] = None) -> Tensor:
        return self.to_out(self.attend(x, context, bias))


class FeedForward(nn.Cell):
    """x [b m c] + linear(GEGLU(h)), h [b m c], with 4c hidden channels."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj_in = Geglu(dim, 4 * dim)
        self.proj_out = Linear(4 * dim, dim)

    def construct(self, x: Tensor, h: Tensor) -> Tensor:
        return self.proj_out.add_to(x, self.proj_in(h))


class TransformerBlock(nn.Cell):
    """Self-attention within groups, cross-attention to the clip's context, feed-forward; each with its residual.

    A group is a frame (its tokens are pixels) in spatial layers, and a pixel (its tokens are frames) in temporal ones,
    which also have a feed-forward network in front, and are zero-initialised.
    """

    def __init__(self, dim: int, heads: int, context_dim: int, temporal: bool = False, upcast: bool = False):
        super().__init__()
        self.is_temporal = temporal
        if temporal:
            self.norm_in = LayerNorm(dim)
            self.ff_in = FeedForward(dim)
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, heads, upcast=upcast)
        self.norm2 = LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim, upcast=upcast)
        self.norm3 = LayerNorm(dim)
        self.ff = FeedForward(dim)
        if temporal:
            for last in (self.ff_in.proj_out, self.attn1.to_out, self.attn2.to_out, self.ff.proj_out):
                zero_init(last)

    def constant(self, context: Tensor) -> Tensor:
        """Precompute the context of `construct` from [b n d]: keys and values, [b 2n c], or for a single token the
        output of cross-attention, [b 1 c].

        Over a single token (SVD's image embedding) the softmax is one: queries, keys and norm2 do not matter.
        """
        values = self.attn2.to_v(context)
        if context.shape[1] == 1:
            return self.attn2.to_out(values)
        return ops.cat((self.attn2.to_k(context), values), 1)

    def construct(self, x: Tensor, context: Tensor) -> Tensor:
        """x [b g l c], context as `constant` gives it -> [b g l c]"""
        b, g, l, c = shape = x.shape
        x = ops.reshape(x, (b, g * l, c))  # every group of a clip sees the same context
        if self.is_temporal:
            x = self.ff_in(x, self.norm_in(x))
        attended = self.attn1.attend(ops.reshape(self.norm1(x), (b * g, l, c)))
        attended = ops.reshape(attended, (b, g * l, c))
        if context.shape[1] == 1:
            x = self.attn1.to_out.add_to(x, attended, context)
        else:
            x = self.attn1.to_out.add_to(x, attended)
            keys, values = ops.Split(1, 2)(context)
            attended = self.attn2.attention(self.attn2.to_q(self.norm2(x)), keys, values)
            x = self.attn2.to_out.add_to(x, attended)
        x = self.ff(x, self.norm3(x))
        return ops.reshape(x, shape)
