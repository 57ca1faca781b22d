"""The network of lucidrains/video-diffusion-pytorch, for its checkpoints: a factorised space-time UNet with linear
attention within frames, and rotary embeddings and a bucketed bias over them.

Axes: b clips, t frames, p pixels of a frame, c channels, d channels of a head. Clips are [b t c h w] throughout.
"""

from typing import Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from svd.config.pixel_networks import LucidrainsConfig
from svd.layers.axes import per_image
from svd.layers.basic import GELU, Conv2d, GroupNorm, Linear, SwapAxes, conv2d, in_type_of
from svd.layers.embeddings import frequencies
from svd.layers.factorised import (
    BUCKETS,
    distance_buckets,
    distances,
    hidden_keys,
    normalised,
    time_embedding,
    time_frequencies,
)
from svd.operators.portable import MASKED

HEAD = 32
"""Channels of a head of attention within frames, and of the part of a head that positions rotate, at most."""
DISTANCE = 32
"""From which on distances are in the last bucket."""


class ChannelNorm(nn.Cell):
    """Layer normalisation over channels without a bias, [... c], in float32."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = Parameter(initializer("ones", (channels,), ms.float32), name="weight")
        self.norm = ops.LayerNorm(-1, -1, 1e-5)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(x.astype(ms.float32), self.weight, ops.zeros_like(self.weight))[0].astype(x.dtype)


class RMSNorm(nn.Cell):
    """x / |x| * sqrt(c) * weight, the norm over channels: [n c h w], in float32."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = Parameter(initializer("ones", (channels,), ms.float32), name="weight")
        self.root = channels**0.5

    def construct(self, x: Tensor) -> Tensor:
        y = x.astype(ms.float32)
        norm = ops.maximum(ops.sqrt(ops.ReduceSum(True)(ops.square(y), 1)), 1e-12)
        return (y / norm * ops.mul(ops.reshape(self.weight, (1, -1, 1, 1)), self.root)).astype(x.dtype)


class Block(nn.Cell):
    """Convolution, normalisation, SiLU; in between x (1 + scale) + shift, where they are given."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.proj = conv2d(in_channels, out_channels)
        self.over_frames = norm == "group"
        self.norm = GroupNorm(out_channels, groups=8) if norm == "group" else RMSNorm(out_channels)

    def construct(self, x: Tensor, scale_shift: Optional[tuple[Tensor, Tensor]] = None) -> Tensor:
        x = normalised(self.norm, per_image(self.proj, x), self.over_frames)
        if scale_shift is not None:
            x = x * (1 + scale_shift[0]) + scale_shift[1]
        return ops.silu(x)


class ResBlock(nn.Cell):
    """Two blocks, and a shortcut; the embedding [b e], if there is one, scales and shifts in the first."""

    is_block = True

    def __init__(self, in_channels: int, out_channels: int, norm: str, emb_dim: Optional[int] = None):
        super().__init__()
        self.has_emb, self.has_shortcut = emb_dim is not None, in_channels != out_channels
        if emb_dim is not None:
            self.emb_proj = Linear(emb_dim, 2 * out_channels)
        self.block1 = Block(in_channels, out_channels, norm)
        self.block2 = Block(out_channels, out_channels, norm)
        if self.has_shortcut:
            self.shortcut = conv2d(in_channels, out_channels, 1)

    def construct(self, x: Tensor, emb: Optional[Tensor] = None) -> Tensor:
        """x [b t c h w] -> [b t c' h w]"""
        if self.has_emb:
            emb = self.emb_proj(ops.silu(emb))
            y = self.block1(x, ops.chunk(ops.reshape(emb, (emb.shape[0], 1, -1, 1, 1)), 2, 2))
        else:
            y = self.block1(x)
        y = self.block2(y)
        return y + (per_image(self.shortcut, x) if self.has_shortcut else x)


class SpaceAttention(nn.Cell):
    """Attention over the pixels of each frame: linear (arXiv 1812.01243), or full."""

    is_block = True

    def __init__(self, channels: int, heads: int, linear: bool):
        super().__init__()
        self.heads, self.linear = heads, linear
        self.norm = ChannelNorm(channels)
        self.qkv = Linear(channels, 3 * heads * HEAD, bias=False)
        self.to_out = Linear(heads * HEAD, channels, bias=linear)
        self.swap = SwapAxes()

    def construct(self, x: Tensor) -> Tensor:
        """[b t c h w] -> [b t c h w]"""
        b, t, c, h, w = x.shape
        y = self.norm(self.swap(ops.reshape(x, (b * t, c, h * w))))
        qkv = ops.reshape(self.qkv(y), (b * t, h * w, 3, self.heads, HEAD))
        q, k, v = ops.Unstack(0)(ops.transpose(qkv, (2, 0, 3, 1, 4)).astype(ms.float32))  # [n heads p d]
        if self.linear:
            q, k = ops.mul(ops.softmax(q, -1), HEAD**-0.5), ops.softmax(k, -2)
            y = ops.BatchMatMul()(q, ops.BatchMatMul(transpose_a=True)(k, v))
        else:
            weights = ops.softmax(ops.BatchMatMul(transpose_b=True)(ops.mul(q, HEAD**-0.5), k), -1)
            y = ops.BatchMatMul()(weights, v)
        y = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (b * t, h * w, -1)).astype(x.dtype)
        return x + ops.reshape(self.swap(self.to_out(y)), x.shape)


