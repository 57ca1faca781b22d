"""The spatio-temporal UNet of Stable Video Diffusion (SVD, appendix D; VideoLDM, section 3.1)."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.config import UNetConfig
from svd.layers.axes import per_image
from svd.layers.basic import GroupNorm, Upsample, conv2d
from svd.layers.embeddings import EmbeddingMLP, frequencies, sinusoidal_embedding
from svd.layers.marks import zero_init
from svd.layers.resblock import VideoResBlock
from svd.layers.transformer import VideoTransformer


class Downsample(nn.Cell):
    """[n c h w] -> [n c h/2 w/2]: a 3x3 convolution with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv2d(channels, channels, stride=2)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _residual_blocks(config: UNetConfig, in_channels: list[int], channels: int) -> nn.CellList:
    emb_dim = 4 * config.model_channels
    return nn.CellList([VideoResBlock(c, channels, emb_dim) for c in in_channels])


def _transformers(config: UNetConfig, count: int, channels: int) -> nn.CellList:
    return nn.CellList([VideoTransformer(channels, config.num_head_channels, config.context_dim) for _ in range(count)])


def _constants(attentions: nn.CellList, context: Tensor, num_frames: int) -> tuple[Tensor, ...]:
    """Three of each transformer, one after the other."""
    constants = ()
    for attention in attentions:
        constants = constants + attention.constants(context, num_frames)
    return constants


