"""The UNet: a ladder of levels with skip connections. Its blocks decide what it is made of."""

from typing import Optional, Protocol

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.config import UNetConfig
from svd.layers.axes import per_image
from svd.layers.basic import GroupNorm, Upsample, conv2d
from svd.layers.embeddings import EmbeddingMLP, frequencies, sinusoidal_embedding
from svd.layers.marks import zero_init


class Blocks(Protocol):
    """Factory of a UNet's blocks; with `image_only`, blocks treat frames as independent images."""

    def vector_embedding(self) -> Optional[nn.Cell]:
        """A network from the vector [b v] to what is added to the noise level's embedding, [b e]; or None."""

    def residual(self, in_channels: int, channels: int) -> nn.Cell:
        """A block (x [b t c h w], emb [b t e] after its SiLU, image_only) -> [b t c' h w]."""

    def attention(self, channels: int, attends: bool) -> Optional[nn.Cell]:
        """The block after a residual block: (x, *constants, image_only) -> x, or None.

        Its `constants(context, num_frames)` are a tuple of tensors, which depend on neither x nor the noise level.
        `attends`: whether the level is one of the configuration's attention_resolutions, or the middle.
        """


class Downsample(nn.Cell):
    """[n c h w] -> [n c h/2 w/2]: a 3x3 convolution with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv2d(channels, channels, stride=2)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Level(nn.Cell):
    """The blocks of one resolution: residual blocks, of which the first `followed` are followed by attention."""

    def __init__(self, blocks: Blocks, in_channels: list[int], channels: int, attends: bool, followed: int):
        super().__init__()
        self.resnets = nn.CellList([blocks.residual(c, channels) for c in in_channels])
        attentions = [blocks.attention(channels, attends) for _ in range(followed)]
        self.num_attentions = 0 if None in attentions else len(attentions)
        if self.num_attentions:
            self.attentions = nn.CellList(attentions)

    def constants(self, context: Tensor, num_frames: int) -> tuple[tuple[Tensor, ...], ...]:
        """The constants of each attention block."""
        constants = ()
        for i in range(self.num_attentions):
            constants = constants + (self.attentions[i].constants(context, num_frames),)
        return constants

    def layer(self, i: int, x: Tensor, emb: Tensor, constants: tuple[tuple[Tensor, ...], ...], image_only: bool):
        """The i-th residual block, and the attention after it."""
        x = self.resnets[i](x, emb, image_only)
        if i < self.num_attentions:
            x = self.attentions[i](x, *constants[i], image_only)
        return x


class UNet(nn.Cell):
    """F(x; c_noise, context, vector): `construct`, or in two steps `constants` and `evaluate`."""

    def __init__(self, config: UNetConfig, blocks: Blocks):
        super().__init__()
        emb_dim = 4 * config.model_channels
        widths = [mult * config.model_channels for mult in config.channel_mult]
        attends = [2**i in config.attention_resolutions for i in range(len(widths))]
        self.last = len(widths) - 1
        self.compute_dtype = ms.float32  # svd.placement sets it
        self.frequencies = Tensor(frequencies(config.model_channels), ms.float32)
        self.time_embedding = EmbeddingMLP(config.model_channels, emb_dim, emb_dim)
        self.vector_embedding = blocks.vector_embedding()
        self.conv_in = conv2d(config.in_channels, config.model_channels)

        channels, count = config.model_channels, config.num_res_blocks
        skips, down, up = [channels], [], []
        for i, width in enumerate(widths):
            down.append(Level(blocks, [channels] + [width] * (count - 1), width, attends[i], followed=count))
            skips += [width] * count
            if i < self.last:
                down[i].downsample = Downsample(width)
                skips.append(width)
            channels = width
        self.down_blocks = nn.CellList(down)
        self.mid_block = Level(blocks, [channels, channels], channels, True, followed=1)

        for i in reversed(range(len(widths))):
            in_channels = [c + skips.pop() for c in [channels] + [widths[i]] * count]
            channels = widths[i]
            up.append(Level(blocks, in_channels, channels, attends[i], followed=count + 1))
            if i > 0:
                up[-1].upsample = Upsample(channels)
        self.up_blocks = nn.CellList(up)
        self.norm_out = GroupNorm(channels, silu=True)
        self.conv_out = zero_init(conv2d(channels, config.out_channels))

    def constants(self, context: Tensor, vector: Optional[Tensor], num_frames: int) -> tuple:
        """What depends on neither latents nor noise level: of the vector, the down levels, the middle, the up levels.

        At most one tensor [b e] of the vector; of each level a tuple per attention block.
        """
        context = context.astype(self.compute_dtype)
        embedded, down, up = (), (), ()
        if self.vector_embedding is not None:
            embedded = (self.vector_embedding(vector.astype(self.compute_dtype)),)
        for level in self.down_blocks:
            down = down + (level.constants(context, num_frames),)
        middle = self.mid_block.constants(context, num_frames)
        for level in self.up_blocks:
            up = up + (level.constants(context, num_frames),)
        return embedded, down, middle, up

    def evaluate(self, x: Tensor, c_noise: Tensor, constants: tuple, image_only: bool = False) -> Tensor:
        """`construct`, given the result of `constants`."""
        out_dtype, dtype = x.dtype, self.compute_dtype
        b, t = x.shape[:2]
        embedded, down, middle, up = constants
        x = x.astype(dtype)
        time = sinusoidal_embedding(ops.reshape(c_noise, (b, -1)), self.frequencies).astype(dtype)
        emb = self.time_embedding(time)
        if self.vector_embedding is not None:
            emb = emb + embedded[0].expand_dims(1)
        emb = ops.silu(emb).broadcast_to((b, t, emb.shape[-1]))

        x = per_image(self.conv_in, x)
        skips = (x,)
        for i in range(len(self.down_blocks)):
            level = self.down_blocks[i]
            for j in range(len(level.resnets)):
                x = level.layer(j, x, emb, down[i], image_only)
                skips = skips + (x,)
            if i < self.last:
                x = per_image(level.downsample, x)
                skips = skips + (x,)
        for j in range(len(self.mid_block.resnets)):
            x = self.mid_block.layer(j, x, emb, middle, image_only)
        for i in range(len(self.up_blocks)):
            level = self.up_blocks[i]
            for j in range(len(level.resnets)):
                x = level.layer(j, ops.cat((x, skips[-1]), 2), emb, up[i], image_only)
                skips = skips[:-1]
            if i < self.last:
                x = per_image(level.upsample, x)
        return per_image(self.conv_out, per_image(self.norm_out, x)).astype(out_dtype)

    def construct(
        self, x: Tensor, c_noise: Tensor, context: Tensor, vector: Optional[Tensor] = None, image_only: bool = False
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            x: scaled noisy latents, and what is concatenated to their channels, [b t c h w].
            c_noise: the noise level, [b], or [b t] where frames differ.
            context: what cross-attention sees, [b n d].
            vector: embedded numbers, [b v], if the blocks have an embedding for it.
            image_only: leave the temporal layers out (alpha = 1): frames are then independent images.

        Returns:
            [b t c' h w], in the type of x.
        """
        return self.evaluate(x, c_noise, self.constants(context, vector, x.shape[1]), image_only)