class TimeAttention(nn.Cell):
    """Attention over the frames of each pixel, with rotary embeddings (arXiv 2104.09864) and a bias by distance."""

    is_temporal = True
    is_block = True

    def __init__(self, channels: int, heads: int, head_channels: int):
        super().__init__()
        self.heads, self.d, self.rotated = heads, head_channels, min(HEAD, head_channels)
        self.norm = ChannelNorm(channels)
        self.qkv = Linear(channels, 3 * heads * head_channels, bias=False)
        self.to_out = Linear(heads * head_channels, channels, bias=False)
        self.swap = SwapAxes()

    def construct(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, hidden: Optional[Tensor] = None) -> Tensor:
        """x [b t c h w], cos and sin of the angles [t r / 2], bias of scores [heads t t], and what is hidden from whom,
        Boolean [b t t] -> [b t c h w]
        """
        b, t, c, h, w = x.shape
        p = h * w
        y = self.swap(self.norm(ops.reshape(self.swap(ops.reshape(x, (b * t, c, p))), (b, t, p, c))))
        qkv = ops.reshape(self.qkv(y), (b * p, t, 3, self.heads, self.d)).astype(ms.float32)
        q, k, v = ops.Unstack(0)(ops.transpose(qkv, (2, 0, 3, 1, 4)))  # [(b p) heads t d]
        q, k = self._rotate(ops.mul(q, self.d**-0.5), cos, sin), self._rotate(k, cos, sin)
        scores = ops.BatchMatMul(transpose_b=True)(q, k) + bias
        if hidden is not None:
            scores = ops.reshape(scores, (b, p * self.heads, t, t))
            scores = scores + ops.expand_dims(ops.mul(hidden.astype(ms.float32), MASKED), 1)
            scores = ops.reshape(scores, (b * p, self.heads, t, t))
        y = ops.BatchMatMul()(ops.softmax(scores, -1), v)
        y = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (b, p, t, -1)).astype(x.dtype)
        y = ops.reshape(self.swap(self.to_out(y)), (b * t, p, c))
        return x + ops.reshape(self.swap(y), x.shape)

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate neighbouring channels of x [... t d] by the angles of their frame."""
        pairs = ops.reshape(x[..., : self.rotated], x.shape[:-1] + (self.rotated // 2, 2))
        first, second = ops.Unstack(x.ndim)(pairs)
        rotated = ops.Stack(x.ndim)((first * cos - second * sin, second * cos + first * sin))
        rotated = ops.reshape(rotated, x.shape[:-1] + (self.rotated,))
        return rotated if self.rotated == self.d else ops.cat((rotated, x[..., self.rotated :]), -1)


class Upsample(nn.Cell):
    """[n c h w] -> [n c 2h 2w]: a transposed convolution, kernel 4, stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = Parameter(initializer(Normal(0.02), (channels, channels, 4, 4), ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (channels,), ms.float32), name="bias")
        self.transposed = ops.Conv2DTranspose(channels, 4, pad_mode="pad", pad=(1, 1, 1, 1), stride=2)

    def construct(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.transposed(x, in_type_of(x, self.weight), (n, c, 2 * h, 2 * w))
        return y + ops.reshape(in_type_of(x, self.bias), (1, -1, 1, 1))


class Level(nn.Cell):
    """Two residual blocks, attention within frames (if any) and over them, resampling (if any)."""

    def __init__(self, config: LucidrainsConfig, in_channels: int, channels: int, resample: Optional[nn.Cell]):
        super().__init__()
        emb_dim = 4 * config.dim + (config.cond_dim or 0)
        self.resnets = nn.CellList([ResBlock(c, channels, config.norm, emb_dim) for c in (in_channels, channels)])
        self.spatial, self.resample = None, resample
        if config.use_sparse_linear_attn:
            self.spatial = SpaceAttention(channels, config.attn_heads, linear=True)
        self.temporal = TimeAttention(channels, config.attn_heads, config.attn_dim_head)

    def construct(self, x: Tensor, emb: Tensor, positions: tuple, image_only: bool) -> Tensor:
        """Before resampling: x [b t c h w], emb [b e] -> [b t c' h w]"""
        x = self.resnets[1](self.resnets[0](x, emb), emb)
        if self.spatial is not None:
            x = self.spatial(x)
        return x if image_only else self.temporal(x, *positions)


class LucidrainsUNet(nn.Cell):
    """F(x; c_noise, vector, independent): `construct`, or in two steps `constants` and `evaluate`."""

    def __init__(self, config: LucidrainsConfig):
        super().__init__()
        self.compute_dtype = ms.float32  # svd.placement sets it
        self.heads, self.reference, self.has_cond = config.attn_heads, config.reference, config.cond_dim is not None
        rotated = min(HEAD, config.attn_dim_head)
        self.buckets = Tensor(distance_buckets(DISTANCE))
        self.bias = Parameter(initializer(Normal(1.0), (BUCKETS, config.attn_heads), ms.float32), name="bias")
        self.rotary = Tensor(frequencies(rotated), ms.float32)
        if self.has_cond:
            self.null_vector = Parameter(initializer(Normal(1.0), (1, config.cond_dim), ms.float32), name="null_vector")

        dim, widths = config.dim, [config.dim * mult for mult in config.dim_mults]
        emb_dim = 4 * dim + (config.cond_dim or 0)
        self.frequencies = Tensor(time_frequencies(dim), ms.float32)
        self.time_linear_1, self.time_linear_2 = Linear(dim, 4 * dim), Linear(4 * dim, 4 * dim)
        self.gelu = GELU()
        self.conv_in = conv2d(config.channels, dim, config.init_kernel_size)
        self.temporal_in = TimeAttention(dim, config.attn_heads, config.attn_dim_head)
        inputs, down, up = [dim, *widths[:-1]], [], []
        for i, (in_channels, channels) in enumerate(zip(inputs, widths)):
            last = i == len(widths) - 1
            down.append(Level(config, in_channels, channels, None if last else _downsample(channels)))
            up.insert(0, Level(config, 2 * channels, in_channels, None if i == 0 else Upsample(in_channels)))
        self.down_blocks, self.up_blocks = nn.CellList(down), nn.CellList(up)
        middle = widths[-1]
        self.mid_resnets = nn.CellList([ResBlock(middle, middle, config.norm, emb_dim) for _ in range(2)])
        self.mid_spatial = SpaceAttention(middle, config.attn_heads, linear=False)
        self.mid_temporal = TimeAttention(middle, config.attn_heads, config.attn_dim_head)
        self.resnet_out = ResBlock(2 * dim, dim, config.norm)
        self.conv_out = conv2d(dim, config.channels, 1)

    def constants(
        self, context: None, vector: Optional[Tensor], num_frames: int, independent: Optional[Tensor] = None
    ) -> tuple:
        """What depends on neither x nor the noise level: the vector, if there is one; cosines and sines of rotations,
        the bias of scores, and what is hidden from whom, if `independent` is given.
        """
        index = ops.gather(self.buckets, ops.reshape(distances(num_frames, DISTANCE), (-1,)), 0)
        bias = ops.transpose(ops.gather(self.bias, index, 0), (1, 0))
        angles = ops.expand_dims(ops.arange(num_frames).astype(ms.float32), 1) * self.rotary
        positions = ops.cos(angles), ops.sin(angles), ops.reshape(bias, (self.heads, num_frames, num_frames))
        if independent is not None:
            positions = positions + (hidden_keys(independent),)
        return (vector.astype(self.compute_dtype),) if self.has_cond else (), positions

    def evaluate(self, x: Tensor, c_noise: Tensor, constants: tuple, image_only: bool = False) -> Tensor:
        """`construct`, given the result of `constants`."""
        out_dtype = x.dtype
        vector, positions = constants
        x = x.astype(self.compute_dtype)
        time = time_embedding(c_noise, self.frequencies).astype(self.compute_dtype)
        emb = self.time_linear_2(self.gelu(self.time_linear_1(ops.reshape(time, (x.shape[0], -1)))))
        if self.has_cond:
            emb = ops.cat((emb, vector[0]), 1)

        x = per_image(self.conv_in, x)
        if not image_only:
            x = self.temporal_in(x, *(positions[:3] if self.reference else positions))
        first, skips = x, ()
        for i in range(len(self.down_blocks)):
            x = self.down_blocks[i](x, emb, positions, image_only)
            skips = skips + (x,)
            if self.down_blocks[i].resample is not None:
                x = per_image(self.down_blocks[i].resample, x)
        x = self.mid_spatial(self.mid_resnets[0](x, emb))
        if not image_only:
            x = self.mid_temporal(x, *positions)
        x = self.mid_resnets[1](x, emb)
        for i in range(len(self.up_blocks)):
            x = self.up_blocks[i](ops.cat((x, skips[-1 - i]), 2), emb, positions, image_only)
            if self.up_blocks[i].resample is not None:
                x = per_image(self.up_blocks[i].resample, x)
        x = self.resnet_out(ops.cat((x, first), 2))
        return per_image(self.conv_out, x).astype(out_dtype)

    def construct(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: None = None,
        vector: Optional[Tensor] = None,
        image_only: bool = False,
        independent: Optional[Tensor] = None,
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            x: noisy videos [b t c h w].
            c_noise: timesteps [b].
            context: has no meaning here; it is what other networks take in this place.
            vector: the condition [b d], if the network has any; `null_vector` stands for none.
            image_only: leave the attention over frames out.
            independent: Boolean [b t], true for frames that attend to themselves alone; None for none.

        Returns:
            [b t c h w], in the type of x.
        """
        return self.evaluate(x, c_noise, self.constants(context, vector, x.shape[1], independent), image_only)


def _downsample(channels: int) -> Conv2d:
    """[n c h w] -> [n c h/2 w/2]: a convolution, kernel 4, stride 2."""
    return Conv2d(channels, channels, 4, stride=2, pad_mode="pad", padding=1, has_bias=True)
