"""VideoLDM's UNet in PyTorch, as functions of our parameters: what no other program has is computed from the formulas.

arXiv 2304.08818: convolutions over time and attention over frames, blended with the spatial layers by a learned alpha;
given frames through a learned downsampling into the temporal residual blocks.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from svd.config import UNetConfig


class Weights:
    """Parameters by names below a prefix."""

    def __init__(self, values: Mapping[str, Tensor], prefix: str = ""):
        self.values, self.prefix = values, prefix

    def __getitem__(self, name: str) -> "Weights":
        return Weights(self.values, f"{self.prefix}{name}.")

    def get(self, name: str) -> Tensor | None:
        return self.values.get(self.prefix + name)

    def __contains__(self, name: str) -> bool:
        return any(key.startswith(f"{self.prefix}{name}.") for key in self.values)

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get("weight"), self.get("bias"))

    def group_norm(self, x: Tensor, eps: float = 1e-5) -> Tensor:
        return F.group_norm(x, 32, self.get("weight"), self.get("bias"), eps)

    def layer_norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.get("weight"), self.get("bias"))

    def conv(self, x: Tensor, stride: int = 1) -> Tensor:
        """Over [n c h w], or over the frames of [b c t h w] with a kernel that has a third axis."""
        weight = self.get("weight")
        if x.ndim == 5:
            return F.conv3d(x, weight.unsqueeze(-1), self.get("bias"), padding=(weight.shape[2] // 2, 0, 0))
        return F.conv2d(x, weight, self.get("bias"), stride, [size // 2 for size in weight.shape[2:]])


def sinusoids(x: Tensor, dim: int) -> Tensor:
    """[...] -> [... dim]: cosines, then sines"""
    angles = x[..., None] * 10000.0 ** (-torch.arange(dim // 2) / (dim // 2))
    return torch.cat((angles.cos(), angles.sin()), -1)


def embedding(w: Weights, x: Tensor) -> Tensor:
    return w["linear_2"].linear(F.silu(w["linear_1"].linear(x)))


def blend(w: Weights, spatial: Tensor, temporal: Tensor) -> Tensor:
    alpha = w.get("mix_factor").sigmoid()
    return alpha * spatial + (1 - alpha) * temporal


def residual(w: Weights, x: Tensor, emb: Tensor) -> Tensor:
    """x [n c ...], emb [n ... e] with axes of length 1, or as long as those of x"""
    h = w["conv1"].conv(F.silu(w["norm1"].group_norm(x)))
    shift = w["emb_proj"].linear(F.silu(emb))
    h = h + shift.movedim(-1, 1)
    h = w["conv2"].conv(F.silu(w["norm2"].group_norm(h)))
    return (w["shortcut"].conv(x) if "shortcut" in w else x) + h


def video_residual(w: Weights, x: Tensor, emb: Tensor, temporal_emb: Tensor, frames: Tensor | None) -> Tensor:
    """x [b t c h w], emb [b e], temporal_emb [b t e], frames [b t f h w]"""
    b, t = x.shape[:2]
    per_frame = emb.repeat_interleave(t, 0)[:, None, None]
    spatial = residual(w["spatial"], x.flatten(0, 1), per_frame).unflatten(0, (b, t))
    y = spatial
    if frames is not None:
        y = y + w["frames_proj"].conv(frames.flatten(0, 1)).unflatten(0, (b, t))
    y = residual(w["temporal"], y.transpose(1, 2), temporal_emb[:, :, None, None]).transpose(1, 2)
    return blend(w["blend"], spatial, y)


def attention(w: Weights, x: Tensor, context: Tensor, heads: int) -> Tensor:
    q, k, v = (w[name].linear(y).unflatten(-1, (heads, -1)).transpose(-3, -2)
               for name, y in (("to_q", x), ("to_k", context), ("to_v", context)))  # fmt: skip
    return w["to_out"].linear(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))


def feed_forward(w: Weights, x: Tensor) -> Tensor:
    value, gate = w["proj_in"].linear(x).chunk(2, -1)
    return w["proj_out"].linear(value * F.gelu(gate))


def transformer(w: Weights, x: Tensor, context: Tensor, heads: int) -> Tensor:
    """x [b t c h w], context [b n d]"""
    b, t, c, h, width = x.shape
    y = w["norm"].group_norm(x.flatten(0, 1), 1e-6).flatten(2).transpose(1, 2)
    y = w["proj_in"].linear(y)  # [(b t) p c]
    s = w["spatial"]
    normed = s["norm1"].layer_norm(y)
    y = y + attention(s["attn1"], normed, normed, heads)
    y = y + attention(s["attn2"], s["norm2"].layer_norm(y), context.repeat_interleave(t, 0), heads)
    y = y + feed_forward(s["ff"], s["norm3"].layer_norm(y))

    of_time, m = y.unflatten(0, (b, t)).transpose(1, 2), w["temporal"]  # [b p t c]
    angles = torch.arange(t)[:, None] * 10000.0 ** (-torch.arange(c // 2) / (c // 2))
    positions = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)
    normed = m["norm1"].layer_norm(of_time) + positions
    of_time = of_time + attention(m["attn1"], normed, normed, heads)
    of_time = of_time + feed_forward(m["ff"], m["norm3"].layer_norm(of_time))
    y = blend(w["blend"], y, of_time.transpose(1, 2).flatten(0, 1))
    return x + w["proj_out"].linear(y).transpose(1, 2).reshape(x.shape)


def unet(
    values: Mapping[str, Tensor],
    config: UNetConfig,
    x: Tensor,
    c_noise: Tensor,
    context: Tensor,
    vector: Tensor | None,
    frames: Tensor | None,
    frames_noise: Tensor | None,
) -> Tensor:
    """The whole network, for two levels or more with one residual block each."""
    w, dim, last = Weights(values), config.model_channels, len(config.channel_mult) - 1
    emb = embedding(w["time_embedding"], sinusoids(c_noise, dim))
    temporal_emb = emb[:, None] + torch.zeros(x.shape[1], 1)
    if vector is not None:
        temporal_emb = temporal_emb + embedding(w["vector_embedding"], vector)[:, None]
    features = [None] * (last + 1)
    if frames is not None:
        g = w["given_frames"]
        temporal_emb = temporal_emb + g["noise_2"].linear(F.silu(g["noise_1"].linear(frames_noise)))
        for i in range(last + 1):
            folded = g[f"convs.{i}"].conv(frames.flatten(0, 1), 2 if i else 1)
            features[i] = frames = F.silu(folded).unflatten(0, x.shape[:2])

    def per_frame(layer, x: Tensor, *options) -> Tensor:
        return layer(x.flatten(0, 1), *options).unflatten(0, x.shape[:2])

    def level(w: Weights, i: int, j: int, x: Tensor) -> Tensor:
        x = video_residual(w[f"resnets.{j}"], x, emb, temporal_emb, features[i])
        if f"attentions.{j}" in w:
            x = transformer(w[f"attentions.{j}"], x, context, config.num_heads)
        return x

    x = per_frame(w["conv_in"].conv, x)
    skips = [x]
    for i in range(last + 1):
        x = level(w[f"down_blocks.{i}"], i, 0, x)
        skips.append(x)
        if i < last:
            x = per_frame(w[f"down_blocks.{i}.downsample.conv"].conv, x, 2)
            skips.append(x)
    for j in range(2):
        x = level(w["mid_block"], last, j, x)
    for i in reversed(range(last + 1)):
        block = w[f"up_blocks.{last - i}"]
        for j in range(2):
            x = level(block, i, j, torch.cat((x, skips.pop()), 2))
        if i > 0:
            x = per_frame(lambda y: F.interpolate(y, scale_factor=2), x)
            x = per_frame(block["upsample.conv"].conv, x)
    return per_frame(lambda y: w["conv_out"].conv(F.silu(w["norm_out"].group_norm(y))), x)
