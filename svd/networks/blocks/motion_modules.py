"""The blocks of AnimateDiff (arXiv 2307.04725): Stable Diffusion's, and motion modules after them at every level."""

from mindspore import Tensor, nn, ops

from svd.config import MotionModules, UNetConfig
from svd.layers.axes import fold_frames, over_frames, per_image
from svd.layers.basic import SwapAxes
from svd.layers.resblock import ResBlock, frame_by_frame
from svd.layers.temporal import FollowedTransformer, FrameTransformer
from svd.networks.blocks.image import ImageBlocks
from svd.networks.unet import Place


class JointResBlock(nn.Cell):
    """The image model's residual block, normalised over all frames."""

    is_block = True

    def __init__(self, in_channels: int, channels: int, emb_dim: int):
        super().__init__()
        self.spatial = ResBlock(in_channels, channels, emb_dim=emb_dim)
        self.swap = SwapAxes()

    def construct(self, x: Tensor, emb: Tensor, temporal_emb: Tensor, image_only: bool = False) -> Tensor:
        """x [b t c h w], emb [b t e] -> [b t c' h w]"""
        if image_only:
            return frame_by_frame(self.spatial, x, emb)
        b, t, c, h, w = x.shape
        layers = self.spatial
        y = per_image(layers.conv1, over_frames(layers.norm1, self.swap, x))
        y = over_frames(layers.norm2, self.swap, y, layers.emb_proj(emb))
        x = fold_frames(x)
        y = layers.conv2.add_to(layers.shortcut(x) if layers.has_shortcut else x, fold_frames(y))
        return ops.reshape(y, (b, t, -1, h, w))


class MotionModule(nn.Cell):
    """A motion module where the image model has no transformer."""

    is_block = True

    def __init__(self, temporal: FrameTransformer):
        super().__init__()
        self.temporal = temporal

    def constants(self, context: Tensor, temporal_context: Tensor, num_frames: int) -> tuple[Tensor]:
        """The positions [t c]."""
        return self.temporal.constants(temporal_context, num_frames)

    def construct(self, x: Tensor, positions: Tensor, image_only: bool = False) -> Tensor:
        """x [b t c h w] -> [b t c h w]"""
        return x if image_only else self.temporal(x, positions)


class MotionBlocks:
    """A motion module after every residual block and its transformer, if there is one; the middle's is optional."""

    temporal_vector = False

    def __init__(self, config: UNetConfig, layers: MotionModules):
        self.config, self.layers, self.image = config, layers, ImageBlocks(config)

    def vector_embedding(self) -> None:
        return None

    def entry(self, channels: int) -> None:
        return None

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        if not self.layers.joint_resnet_norm:
            return self.image.residual(in_channels, channels, place)
        return JointResBlock(in_channels, channels, 4 * self.config.model_channels)

    def attention(self, channels: int, place: Place) -> nn.Cell:
        if place.middle and not self.layers.middle:
            return self.image.attention(channels, place)
        layers = self.layers
        temporal = FrameTransformer(channels, channels, layers.heads, layers.norm == "clip", layers.max_frames)
        return FollowedTransformer(channels, self.config, temporal) if place.attends else MotionModule(temporal)
