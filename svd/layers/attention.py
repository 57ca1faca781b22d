"""Attention, and the transformer block that spatial and temporal layers share.

Axes: b clips, g groups that attend separately, l tokens of a group, n tokens of the context, c d channels.
"""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.layers.basic import LayerNorm, Linear
from svd.layers.composed import NormalCDF, shared

FLASH_DTYPES = (ms.float16, ms.bfloat16)
MAX_FLASH_BATCH = 2048
"""The largest batch that MindSpore documents for Ascend's fused attention."""


def check_flash_attention(dtype: ms.Type, head_dim: int) -> None:
    """Raise where Ascend's FlashAttentionScore would be wrong or fail: neither compilation nor export checks this.

    Raises:
        TypeError: the type is not float16 or bfloat16.
        ValueError: the head dimension is not a multiple of 16 up to 512.
    """
    if dtype not in FLASH_DTYPES:
        raise TypeError(f"flash attention takes float16 or bfloat16, got {dtype}")
    if head_dim % 16 or head_dim > 512:
        raise ValueError(f"flash attention takes head dimensions that are multiples of 16 up to 512, got {head_dim}")


def flash_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Fused attention on Ascend, without a mask. q [b l c], k v [b n c] -> [b l c]; float16 or bfloat16."""
    head_dim = q.shape[-1] // heads
    check_flash_attention(q.dtype, head_dim)
    return ops.flash_attention_score(q, k, v, heads, scalar_value=head_dim**-0.5, input_layout="BSH")


def matmul_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, the softmax in float32. q [b l c], k v [b n c] -> [b l c]"""
    b, l, c = q.shape
    n, d = k.shape[1], c // heads
    q = ops.transpose(ops.reshape(ops.mul(q, d**-0.5), (b, l, heads, d)), (0, 2, 1, 3))
    k = ops.transpose(ops.reshape(k, (b, n, heads, d)), (0, 2, 1, 3))
    v = ops.transpose(ops.reshape(v, (b, n, heads, d)), (0, 2, 1, 3))
    scores = ops.BatchMatMul(transpose_b=True)(q, k)  # [b heads l n]
    weights = ops.softmax(scores.astype(ms.float32), -1).astype(v.dtype)
    y = ops.BatchMatMul()(weights, v)
    return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (b, l, c))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, flash: bool) -> Tensor:
    """Scaled dot-product attention by the operator that suits device and shapes. q [b l c], k v [b n c] -> [b l c]

    Over a single token (SVD's image embedding) the softmax is one and the result is v. Scores over no more tokens than
    a head has channels take no more memory than the queries: fusing gains nothing.
    """
    if k.shape[1] == 1:
        return ops.broadcast_to(v, q.shape)
    if flash and k.shape[1] > q.shape[2] // heads and q.shape[0] <= MAX_FLASH_BATCH:
        return flash_attention(q, k, v, heads)
    return matmul_attention(q, k, v, heads)


class Attention(nn.Cell):
    """Multi-head attention of x [b l c] over the context [b n d], or over itself.

    `flash` selects Ascend's fused operator; svd.precision sets it before the first compilation.
    """

    def __init__(self, dim: int, heads: int, context_dim: Optional[int] = None, qkv_bias: bool = False):
        super().__init__()
        self.heads, self.flash = heads, False
        self.to_q = Linear(dim, dim, bias=qkv_bias)
        self.to_k = Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_v = Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_out = Linear(dim, dim)

    def construct(self, x: Tensor, context: Optional[Tensor] = None) -> Tensor:
        if context is None:
            context = x
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out(attention(q, k, v, self.heads, self.flash))


class GELU(nn.Cell):
    """The exact GELU, x * Phi(x), without ops.gelu's division: on CPU, Div keeps memory until the graph ends."""

    def __init__(self):
        super().__init__()
        self.cdf = shared(NormalCDF)

    def construct(self, x: Tensor) -> Tensor:
        return x * self.cdf(x)


class FeedForward(nn.Cell):
    """GEGLU: [... c] -> 2 x 4c channels, one half gated by the exact GELU of the other -> [... c]."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj_in = Linear(dim, 8 * dim)
        self.gelu = GELU()
        self.proj_out = Linear(4 * dim, dim)

    def construct(self, x: Tensor) -> Tensor:
        value, gate = ops.chunk(self.proj_in(x), 2, -1)
        return self.proj_out(value * self.gelu(gate))


class TransformerBlock(nn.Cell):
    """Self-attention within groups, cross-attention to the clip's context, feed-forward; each with its residual.

    A group is a frame (tokens are its pixels) in the spatial layers, a pixel (tokens are its frames) in the temporal
    ones, which also have a feed-forward network in front (`feed_forward_in`).
    """

    def __init__(self, dim: int, heads: int, context_dim: int, feed_forward_in: bool = False):
        super().__init__()
        self.has_feed_forward_in = feed_forward_in
        if feed_forward_in:
            self.norm_in = LayerNorm(dim)
            self.ff_in = FeedForward(dim)
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim)
        self.norm3 = LayerNorm(dim)
        self.ff = FeedForward(dim)

    def construct(self, x: Tensor, context: Tensor) -> Tensor:
        """x [b g l c], context [b n d] -> [b g l c]"""
        shape = x.shape
        b, g, l, c = shape
        if self.has_feed_forward_in:
            x = x + self.ff_in(self.norm_in(x))
        x = ops.reshape(x, (b * g, l, c))
        x = x + self.attn1(self.norm1(x))
        x = ops.reshape(x, (b, g * l, c))  # every group of a clip sees the same context
        x = x + self.attn2(self.norm2(x), context)
        x = x + self.ff(self.norm3(x))
        return ops.reshape(x, shape)
