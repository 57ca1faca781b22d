"""The blocks of ModelScope's text-to-video model (arXiv 2308.06571) and of ZeroScope, over Stable Diffusion's."""

from typing import Optional

from mindspore import nn

from svd.config import ModelScopeLayers, UNetConfig
from svd.layers.temporal import FollowedResBlock, FollowedTransformer, FrameConvolutions, FrameTransformer
from svd.networks.unet import Place


class ModelScopeBlocks:
    """Four convolutions over time after every residual block, a transformer over frames after every spatial one."""

    temporal_vector = False

    def __init__(self, config: UNetConfig, layers: ModelScopeLayers):
        self.config, self.layers = config, layers

    def vector_embedding(self) -> None:
        return None

    def entry(self, channels: int) -> nn.Cell:
        heads = self.layers.entry_heads
        return FrameTransformer(channels, heads * self.layers.num_head_channels, heads, pooled=True)

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        temporal = FrameConvolutions(channels, layers=4, residual=True)
        return FollowedResBlock(in_channels, channels, self.config, temporal)

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        if not place.attends:
            return None
        heads = channels // self.layers.num_head_channels
        return FollowedTransformer(channels, self.config, FrameTransformer(channels, channels, heads, pooled=True))
