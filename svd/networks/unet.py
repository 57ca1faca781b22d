"""The UNet: a ladder of levels with skip connections. Its blocks decide what it is made of."""

from dataclasses import dataclass
from typing import Optional, Protocol

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.config import UNetConfig
from svd.layers.axes import over_frames, per_image
from svd.layers.basic import GroupNorm, SwapAxes, Upsample, conv2d
from svd.layers.embeddings import EmbeddingMLP, frequencies, sinusoidal_embedding
from svd.layers.marks import zero_init


@dataclass(frozen=True)
class Place:
    """Where a block is in the ladder."""

    attends: bool
    """Whether the level is one of the configuration's attention_resolutions, or the middle."""
    middle: bool = False
    factor: int = 1
    """Down-sampling factor of the level."""


class Blocks(Protocol):
    """Factory of a UNet's blocks; with `image_only`, blocks treat frames as independent images."""

    temporal_vector: bool
    """Whether the vector is for temporal layers alone."""

    def vector_embedding(self) -> Optional[nn.Cell]:
        """A network from the vector [b v] to what is added to the noise level's embedding, [b e]; or None."""

    def entry(self, channels: int) -> Optional[nn.Cell]:
        """A temporal layer, x [b t c h w] -> x, after the first convolution; or None."""

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        """A block (x [b t c h w], emb, temporal_emb, image_only) -> [b t c' h w].

        emb is the embedding of the noise level for spatial layers, temporal_emb for temporal ones, [b t e] after SiLU.
        Where frames are given, features of them follow, [b t f h w].
        """

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        """The block after a residual block: (x, *constants, image_only) -> x, or None.

        Its `constants(context, temporal_context, num_frames)` are a tuple of tensors, which depend on neither x nor the
        noise level.
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

    def __init__(self, blocks: Blocks, in_channels: list[int], channels: int, place: Place, followed: int):
        super().__init__()
        self.resnets = nn.CellList([blocks.residual(c, channels, place) for c in in_channels])
        attentions = [blocks.attention(channels, place) for _ in range(followed)]
        self.num_attentions = 0 if None in attentions else len(attentions)
        if self.num_attentions:
            self.attentions = nn.CellList(attentions)
        self.before = 0
        """How many constants of the network come before this level's; `count_constants` sets it."""

    def constants(self, context: Tensor, temporal_context: Tensor, num_frames: int) -> tuple[tuple[Tensor, ...], ...]:
        """The constants of each attention block."""
        constants = ()
        for i in range(self.num_attentions):
            constants = constants + (self.attentions[i].constants(context, temporal_context, num_frames),)
        return constants

    def layer(
        self, i: int, x: Tensor, embs: tuple[Tensor, Tensor], constants: tuple, image_only: bool, given: tuple = ()
    ) -> Tensor:
        """The i-th residual block, and the attention after it, given the constants of the network.

        `given` has the features of given frames at this level, if there are any.
        """
        x = self.resnets[i](x, *embs, image_only, *given)
        if i < self.num_attentions:
            x = self.attentions[i](x, *constants[self.before + i], image_only)
        return x


def count_constants(levels: list[Level]) -> None:
    """Tell every level which of the network's constants are its own: the first are the vector's, then each level's."""
    before = 1
    for level in levels:
        level.before = before
        before += level.num_attentions


