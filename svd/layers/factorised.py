"""Factorised space-time attention and residual blocks (Video Diffusion Models, arXiv 2204.03458, section 3).

Axes: b clips, t frames, c channels, h w pixels, p of them, d channels of a head. Clips are [b t c h w] throughout.
"""

import math
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from svd.config.pixel_networks import FactorisedAttention
from svd.layers.attention import DotProductAttention
from svd.layers.axes import fold_frames, per_image
from svd.layers.basic import GroupNorm, Linear, SwapAxes, conv2d, in_type_of
from svd.layers.embeddings import EmbeddingMLP
from svd.layers.marks import zero_init
from svd.operators.portable import MASKED

BUCKETS = 32
"""Of distances, half of them for later frames."""


def time_frequencies(dim: int) -> np.ndarray:
    """The frequencies of an embedding of even size `dim`, from 1 to 1 / 10,000 exactly: float64 [dim / 2]"""
    return 10000.0 ** (-np.arange(dim // 2) / (dim // 2 - 1))


def time_embedding(time: Tensor, frequencies: Tensor) -> Tensor:
    """Embed times as sines, then cosines: [b] or [b t], and [d / 2] -> float32 [b 1 d] or [b t d]"""
    angles = ops.reshape(time.astype(ms.float32), (time.shape[0], -1, 1)) * frequencies
    return ops.cat((ops.sin(angles), ops.cos(angles)), -1)


def distance_buckets(distance: int) -> np.ndarray:
    """The bucket of each distance -distance ... distance of a key from its query, int32 [2 distance + 1].

    One for each of the eight nearest on either side, then logarithmically fewer (T5, arXiv 1910.10683, section 2.1).
    """
    ahead = np.arange(-distance, distance + 1)
    exact = BUCKETS // 4
    # float32, as all implementations: it decides at the borders of buckets
    octaves = np.log(np.maximum(np.abs(ahead), exact).astype(np.float32) / exact)
    largest = np.float32(math.log(max(distance, exact + 1) / exact))
    far = np.minimum(exact + (octaves / largest * exact).astype(np.int32), 2 * exact - 1)
    return (np.where(np.abs(ahead) < exact, np.abs(ahead), far) + 2 * exact * (ahead > 0)).astype(np.int32)


def distances(num_frames: int, largest: int) -> Tensor:
    """Of each key from each query, from 0 for `largest` frames before it or more, int [t t]."""
    frames = ops.arange(num_frames)
    ahead = ops.expand_dims(frames, 0) - ops.expand_dims(frames, 1)
    return ops.minimum(ops.maximum(ahead + largest, 0), 2 * largest)


def hidden_keys(independent: Tensor) -> Tensor:
    """Which keys a query must not see, Boolean [b t t]: independent frames, Boolean [b t], see themselves alone."""
    t = independent.shape[1]
    either = ops.logical_or(ops.expand_dims(independent, 2), ops.expand_dims(independent, 1))
    return ops.logical_and(either, ops.logical_not(ops.eye(t, t, ms.bool_)))


def normalised(norm: GroupNorm, x: Tensor, over_frames: bool) -> Tensor:
    """Group normalisation of x [b t c h w], of each frame by itself or of whole clips."""
    if over_frames:
        return ops.swapaxes(norm(ops.swapaxes(x, 1, 2)), 1, 2)
    return per_image(norm, x)


def by_heads(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """What each head has side by side: [... (heads parts d)] -> `parts` tensors [... (heads d)]."""
    shape = x.shape[:-1]
    split = ops.Unstack(len(shape) + 1)(ops.reshape(x, shape + (heads, parts, -1)))
    merged = ()
    for part in split:
        merged = merged + (ops.reshape(part, shape + (-1,)),)
    return merged


class Dropout(nn.Cell):
    """x [b ...] times what dropout keeps of it: a part of random numbers [b m] that all layers share.

    Each layer begins `STRIDE` of them after the one before. They are drawn on the host: a graph's own would follow
    neither from the number of a sample nor be the same on every device.
    """

    STRIDE = 4099

    def __init__(self):
        super().__init__()
        self.start = 0

    def construct(self, x: Tensor, kept: Tensor) -> Tensor:
        b = x.shape[0]
        count = x.size // b
        part = ops.Slice()(kept, (0, self.start), (b, count))
        return x * ops.cast(ops.reshape(part, x.shape), x.dtype)


class ScaleShiftResBlock(nn.Cell):
    """A residual block in which an embedding scales and shifts what has been normalised (BigGAN's).

    Args:
        embedding_networks: networks of two layers that the embedding goes through; None for a SiLU and one layer.
        over_frames: whether normalisations pool over the frames of a clip.
    """

    is_block = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int,
        embedding_networks: Optional[int] = None,
        over_frames: bool = False,
    ):
        super().__init__()
        self.over_frames, self.has_shortcut = over_frames, in_channels != out_channels
        self.has_networks = embedding_networks is not None
        self.norm1 = GroupNorm(in_channels, silu=True)
        self.conv1 = conv2d(in_channels, out_channels)
        if embedding_networks is not None:
            widths = [emb_dim] + [2 * out_channels] * embedding_networks
            self.emb_networks = nn.SequentialCell([EmbeddingMLP(i, i, o) for i, o in zip(widths, widths[1:])])
        else:
            self.emb_proj = Linear(emb_dim, 2 * out_channels)
        self.norm2, self.dropout = GroupNorm(out_channels), Dropout()
        self.conv2 = zero_init(conv2d(out_channels, out_channels))
        if self.has_shortcut:
            self.shortcut = conv2d(in_channels, out_channels, 1)

    def construct(self, x: Tensor, emb: Tensor, image_only: bool = False, kept: Optional[Tensor] = None) -> Tensor:
        """x [b t c h w], emb [b 1 e] or [b t e], what dropout keeps [b m] or None -> [b t c' h w]"""
        b, t, _, h, w = x.shape
        scale_shift = self.emb_networks(emb) if self.has_networks else self.emb_proj(ops.silu(emb))
        scale, shift = ops.chunk(ops.reshape(scale_shift, (b, -1, scale_shift.shape[-1], 1, 1)), 2, 2)
        over_frames = self.over_frames and not image_only
        y = per_image(self.conv1, normalised(self.norm1, x, over_frames))
        y = ops.silu(normalised(self.norm2, y, over_frames) * (1 + scale) + shift)
        if kept is not None:
            y = self.dropout(y, kept)
        x = fold_frames(x)
        y = self.conv2.add_to(self.shortcut(x) if self.has_shortcut else x, fold_frames(y))
        return ops.reshape(y, (b, t, -1, h, w))


class SpaceAttention(nn.Cell):
    """Attention over the pixels of each frame, and over the text if there is one, in one softmax."""

    is_block = True

    def __init__(self, channels: int, heads: int, context_dim: Optional[int] = None):
        super().__init__()
        self.heads, self.sees_text = heads, context_dim is not None
        self.norm = GroupNorm(channels)
        self.qkv = Linear(channels, 3 * channels)  # q, k and v of a head side by side
        if context_dim is not None:
            self.text_kv = Linear(context_dim, 2 * channels)
        self.attention = DotProductAttention(heads)
        self.proj_out, self.dropout = zero_init(Linear(channels, channels)), Dropout()
        self.swap = SwapAxes()

    def constants(self, context: Optional[Tensor]) -> tuple[Tensor, ...]:
        """Keys and values of the text [b n d], each [b n c]; none without text."""
        return by_heads(self.text_kv(context), self.heads, 2) if self.sees_text else ()

    def construct(self, x: Tensor, kept: Optional[Tensor], *text: Tensor) -> Tensor:
        """x [b t c h w], what dropout keeps [b m] or None, and the constants -> [b t c h w]"""
        b, t, c, h, w = x.shape
        y = self.swap(ops.reshape(self.norm(fold_frames(x)), (b * t, c, h * w)))
        q, k, v = by_heads(self.qkv(y), self.heads, 3)
        if self.sees_text:
            k, v = ops.cat((_per_frame(text[0], t), k), 1), ops.cat((_per_frame(text[1], t), v), 1)
        y = ops.reshape(self.swap(self.proj_out(self.attention(q, k, v))), x.shape)
        if kept is not None:
            y = self.dropout(y, kept)
        return x + y


def _table(*shape: int, name: str) -> Parameter:
    return Parameter(initializer(Normal(0.02), shape, ms.float32), name=name)


def _per_frame(x: Tensor, t: int) -> Tensor:
    """[b n c] -> [(b t) n c]"""
    b, n, c = x.shape
    return ops.reshape(ops.broadcast_to(ops.expand_dims(x, 1), (b, t, n, c)), (b * t, n, c))


class TimeAttention(nn.Cell):
    """Attention over the frames of each pixel."""

    is_temporal = True
    is_block = True

    def __init__(self, channels: int, heads: int, config: FactorisedAttention):
        super().__init__()
        self.heads, self.distance, self.reference = heads, config.distance, config.reference
        self.relative, d = config.positions == "relative", channels // heads
        self.norm = GroupNorm(channels)
        self.qkv = Linear(channels, 3 * channels)  # q, k and v of a head side by side
        if self.relative:
            self.keys = _table(heads, 2 * config.distance + 1, d, name="keys")
            self.values = _table(heads, 2 * config.distance + 1, d, name="values")
        else:
            self.buckets = Tensor(distance_buckets(config.distance))
            self.bias = _table(BUCKETS, heads, name="bias")
        self.proj_out, self.dropout = zero_init(Linear(channels, channels)), Dropout()
        self.swap = SwapAxes()

    def constants(self, independent: Optional[Tensor], num_frames: int) -> tuple[Tensor, ...]:
        """Positions: of keys and of values, each [heads t t d], or added to scores, [heads t t]. Then, if `independent`
        says which frames see themselves alone, Boolean [b t], what is hidden from whom, [b t t].
        """
        t = num_frames
        index = ops.reshape(distances(t, self.distance), (-1,))
        if self.relative:
            shape = (self.heads, t, t, -1)
            positions = (ops.reshape(ops.gather(self.keys, index, 1), shape),)
            if not self.reference:
                positions = positions + (ops.reshape(ops.gather(self.values, index, 1), shape),)
        else:
            bias = ops.gather(self.bias, ops.gather(self.buckets, index, 0), 0)
            positions = (ops.reshape(ops.transpose(bias, (1, 0)), (self.heads, t, t)),)
        return positions if independent is None else positions + (hidden_keys(independent),)

    def construct(self, x: Tensor, kept: Optional[Tensor], *constants: Tensor) -> Tensor:
        """x [b t c h w], what dropout keeps [b m] or None, and the constants -> [b t c h w]"""
        b, t, c, h, w = x.shape
        p = h * w
        if self.reference:  # normalised over the frames of a pixel
            y = ops.transpose(ops.reshape(x, (b, t, c, p)), (0, 3, 2, 1))
            y = ops.transpose(self.norm(ops.reshape(y, (b * p, c, t))), (0, 2, 1))
            qkv = ops.reshape(self.qkv(y), (b, p, t, 3 * c))
        else:
            y = self.swap(ops.reshape(self.norm(fold_frames(x)), (b * t, c, p)))
            qkv = self.swap(ops.reshape(self.qkv(y), (b, t, p, 3 * c)))
        y = self.swap(self.attend(qkv, *constants))
        y = ops.reshape(self.swap(ops.reshape(self.proj_out(y), (b * t, p, c))), x.shape)
        if kept is not None:
            y = self.dropout(y, kept)
        return x + y

    def attend(self, qkv: Tensor, *constants: Tensor) -> Tensor:
        """qkv [b p t 3c], and the constants -> [b p t c]"""
        b, p, t, c = qkv.shape
        c = c // 3
        d, heads = c // self.heads, self.heads
        parts = ops.Unstack(3)(ops.reshape(qkv, (b * p, t, heads, 3, d)))
        q, k, v = parts[0], ops.transpose(parts[1], (0, 2, 1, 3)), ops.transpose(parts[2], (0, 2, 1, 3))
        if not self.reference:
            q = ops.mul(q, d**-0.5)
        scores = ops.BatchMatMul(transpose_b=True)(ops.transpose(q, (0, 2, 1, 3)), k).astype(ms.float32)
        if self.relative:
            keys = in_type_of(q, constants[0])
            by_distance = ops.BatchMatMul(transpose_b=True)(ops.transpose(q, (2, 1, 0, 3)), keys)  # [heads t (b p) t]
            scores = scores + ops.transpose(by_distance, (2, 0, 1, 3)).astype(ms.float32)
        else:
            scores = scores + constants[0].astype(ms.float32)
        if constants[-1].dtype == ms.bool_:
            hidden = ops.mul(constants[-1].astype(ms.float32), MASKED)
            scores = ops.reshape(scores, (b, p * heads, t, t)) + ops.expand_dims(hidden, 1)
            scores = ops.reshape(scores, (b * p, heads, t, t))
        weights = ops.softmax(scores, -1).astype(v.dtype)
        y = ops.BatchMatMul()(weights, v)  # [(b p) heads t d]
        if self.reference:
            return ops.transpose(ops.reshape(y, (b, p, c, t)), (0, 1, 3, 2))
        if self.relative:
            by_distance = ops.BatchMatMul()(ops.transpose(weights, (1, 2, 0, 3)), in_type_of(v, constants[1]))
            y = y + ops.transpose(by_distance, (2, 0, 1, 3))
        return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (b, p, t, c))
