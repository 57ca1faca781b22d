"""The blocks of Stable Diffusion (arXiv 2112.10752): frames, if there are several, are independent images."""

from typing import Optional

from mindspore import Tensor, nn

from svd.config import ImageLDMConfig, UNetConfig
from svd.layers.resblock import ResBlock, frame_by_frame
from svd.layers.transformer import SpatialTransformer
from svd.networks.unet import Place, UNet


class SpatialResBlock(nn.Cell):
    """A residual block of each frame."""

    is_block = True

    def __init__(self, in_channels: int, channels: int, emb_dim: int):
        super().__init__()
        self.spatial = ResBlock(in_channels, channels, emb_dim=emb_dim)

    def construct(self, x: Tensor, emb: Tensor, temporal_emb: Tensor, image_only: bool = False) -> Tensor:
        """x [b t c h w], emb [b t e] -> [b t c' h w]"""
        return frame_by_frame(self.spatial, x, emb)


class ImageBlocks:
    """Residual blocks and transformers without a temporal branch."""

    temporal_vector = False

    def __init__(self, config: UNetConfig):
        self.config, self.emb_dim = config, 4 * config.model_channels

    def vector_embedding(self) -> None:
        return None

    def entry(self, channels: int) -> None:
        return None

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        return SpatialResBlock(in_channels, channels, self.emb_dim)

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        if not place.attends:
            return None
        config = self.config
        return SpatialTransformer(channels, config.heads(channels), config.context_dim, config.upcast_attention)


def image_unet(config: ImageLDMConfig) -> UNet:
    """The UNet of Stable Diffusion 1 and 2."""
    return UNet(config.unet, ImageBlocks(config.unet))
