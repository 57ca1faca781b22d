"""Models in pixel space: Video Diffusion Models (arXiv 2204.03458) and their image models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mindspore import nn

from svd.config import VideoDiffusionConfig
from svd.diffusion.ancestral import preconditioning_of
from svd.diffusion.denoiser import Denoiser
from svd.models.part import Part
from svd.networks.lucidrains import LucidrainsUNet
from svd.networks.pixel_unet import PixelUNet
from svd.networks.split import Split
from svd.pipelines.video_diffusion import VideoDiffusion


def parts(config: VideoDiffusionConfig) -> tuple[Part, ...]:
    """The network."""
    return (Part("network", "the UNet", lambda: build_network(config)),)


def build_network(config: VideoDiffusionConfig) -> PixelUNet | LucidrainsUNet:
    if config.lucidrains is not None:
        return LucidrainsUNet(config.lucidrains)
    return PixelUNet(config.unet, config.temporal)


def pipeline(
    config: VideoDiffusionConfig,
    networks: Mapping[str, nn.Cell],
    free_memory: Callable[[], int],
    metadata: Mapping[str, str],
) -> VideoDiffusion:
    """Assemble loaded networks, by their prefixes; neither memory nor metadata matter."""
    network = networks["network"]
    null = network.null_vector.asnumpy()[0] if isinstance(network, LucidrainsUNet) and network.has_cond else None
    return VideoDiffusion(
        config, Denoiser(network, preconditioning_of(config.preconditioning, config.timesteps), Split(network)), null
    )
