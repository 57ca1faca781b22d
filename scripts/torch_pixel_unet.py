"""The factorised space-time UNet of Video Diffusion Models (arXiv 2204.03458) in PyTorch, as one would write it there:
what this project's is tested against, and timed against. Its parameters have this project's names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:  # in a benchmark this project is not imported beside PyTorch
    from svd.config.pixel_networks import PixelUNetConfig


def folded(layer, x: Tensor) -> Tensor:
    """A layer of images [n c h w] on every frame of [b t c h w]."""
    b, t = x.shape[:2]
    return layer(x.flatten(0, 1)).unflatten(0, (b, t))


class MLP(nn.Module):
    def __init__(self, in_dim: int, hidden: int, out_dim: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(in_dim, hidden), nn.Linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class ResBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, emb_dim: int, networks: int | None):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, in_channels), nn.Conv2d(in_channels, channels, 3, padding=1)
        if networks is None:
            self.emb_proj = nn.Linear(emb_dim, 2 * channels)
        else:
            widths = [emb_dim] + [2 * channels] * networks
            self.emb_networks = nn.Sequential(*(MLP(i, i, o) for i, o in zip(widths, widths[1:])))
        self.norm2, self.conv2 = nn.GroupNorm(32, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        told = self.emb_networks(emb) if hasattr(self, "emb_networks") else self.emb_proj(F.silu(emb))
        scale, shift = told[..., None, None].chunk(2, 2)
        y = folded(lambda x: self.conv1(F.silu(self.norm1(x))), x)
        y = folded(self.norm2, y) * (1 + scale) + shift
        return folded(self.shortcut, x) + folded(self.conv2, F.silu(y))


class SpaceAttention(nn.Module):
    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(32, channels)
        self.qkv, self.proj_out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = folded(self.norm, x).flatten(0, 1).flatten(2).transpose(1, 2)  # [(b t) p c]
        q, k, v = self.qkv(y).unflatten(2, (self.heads, -1)).transpose(1, 2).chunk(3, 3)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.proj_out(y).transpose(1, 2).reshape(x.shape)


class TimeAttention(nn.Module):
    """With relative positions of keys and values (arXiv 1803.02155)."""

    def __init__(self, channels: int, heads: int, distance: int):
        super().__init__()
        self.heads, self.distance, self.norm = heads, distance, nn.GroupNorm(32, channels)
        self.qkv, self.proj_out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.keys = nn.Parameter(torch.randn(heads, 2 * distance + 1, channels // heads))
        self.values = nn.Parameter(torch.randn(heads, 2 * distance + 1, channels // heads))

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        b, t, c, h, w = x.shape
        y = folded(self.norm, x).flatten(3).permute(0, 3, 1, 2).flatten(0, 1)  # [(b p) t c]
        q, k, v = self.qkv(y).unflatten(2, (self.heads, -1)).transpose(1, 2).chunk(3, 3)  # [(b p) heads t d]
        frames = torch.arange(t)
        index = (frames[None] - frames[:, None]).clamp(-self.distance, self.distance) + self.distance
        keys, values = self.keys[:, index], self.values[:, index]  # [heads t t d]
        q = q / math.sqrt(q.shape[-1])
        scores = q @ k.transpose(2, 3) + torch.einsum("nhid,hijd->nhij", q, keys)
        if hidden is not None:
            scores = scores.masked_fill(hidden.repeat_interleave(h * w, 0)[:, None], -math.inf)
        weights = scores.softmax(-1)
        y = weights @ v + torch.einsum("nhij,hijd->nhid", weights, values)
        y = self.proj_out(y.transpose(1, 2).flatten(2)).unflatten(0, (b, h * w))
        return x + y.permute(0, 2, 3, 1).reshape(x.shape)


class Spatial(nn.Module):
    """The layers of a place in the network: `spatial`, and `temporal` if there is one."""

    def __init__(self, spatial: nn.Module, temporal: nn.Module | None = None):
        super().__init__()
        self.spatial = spatial
        if temporal is not None:
            self.temporal = temporal


class Level(nn.Module):
    def __init__(
        self,
        config: PixelUNetConfig,
        distance: int | None,
        in_channels: list[int],
        channels: int,
        attends: bool,
        n: int,
    ):
        super().__init__()
        emb_dim, heads = 4 * config.model_channels, channels // config.num_head_channels
        self.resnets = nn.ModuleList(
            Spatial(ResBlock(i, channels, emb_dim, config.embedding_networks)) for i in in_channels
        )
        self.attentions = nn.ModuleList()
        for _ in range(n if attends else 0):
            over = TimeAttention(channels, heads, distance) if distance is not None else None
            self.attentions.append(Spatial(SpaceAttention(channels, heads), over))

    def layer(self, i: int, x: Tensor, emb: Tensor, hidden: Tensor | None) -> Tensor:
        x = self.resnets[i].spatial(x, emb)
        if i < len(self.attentions):
            x = self.attentions[i].spatial(x)
            if hasattr(self.attentions[i], "temporal"):
                x = self.attentions[i].temporal(x, hidden)
        return x


class TorchPixelUNet(nn.Module):
    """F(x [b t c h w], c_noise [b] or [b t], independent [b t]) -> [b t c h w], of this project's configuration.

    `distance` is the largest of frames that attention over them tells from smaller ones; None for no such attention.
    """

    def __init__(self, config: PixelUNetConfig, distance: int | None):
        super().__init__()
        dim, widths = config.model_channels, [mult * config.model_channels for mult in config.channel_mult]
        attends = [2**i in config.attention_resolutions for i in range(len(widths))]
        self.frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1))
        self.time_embedding = MLP(dim, 4 * dim, 4 * dim)
        self.conv_in = nn.Conv2d(config.channels, dim, 3, padding=1, bias=False)
        channels, count, skips = dim, config.num_res_blocks, [dim]
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            inputs = [channels] + [width] * (count - 1)
            self.down_blocks.append(Level(config, distance, inputs, width, attends[i], count))
            skips += [width] * (count if i == len(widths) - 1 else count + 1)
            channels = width
        self.mid_block = Level(config, distance, [channels, channels], channels, True, 1)
        for i in reversed(range(len(widths))):
            inputs = [c + skips.pop() for c in [channels] + [widths[i]] * count]
            channels = widths[i]
            self.up_blocks.append(Level(config, distance, inputs, channels, attends[i], count + 1))
        self.norm_out = nn.GroupNorm(32, channels)
        self.conv_out = nn.Conv2d(channels, config.channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, c_noise: Tensor, independent: Tensor | None = None) -> Tensor:
        angles = c_noise.reshape(len(x), -1, 1) * self.frequencies.to(x.dtype)
        emb = self.time_embedding(torch.cat((angles.sin(), angles.cos()), -1))
        hidden = None
        if independent is not None:
            either = independent[:, :, None] | independent[:, None]
            hidden = either & ~torch.eye(x.shape[1], dtype=torch.bool)
        x = folded(self.conv_in, x)
        skips, last = [x], len(self.down_blocks) - 1
        for number, level in enumerate(self.down_blocks):
            for i in range(len(level.resnets)):
                x = level.layer(i, x, emb, hidden)
                skips.append(x)
            if number < last:
                x = folded(lambda x: F.avg_pool2d(x, 2), x)
                skips.append(x)
        for i in range(2):
            x = self.mid_block.layer(i, x, emb, hidden)
        for number, level in enumerate(self.up_blocks):
            for i in range(len(level.resnets)):
                x = level.layer(i, torch.cat((x, skips.pop()), 2), emb, hidden)
            if number < last:
                x = folded(lambda x: F.interpolate(x, scale_factor=2.0), x)
        return folded(lambda x: self.conv_out(F.silu(self.norm_out(x))), x)