class UNet(nn.Cell):
    """F(x; c_noise, context, vector, temporal_context, frames, frames_noise): `construct`, or in two steps `constants`
    and `evaluate`.

    Args:
        joint_norm_out: normalise the result over all frames of a clip, not every frame by itself.
        given_frames: (frames, frames_noise) -> what is added to the temporal embedding, [b t e], and features for
            each level's residual blocks, [b t f h w]; None for networks that are given no frames.
    """

    def __init__(
        self,
        config: UNetConfig,
        blocks: Blocks,
        joint_norm_out: bool = False,
        given_frames: Optional[nn.Cell] = None,
    ):
        super().__init__()
        self.joint_norm_out, self.given_frames = joint_norm_out, given_frames
        emb_dim = 4 * config.model_channels
        widths = [mult * config.model_channels for mult in config.channel_mult]
        places = [Place(2**i in config.attention_resolutions, factor=2**i) for i in range(len(widths))]
        self.last = len(widths) - 1
        self.compute_dtype = ms.float32  # svd.placement sets it
        self.frequencies = Tensor(frequencies(config.model_channels), ms.float32)
        self.time_embedding = EmbeddingMLP(config.model_channels, emb_dim, emb_dim)
        self.vector_embedding, self.temporal_vector = blocks.vector_embedding(), blocks.temporal_vector
        self.count_vector = int(self.vector_embedding is not None)
        self.conv_in = conv2d(config.in_channels, config.model_channels)
        self.entry = blocks.entry(config.model_channels)

        channels, count = config.model_channels, config.num_res_blocks
        self.count = count
        skips, down, up = [channels], [], []
        for i, width in enumerate(widths):
            down.append(Level(blocks, [channels] + [width] * (count - 1), width, places[i], followed=count))
            skips += [width] * count
            if i < self.last:
                down[i].downsample = Downsample(width)
                skips.append(width)
            channels = width
        self.down_blocks = nn.CellList(down)
        self.mid_block = Level(blocks, [channels, channels], channels, Place(attends=True, middle=True), followed=1)

        for i in reversed(range(len(widths))):
            in_channels = [c + skips.pop() for c in [channels] + [widths[i]] * count]
            channels = widths[i]
            up.append(Level(blocks, in_channels, channels, places[i], followed=count + 1))
            if i > 0:
                up[-1].upsample = Upsample(channels)
        self.up_blocks = nn.CellList(up)
        count_constants([*down, self.mid_block, *up])
        self.swap = SwapAxes()
        self.norm_out = GroupNorm(channels, silu=True)
        self.conv_out = zero_init(conv2d(channels, config.out_channels))

    def constants(
        self,
        context: Tensor,
        vector: Optional[Tensor],
        num_frames: int,
        temporal_context: Optional[Tensor] = None,
        frames: Optional[Tensor] = None,
        frames_noise: Optional[Tensor] = None,
    ) -> tuple[tuple[Tensor, ...], ...]:
        """What depends on neither latents nor noise level: of the vector, and of each attention block in turn.

        The first has at most one tensor [b e] of the vector; then those of `given_frames`, if frames are given.
        """
        context = ops.cast(context, self.compute_dtype)
        of_time = context if temporal_context is None else ops.cast(temporal_context, self.compute_dtype)
        constants = ((),)
        if self.vector_embedding is not None:
            constants = ((self.vector_embedding(ops.cast(vector, self.compute_dtype)),),)
        if frames is not None:
            given = (ops.cast(frames, self.compute_dtype), ops.cast(frames_noise, self.compute_dtype))
            constants = (constants[0] + self.given_frames(*given),)
        for level in self.down_blocks:
            constants = constants + level.constants(context, of_time, num_frames)
        constants = constants + self.mid_block.constants(context, of_time, num_frames)
        for level in self.up_blocks:
            constants = constants + level.constants(context, of_time, num_frames)
        return constants

    def evaluate(self, x: Tensor, c_noise: Tensor, constants: tuple, image_only: bool = False) -> Tensor:
        """`construct`, given the result of `constants`."""
        given = self.embedded(x, c_noise, constants, image_only)
        skips = (self.entered(x, image_only),)
        for i in range(len(self.down_blocks)):
            skips = self.descend(i, self.count + 1, skips, given)
        h = self.middle(skips[-1], given)
        for i in range(len(self.up_blocks)):
            h, skips = self.ascend(i, 0, self.count + 1, h, skips, given)
        return self.output(h, image_only, x.dtype)

    # The steps of `evaluate`, of which some can be left out (svd.networks.reuse). `given` is what all blocks are given.

    def embedded(self, x: Tensor, c_noise: Tensor, constants: tuple, image_only: bool) -> tuple:
        """What blocks are given: the embeddings for spatial and for temporal layers, constants, image_only, and the
        features of given frames by level.
        """
        b, t = x.shape[:2]
        time = sinusoidal_embedding(ops.reshape(c_noise, (b, -1)), self.frequencies)
        time = self.time_embedding(ops.cast(time, self.compute_dtype))
        return self._embeddings(time, constants[0], t), constants, image_only, constants[0][self.count_vector + 1 :]

    def entered(self, x: Tensor, image_only: bool) -> Tensor:
        """The input of the first level, which is the first skip."""
        x = per_image(self.conv_in, ops.cast(x, self.compute_dtype))
        if self.entry is not None and not image_only:
            x = self.entry(x)
        return x

    def descend(self, i: int, n: int, skips: tuple[Tensor, ...], given: tuple) -> tuple[Tensor, ...]:
        """The first n steps of the i-th level on the way down, residual blocks and then its downsampling, from the last
        skip: each adds one.
        """
        level, (embs, constants, image_only, features) = self.down_blocks[i], given
        for j in range(min(n, self.count)):
            skips = skips + (level.layer(j, skips[-1], embs, constants, image_only, features[i : i + 1]),)
        if n > self.count and i < self.last:
            skips = skips + (per_image(level.downsample, skips[-1]),)
        return skips

    def middle(self, x: Tensor, given: tuple) -> Tensor:
        embs, constants, image_only, features = given
        for j in range(len(self.mid_block.resnets)):
            x = self.mid_block.layer(j, x, embs, constants, image_only, features[self.last :])
        return x

    def ascend(
        self, i: int, first: int, stop: int, x: Tensor, skips: tuple, given: tuple
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The residual blocks from `first` to before `stop` of the i-th level on the way up, and its upsampling after
        the last of them: each takes a skip.
        """
        level, (embs, constants, image_only, features) = self.up_blocks[i], given
        for j in range(first, stop):
            of_level = features[self.last - i : self.last - i + 1]
            x = level.layer(j, ops.cat((x, skips[-1]), 2), embs, constants, image_only, of_level)
            skips = skips[:-1]
        if stop > self.count and i < self.last:
            x = per_image(level.upsample, x)
        return x, skips

    def output(self, x: Tensor, image_only: bool, dtype: ms.Type) -> Tensor:
        """What the last level gives -> [b t c' h w] of this type."""
        if self.joint_norm_out and not image_only:
            x = over_frames(self.norm_out, self.swap, x)
        else:
            x = per_image(self.norm_out, x)
        return ops.cast(per_image(self.conv_out, x), dtype)

    def _embeddings(self, emb: Tensor, embedded: tuple[Tensor, ...], num_frames: int) -> tuple[Tensor, Tensor]:
        """The embeddings for spatial and for temporal layers, after SiLU, [b t e]: of the noise level, and `embedded`,
        of the vector and of given frames.
        """
        shape = (emb.shape[0], num_frames, emb.shape[-1])
        if len(embedded) > self.count_vector:
            temporal = emb + embedded[self.count_vector]
            if self.count_vector:
                temporal = temporal + embedded[0].expand_dims(1)
            return ops.silu(emb).broadcast_to(shape), ops.silu(temporal).broadcast_to(shape)
        if self.vector_embedding is None:
            spatial = ops.silu(emb).broadcast_to(shape)
            temporal = spatial
        else:
            temporal = ops.silu(emb + embedded[0].expand_dims(1)).broadcast_to(shape)
            spatial = ops.silu(emb).broadcast_to(shape) if self.temporal_vector else temporal
        return spatial, temporal

    def construct(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        vector: Optional[Tensor] = None,
        image_only: bool = False,
        temporal_context: Optional[Tensor] = None,
        frames: Optional[Tensor] = None,
        frames_noise: Optional[Tensor] = None,
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            x: scaled noisy latents, and what is concatenated to their channels, [b t c h w].
            c_noise: the noise level, [b], or [b t] where frames differ.
            context: what cross-attention sees, [b n d].
            vector: embedded numbers, [b v], if the blocks have an embedding for it.
            image_only: leave the temporal layers out (alpha = 1): frames are then independent images.
            temporal_context: what cross-attention in temporal layers sees, [b n d]; the context, if None.
            frames: latents of given frames, zero for the others, and a mask that is 1 for the given ones,
                [b t c+1 h w]; or None, which is the same as none given.
            frames_noise: embedded levels of the noise in given frames, zero for the others, [b t d].

        Returns:
            [b t c' h w], in the type of x.
        """
        constants = self.constants(context, vector, x.shape[1], temporal_context, frames, frames_noise)
        return self.evaluate(x, c_noise, constants, image_only)
