"""Operators of the layers that are fused on Ascend."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.operators import portable
from svd.operators.shared import shared

FLASH_DTYPES = (ms.float16, ms.bfloat16)
MAX_FLASH_BATCH = 2048
"""Largest documented batch of Ascend's fused attention."""


def flash_head_dim(head_dim: int) -> int:
    """The head dimension that heads are padded to for fused attention: it takes multiples of 16.

    Above 128, multiples of 128: heads of 160 gave noise on a 910B (mindspore-lab/mindone, issue 310).
    """
    multiple = 16 if head_dim <= 128 else 128
    return -(-head_dim // multiple) * multiple


class Linear(nn.Cell):
    """x [... i], weight [o i], bias [o] or None -> [... o]"""

    def construct(self, x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        return ops.dense(x, weight, bias)


class AddBias(nn.Cell):
    """x [n c ...] plus a bias [c], with MindSpore's own derivative."""

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return ops.BiasAdd()(x, bias)


class GroupNorm(nn.Cell):
    """Group normalisation of x [b c p ...] + shift (None, [b 1 c] or [b p c]) in float32, then SiLU if `silu`."""

    def __init__(self, groups: int, eps: float, silu: bool):
        super().__init__()
        self.groups, self.eps, self.silu = groups, eps, silu

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, shift: Optional[Tensor] = None) -> Tensor:
        x = portable.add_shift(x, shift)
        y = ops.cast(ops.group_norm(ops.cast(x, ms.float32), self.groups, weight, bias, self.eps), x.dtype)
        if self.silu:
            y = ops.silu(y)
        return y


def check_flash_attention(dtype: ms.Type, head_dim: int) -> None:
    """Raise if Ascend's FlashAttentionScore does not support this; neither compilation nor export checks it.

    Raises:
        TypeError: the type is not float16 or bfloat16.
        ValueError: the head dimension is above 512.
    """
    if dtype not in FLASH_DTYPES:
        raise TypeError(f"flash attention takes float16 or bfloat16, got {dtype}")
    if head_dim > 512:
        raise ValueError(f"flash attention takes head dimensions up to 512, got {head_dim}")


def is_flash_mask(bias: Optional[Tensor], batch: int) -> bool:
    """Whether `flash_attention` takes this bias as its mask, for a batch of this size."""
    return bias is None or (bias.dtype == ms.bool_ and (bias.shape[1] == 1 or bias.shape[0] == batch))


def pad_heads(x: Tensor, heads: int, padding: int) -> Tensor:
    """Append so many zeros to each head: [b l (heads d)] -> [b l (heads (d + padding))]"""
    b, l, c = x.shape
    zeros = ops.zeros((b, l, heads, padding), x.dtype)
    padded = ops.cat((ops.reshape(x, (b, l, heads, c // heads)), zeros), 3)
    return ops.reshape(padded, (b, l, c + heads * padding))


def flash_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Optional[Tensor] = None) -> Tensor:
    """Fused attention on Ascend. q [b l c], k v [b n c] -> [b l c]; float16 or bfloat16.

    The mask is of Booleans, true where a query must not see a key: [b heads l n], [b 1 l n] or [1 1 l n]. Heads
    of dimensions that the operator does not take, such as the 40 and 160 of Stable Diffusion 1, are padded with zeros,
    which add nothing to a score, and are cut off the result.
    """
    b, l, c = q.shape
    head_dim = c // heads
    check_flash_attention(q.dtype, head_dim)
    if not is_flash_mask(mask, q.shape[0]):
        raise TypeError(f"flash attention takes no bias and no mask of its heads alone, got {mask.dtype} {mask.shape}")
    if mask is not None and mask.shape[:2] == (1, 1):
        mask = ops.reshape(mask, mask.shape[2:])  # one for the whole batch
    padding = flash_head_dim(head_dim) - head_dim
    if padding:
        q, k, v = pad_heads(q, heads, padding), pad_heads(k, heads, padding), pad_heads(v, heads, padding)
    y = ops.flash_attention_score(q, k, v, heads, attn_mask=mask, scalar_value=head_dim**-0.5, input_layout="BSH")
    if padding:
        y = ops.reshape(ops.reshape(y, (b, l, heads, head_dim + padding))[..., :head_dim], (b, l, c))
    return y


class Attention(nn.Cell):
    """`portable.Attention` in float16 or bfloat16, fused where that is possible and useful.

    With no more tokens than channels per head, scores take no more memory than queries. Masks are supported, except
    [1 heads l n] for a larger batch. A bias is not: of `real_shift` MindSpore says that it is added
    to the scaled scores, and CANN (aclnnFlashAttentionScore) that it is scaled with them.

    `upcast` is for the portable formulation alone: the softmax of the fused operator is in float32, as its documented
    maxima and sums are.
    """

    def __init__(self, heads: int, upcast: bool = False):
        super().__init__()
        self.heads, self.portable = heads, shared(portable.Attention, heads, upcast)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        b, n = k.shape[:2]
        if n > q.shape[2] // self.heads and b <= MAX_FLASH_BATCH and is_flash_mask(bias, b):
            return flash_attention(q, k, v, self.heads, bias)
        return self.portable(q, k, v, bias)
