"""The UNet in pixel space: Video Diffusion Models' (arXiv 2204.03458), and an image model's with temporal layers or
without.
"""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig
from svd.layers.axes import per_image
from svd.layers.basic import Conv2d, GroupNorm, upsample_nearest
from svd.layers.blend import Blend, residual_blend
from svd.layers.embeddings import EmbeddingMLP
from svd.layers.factorised import (
    Dropout,
    ScaleShiftResBlock,
    SpaceAttention,
    TimeAttention,
    normalised,
    time_embedding,
    time_frequencies,
)
from svd.layers.marks import zero_init
from svd.layers.temporal import FrameConvolutions
from svd.networks.blocks.text_attention import TextAttention
from svd.networks.unet import Level, Place, count_constants


class Convolution(Conv2d):
    """A 3x3 convolution without bias over [n c h w], padded to keep the size."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, pad_mode="pad", padding=(1, 1, 1, 1), has_bias=False)

    def construct(self, x: Tensor) -> Tensor:
        return self.without_bias(x)


class Residual(nn.Cell):
    """A residual block of each frame; and a layer over frames [b t c h w] -> [b t c h w], blended with it."""

    def __init__(self, spatial: ScaleShiftResBlock, temporal: Optional[nn.Cell] = None, blend: Optional[Blend] = None):
        super().__init__()
        self.spatial, self.temporal, self.blend = spatial, temporal, blend

    def construct(self, x: Tensor, emb: Tensor, *kept_and_image_only) -> Tensor:
        """x [b t c h w], emb [b 1 e] or [b t e], what dropout keeps [b m] if there is any -> [b t c' h w]"""
        image_only = kept_and_image_only[-1]
        x = self.spatial(x, emb, image_only, *kept_and_image_only[:-1])
        return x if self.temporal is None or image_only else self.blend(x, self.temporal(x))


class Attentions(nn.Cell):
    """Attention within frames, and a layer over them (x [b t c h w], *constants) -> x; blended with it, or not."""

    def __init__(self, spatial: SpaceAttention, temporal: Optional[nn.Cell] = None, blend: Optional[Blend] = None):
        super().__init__()
        self.spatial, self.temporal, self.blend = spatial, temporal, blend
        self.of_space = 2 if spatial.sees_text else 0
        self.reads, self.drops = isinstance(temporal, TextAttention), False

    def constants(self, context: Optional[Tensor], independent: Optional[Tensor], num_frames: int) -> tuple:
        """Those of either layer."""
        constants = self.spatial.constants(context)
        if self.temporal is None:
            return constants
        return constants + self.temporal.constants(context if self.reads else independent, num_frames)

    def construct(self, x: Tensor, *constants_and_image_only) -> Tensor:
        """x [b t c h w], the constants, what dropout keeps [b m] if there is any, image_only -> [b t c h w]"""
        constants, kept = constants_and_image_only[self.of_space : -1], None
        if self.drops:
            constants, kept = constants[:-1], constants[-1]
        x = self.spatial(x, kept, *constants_and_image_only[: self.of_space])
        if self.temporal is None or constants_and_image_only[-1]:
            return x
        told = () if self.reads else (kept,)
        y = self.temporal(x, *told, *constants)
        return y if self.blend is None else self.blend(x, y)


class PixelBlocks:
    """What the ladder is made of."""

    def __init__(self, config: PixelUNetConfig, temporal: PixelTemporalConfig):
        self.config, self.temporal = config, temporal

    def residual(self, in_channels: int, channels: int, place: Place) -> Residual:
        emb_dim, networks = 4 * self.config.model_channels, self.config.embedding_networks
        spatial = ScaleShiftResBlock(in_channels, channels, emb_dim, networks, self.temporal.reference)
        if self.temporal.text_attention is not None:
            return Residual(spatial, FrameConvolutions(channels, 2, residual=False), Blend(clamped=True))
        if self.temporal.video_ldm is not None:
            return Residual(spatial, FrameConvolutions(channels, 2, residual=True), self._blend())
        return Residual(spatial)

    def attention(self, channels: int, place: Place) -> Optional[Attentions]:
        if not place.attends:
            return None
        heads, layers = channels // self.config.num_head_channels, self.temporal
        spatial = SpaceAttention(channels, heads, self.config.context_dim)
        if layers.text_attention is not None:
            reading = TextAttention(channels, layers.text_attention.heads, self.config.context_dim)
            return Attentions(spatial, reading, Blend(clamped=True))
        if layers.video_ldm is not None:
            form = FactorisedAttention(layers.video_ldm.positions, layers.video_ldm.distance)
            return Attentions(spatial, TimeAttention(channels, heads, form), self._blend())
        if layers.factorised is not None:
            return Attentions(spatial, TimeAttention(channels, heads, layers.factorised))
        return Attentions(spatial)

    def _blend(self) -> Blend:
        return residual_blend(self.temporal.video_ldm.alpha == "clamped")


class PixelUNet(nn.Cell):
    """F(x; c_noise, context, independent): `construct`, or in two steps `constants` and `evaluate`."""

    def __init__(self, config: PixelUNetConfig, temporal: PixelTemporalConfig):
        super().__init__()
        blocks = PixelBlocks(config, temporal)
        self.over_frames = temporal.reference
        self.only_frames = temporal.factorised.distance + 1 if temporal.reference else 0
        self.masks = temporal.factorised is not None and not temporal.reference
        widths = [mult * config.model_channels for mult in config.channel_mult]
        places = [Place(2**i in config.attention_resolutions) for i in range(len(widths))]
        self.last, self.widths, self.drops = len(widths) - 1, widths, False
        self.compute_dtype = ms.float32  # svd.placement sets it
        self.frequencies = Tensor(time_frequencies(config.model_channels), ms.float32)
        self.time_embedding = EmbeddingMLP(config.model_channels, *[4 * config.model_channels] * 2)
        self.conv_in = Convolution(config.channels, config.model_channels)

        channels, count = config.model_channels, config.num_res_blocks
        skips, down, up = [channels], [], []
        for i, width in enumerate(widths):
            down.append(Level(blocks, [channels] + [width] * (count - 1), width, places[i], followed=count))
            skips += [width] * (count if i == self.last else count + 1)
            channels = width
        self.down_blocks = nn.CellList(down)
        self.mid_block = Level(blocks, [channels, channels], channels, Place(attends=True, middle=True), followed=1)
        for i in reversed(range(len(widths))):
            in_channels = [c + skips.pop() for c in [channels] + [widths[i]] * count]
            channels = widths[i]
            up.append(Level(blocks, in_channels, channels, places[i], followed=count + 1))
        self.up_blocks = nn.CellList(up)
        count_constants([*down, self.mid_block, *up])
        self.norm_out = GroupNorm(channels, silu=True)
        self.conv_out = zero_init(Convolution(channels, config.channels))

    def constants(
        self, context: Optional[Tensor], vector: None, num_frames: int, independent: Optional[Tensor] = None
    ) -> tuple[tuple[Tensor, ...], ...]:
        """What depends on neither x nor the noise level: nothing of the vector, and of each attention block in turn."""
        if independent is not None and not self.masks:
            raise ValueError("frames can be independent in attention, not in convolutions and pooled normalisations")
        context = None if context is None else context.astype(self.compute_dtype)
        constants = ((),)
        for level in self.down_blocks:
            constants = constants + level.constants(context, independent, num_frames)
        constants = constants + self.mid_block.constants(context, independent, num_frames)
        for level in self.up_blocks:
            constants = constants + level.constants(context, independent, num_frames)
        return constants

    def drop(self) -> None:
        """From now on `evaluate` is told what dropout keeps; before the first graph is compiled."""
        self.drops = True
        places = [cell for _, cell in self.cells_and_names() if isinstance(cell, Dropout)]
        for number, cell in enumerate(places):
            cell.start = number * Dropout.STRIDE
        for _, cell in self.cells_and_names():
            if isinstance(cell, Attentions):
                cell.drops = True

    def kept_size(self, num_frames: int, height: int, width: int) -> int:
        """How many activations of a clip dropout is told of: those of its largest layer, and what layers are apart."""
        places = sum(isinstance(cell, Dropout) for _, cell in self.cells_and_names())
        pixels = [channels * (height >> i) * (width >> i) for i, channels in enumerate(self.widths)]
        return num_frames * max(pixels) + places * Dropout.STRIDE

    def evaluate(
        self, x: Tensor, c_noise: Tensor, constants: tuple, image_only: bool = False, kept: Optional[Tensor] = None
    ) -> Tensor:
        """`construct`, given the result of `constants`."""
        out_dtype = x.dtype
        over_frames = self.over_frames and not image_only
        if over_frames and x.shape[1] != self.only_frames:
            raise ValueError(f"a network with temporal.factorised.reference takes {self.only_frames} frames")
        x = x.astype(self.compute_dtype)
        embs = (self.time_embedding(time_embedding(c_noise, self.frequencies).astype(self.compute_dtype)),)
        if self.drops:
            kept = ops.cast(kept, self.compute_dtype)
            embs, told = embs + (kept,), (constants[0],)
            for constant in constants[1:]:
                told = told + (constant + (kept,),)
            constants = told

        x = per_image(self.conv_in, x)
        skips = (x,)
        for i in range(len(self.down_blocks)):
            level = self.down_blocks[i]
            for j in range(len(level.resnets)):
                x = level.layer(j, x, embs, constants, image_only)
                skips = skips + (x,)
            if i < self.last:
                x = per_image(halved, x)
                skips = skips + (x,)
        for j in range(len(self.mid_block.resnets)):
            x = self.mid_block.layer(j, x, embs, constants, image_only)
        for i in range(len(self.up_blocks)):
            level = self.up_blocks[i]
            for j in range(len(level.resnets)):
                x = level.layer(j, ops.cat((x, skips[-1]), 2), embs, constants, image_only)
                skips = skips[:-1]
            if i < self.last:
                x = per_image(upsample_nearest, x)
        return per_image(self.conv_out, normalised(self.norm_out, x, over_frames)).astype(out_dtype)

    def construct(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Optional[Tensor] = None,
        vector: None = None,
        image_only: bool = False,
        independent: Optional[Tensor] = None,
        kept: Optional[Tensor] = None,
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            x: noisy videos [b t c h w].
            c_noise: the noise level, 1000 u with u from 0 to 1, [b], or [b t] where frames differ.
            context: the text [b n d], if the network has any.
            vector: has no meaning here; it is what other networks take in this place.
            image_only: leave the temporal layers out: frames are then independent images.
            independent: Boolean [b t], true for frames that are images of their own, which attend to themselves alone
                (section 4.3.1 of the paper); None for none.
            kept: what dropout keeps, after `drop`: 0, or 1 / (1 - rate), [b m] with m of `kept_size`.

        Returns:
            [b t c h w], in the type of x.

        Raises:
            ValueError: the number of frames is another than xdiffusion's network was made for, or frames are to be
                independent in other layers than attention.
        """
        return self.evaluate(x, c_noise, self.constants(context, vector, x.shape[1], independent), image_only, kept)


def halved(x: Tensor) -> Tensor:
    """[n c h w] -> [n c h/2 w/2], means of four pixels."""
    return ops.AvgPool(2, 2)(x)