class DownBlock(nn.Cell):
    """A level of the way down; hands every intermediate result to the way up."""

    def __init__(self, config: UNetConfig, in_channels: int, channels: int, attention: bool, downsample: bool):
        super().__init__()
        count = config.num_res_blocks
        self.has_attention, self.has_downsample = attention, downsample
        self.num_constants = 3 * count * attention
        self.resnets = _residual_blocks(config, [in_channels] + [channels] * (count - 1), channels)
        if attention:
            self.attentions = _transformers(config, count, channels)
        if downsample:
            self.downsample = Downsample(channels)

    def constants(self, context: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        return _constants(self.attentions, context, num_frames) if self.has_attention else ()

    def construct(self, x: Tensor, emb: Tensor, constants: tuple[Tensor, ...], image_only: bool):
        skips = ()
        for i in range(len(self.resnets)):
            x = self.resnets[i](x, emb, image_only)
            if self.has_attention:
                x = self.attentions[i](x, *constants[3 * i : 3 * i + 3], image_only)
            skips = skips + (x,)
        if self.has_downsample:
            x = per_image(self.downsample, x)
            skips = skips + (x,)
        return x, skips


class MidBlock(nn.Cell):
    """The lowest level: residual block, transformer, residual block."""

    def __init__(self, config: UNetConfig, channels: int):
        super().__init__()
        self.resnets = _residual_blocks(config, [channels, channels], channels)
        self.attentions = _transformers(config, 1, channels)
        self.num_constants = 3

    def constants(self, context: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        return _constants(self.attentions, context, num_frames)

    def construct(self, x: Tensor, emb: Tensor, constants: tuple[Tensor, ...], image_only: bool) -> Tensor:
        x = self.resnets[0](x, emb, image_only)
        x = self.attentions[0](x, *constants, image_only)
        return self.resnets[1](x, emb, image_only)


class UpBlock(nn.Cell):
    """A level of the way up; takes one result of the way down for each of its residual blocks."""

    def __init__(self, config: UNetConfig, in_channels: list[int], channels: int, attention: bool, upsample: bool):
        super().__init__()
        self.has_attention, self.has_upsample = attention, upsample
        self.num_constants = 3 * len(in_channels) * attention
        self.resnets = _residual_blocks(config, in_channels, channels)
        if attention:
            self.attentions = _transformers(config, len(in_channels), channels)
        if upsample:
            self.upsample = Upsample(channels)

    def constants(self, context: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        return _constants(self.attentions, context, num_frames) if self.has_attention else ()

    def construct(self, x: Tensor, skips, emb: Tensor, constants: tuple[Tensor, ...], image_only: bool) -> Tensor:
        for i in range(len(self.resnets)):
            x = self.resnets[i](ops.cat((x, skips[-1 - i]), 2), emb, image_only)
            if self.has_attention:
                x = self.attentions[i](x, *constants[3 * i : 3 * i + 3], image_only)
        if self.has_upsample:
            x = per_image(self.upsample, x)
        return x


class VideoUNet(nn.Cell):
    """F(x; c_noise, context, vector): the UNet of Stable Diffusion 2.1 with temporal layers in every block."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        emb_dim = 4 * config.model_channels
        widths = [mult * config.model_channels for mult in config.channel_mult]
        attention = [2**i in config.attention_resolutions for i in range(len(widths))]
        last = len(widths) - 1
        self.compute_dtype = ms.float32  # svd.placement sets it
        self.frequencies = Tensor(frequencies(config.model_channels), ms.float32)
        self.time_embedding = EmbeddingMLP(config.model_channels, emb_dim, emb_dim)
        self.vector_embedding = EmbeddingMLP(config.vector_dim, emb_dim, emb_dim)
        self.conv_in = conv2d(config.in_channels, config.model_channels)

        channels = config.model_channels
        skips = [channels]
        down = []
        for i, width in enumerate(widths):
            down.append(DownBlock(config, channels, width, attention[i], downsample=i < last))
            skips += [width] * (config.num_res_blocks + (i < last))
            channels = width
        self.down_blocks = nn.CellList(down)
        self.mid_block = MidBlock(config, channels)

        up = []
        for i in reversed(range(len(widths))):
            in_channels = []
            for _ in range(config.num_res_blocks + 1):
                in_channels.append(channels + skips.pop())
                channels = widths[i]
            up.append(UpBlock(config, in_channels, channels, attention[i], upsample=i > 0))
        self.up_blocks = nn.CellList(up)
        self.skips_per_block = config.num_res_blocks + 1
        self.norm_out = GroupNorm(channels, silu=True)
        self.conv_out = zero_init(conv2d(channels, config.out_channels))

    def constants(self, context: Tensor, vector: Tensor, num_frames: int) -> tuple[Tensor, ...]:
        """What does not depend on latents and noise level: the embedded vector [b e], and three of each transformer."""
        context = context.astype(self.compute_dtype)
        constants = (self.vector_embedding(vector.astype(self.compute_dtype)),)
        for block in self.down_blocks:
            constants = constants + block.constants(context, num_frames)
        constants = constants + self.mid_block.constants(context, num_frames)
        for block in self.up_blocks:
            constants = constants + block.constants(context, num_frames)
        return constants

    def evaluate(self, x: Tensor, c_noise: Tensor, constants: tuple[Tensor, ...], image_only: bool = False) -> Tensor:
        """`construct` with the rest of its inputs as `constants` gives them."""
        out_dtype, dtype = x.dtype, self.compute_dtype
        b, t = x.shape[:2]
        x = x.astype(dtype)
        time = sinusoidal_embedding(ops.reshape(c_noise, (b, -1)), self.frequencies).astype(dtype)
        emb = self.time_embedding(time) + constants[0].expand_dims(1)
        emb = ops.silu(emb).broadcast_to((b, t, emb.shape[-1]))
        constants = constants[1:]

        x = per_image(self.conv_in, x)
        skips = (x,)
        for block in self.down_blocks:
            x, more = block(x, emb, constants[: block.num_constants], image_only)
            skips, constants = skips + more, constants[block.num_constants :]
        x = self.mid_block(x, emb, constants[: self.mid_block.num_constants], image_only)
        constants = constants[self.mid_block.num_constants :]
        for block in self.up_blocks:
            x = block(x, skips[-self.skips_per_block :], emb, constants[: block.num_constants], image_only)
            skips, constants = skips[: -self.skips_per_block], constants[block.num_constants :]
        return per_image(self.conv_out, per_image(self.norm_out, x)).astype(out_dtype)

    def construct(
        self, x: Tensor, c_noise: Tensor, context: Tensor, vector: Tensor, image_only: bool = False
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            x: scaled noisy latents and, after them, the latents of the conditioning image, [b t c h w].
            c_noise: the noise level, [b], or [b t] where frames differ.
            context: what cross-attention sees, [b n d].
            vector: embedded fps, motion bucket and augmentation, [b v].
            image_only: leave the temporal layers out (alpha = 1): frames are then independent images.

        Returns:
            [b t c' h w], in the type of x.
        """
        return self.evaluate(x, c_noise, self.constants(context, vector, x.shape[1]), image_only)
