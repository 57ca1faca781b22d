"""The blocks of VideoLDM (arXiv 2304.08818, section 3.1), and the UNet of every kind of temporal layers."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from svd.config import (
    ModelScopeLayers,
    MotionModules,
    TextAttentionLayers,
    UNetConfig,
    VideoLDMConfig,
    VideoLDMLayers,
)
from svd.layers.attention import TransformerBlock
from svd.layers.axes import per_image
from svd.layers.basic import GroupNorm, Linear, SwapAxes, conv2d
from svd.layers.blend import residual_blend
from svd.layers.embeddings import EmbeddingMLP, frequencies
from svd.layers.marks import temporal, zero_init
from svd.layers.resblock import VideoResBlock
from svd.layers.temporal import FrameBlock, frame_positions
from svd.layers.transformer import add_tokens, tokens_of
from svd.networks.blocks.modelscope import ModelScopeBlocks
from svd.networks.blocks.motion_modules import MotionBlocks
from svd.networks.blocks.text_attention import TextAttentionBlocks
from svd.networks.unet import Place, UNet


class VideoLDMTransformer(nn.Cell):
    """The image model's transformer, blended with attention over the frames of each pixel, of its tokens."""

    is_block = True

    def __init__(self, channels: int, unet: UNetConfig, layers: VideoLDMLayers):
        super().__init__()
        heads = unet.heads(channels)
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.spatial = TransformerBlock(channels, heads, unet.context_dim, upcast=unet.upcast_attention)
        text_dim = unet.context_dim if layers.text else None
        self.temporal = FrameBlock(channels, heads, context_dim=text_dim, distance=layers.distance)
        zero_init(self.temporal.attn1.to_out)
        zero_init(self.temporal.ff.proj_out)
        if layers.text:
            zero_init(self.temporal.attn2.to_out)
        self.frequencies = Tensor(frequencies(channels), ms.float32)
        self.blend = residual_blend(layers.alpha == "clamped")
        self.proj_out = zero_init(Linear(channels, channels))
        self.swap = SwapAxes()

    def constants(self, context: Tensor, temporal_context: Tensor, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """The context of both branches; and positions, absolute [t c] or relative [1 heads t t]."""
        if self.temporal.relative:
            positions = self.temporal.positions(num_frames)
        else:
            positions = frame_positions(num_frames, self.frequencies).astype(context.dtype)
        return self.spatial.constant(context), temporal_context, positions

    def construct(
        self, x: Tensor, of_space: Tensor, text: Tensor, positions: Tensor, image_only: bool = False
    ) -> Tensor:
        """x [b t c h w], and the constants -> [b t c h w]"""
        y = self.spatial(tokens_of(x, self.norm, self.swap, self.proj_in), of_space)
        if not image_only:
            y = self.blend(y, self.swap(self.temporal(self.swap(y), positions, text)))
        return add_tokens(x, y, self.proj_out, self.swap)


class GivenFrames(nn.Cell):
    """Given frames for the temporal layers, by a learned downsampling to the resolution of each level (section 3.2).

    No layer has a bias: where no frames are given, all results are zero.
    """

    is_temporal = True

    def __init__(self, unet: UNetConfig):
        super().__init__()
        widths = [mult * unet.model_channels for mult in unet.channel_mult]
        emb_dim = 4 * unet.model_channels
        self.noise_1 = Linear(unet.model_channels, emb_dim, bias=False)
        self.noise_2 = Linear(emb_dim, emb_dim, bias=False)
        convs = []
        for i, (before, width) in enumerate(zip([unet.in_channels + 1, *widths], widths)):
            convs.append(conv2d(before, width, stride=2 if i else 1, bias=False))
        self.convs = nn.CellList(convs)

    def construct(self, frames: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """(mask * latents, mask) [b t c+1 h w], and the embedded level of their noise [b t d] -> that level for the
        temporal embedding [b t e], and features [b t f h w] for each level of the UNet.
        """
        results = (self.noise_2(ops.silu(self.noise_1(noise))),)
        for conv in self.convs:
            frames = ops.silu(per_image(conv.without_bias, frames))
            results = results + (frames,)
        return results


class VideoLDMBlocks:
    """Convolutions over time after residual blocks, attention over frames after transformers, each blended."""

    temporal_vector = True

    def __init__(self, config: UNetConfig, layers: VideoLDMLayers):
        self.config, self.layers, self.emb_dim = config, layers, 4 * config.model_channels

    def vector_embedding(self) -> Optional[nn.Cell]:
        """For the numbers that temporal layers are told, each as model_channels sinusoids."""
        if not self.layers.told:
            return None
        return temporal(EmbeddingMLP(self.layers.told * self.config.model_channels, self.emb_dim, self.emb_dim))

    def entry(self, channels: int) -> None:
        return None

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        frames_dim = channels if self.layers.frames else None  # features are as wide as their level
        clamped = self.layers.alpha == "clamped"
        return VideoResBlock(in_channels, channels, self.emb_dim, clamped=clamped, frames_dim=frames_dim)

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        return VideoLDMTransformer(channels, self.config, self.layers) if place.attends else None


BLOCKS = {
    VideoLDMLayers: VideoLDMBlocks,
    MotionModules: MotionBlocks,
    ModelScopeLayers: ModelScopeBlocks,
    TextAttentionLayers: TextAttentionBlocks,
}
"""The blocks of each kind of temporal layers."""


def video_unet(config: VideoLDMConfig) -> UNet:
    """The UNet of Stable Diffusion with the temporal layers of the configuration's choice."""
    layers = config.temporal.layers
    joint_norm = isinstance(layers, MotionModules) and layers.joint_resnet_norm
    given = GivenFrames(config.unet) if isinstance(layers, VideoLDMLayers) and layers.frames else None
    return UNet(config.unet, BLOCKS[type(layers)](config.unet, layers), joint_norm, given)
