"""The blocks of Stable Video Diffusion (SVD, appendix D; VideoLDM, section 3.1)."""

from typing import Optional

from mindspore import nn

from svd.config import UNetConfig
from svd.layers.embeddings import EmbeddingMLP
from svd.layers.resblock import VideoResBlock
from svd.layers.transformer import VideoTransformer
from svd.networks.unet import Place, UNet


class SVDBlocks:
    """Residual blocks and transformers, each with a spatial branch, a temporal branch and their learned blend."""

    temporal_vector = False

    def __init__(self, config: UNetConfig):
        self.config, self.emb_dim = config, 4 * config.model_channels

    def vector_embedding(self) -> nn.Cell:
        """For fps, motion bucket and augmentation."""
        return EmbeddingMLP(self.config.vector_dim, self.emb_dim, self.emb_dim)

    def entry(self, channels: int) -> None:
        return None

    def residual(self, in_channels: int, channels: int, place: Place) -> nn.Cell:
        return VideoResBlock(in_channels, channels, self.emb_dim)

    def attention(self, channels: int, place: Place) -> Optional[nn.Cell]:
        if not place.attends:
            return None
        return VideoTransformer(channels, self.config.heads(channels), self.config.context_dim)


def svd_unet(config: UNetConfig) -> UNet:
    """The UNet of Stable Diffusion 2.1 with temporal layers in every block."""
    return UNet(config, SVDBlocks(config))
