"""Stable Diffusion: text to image (arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mindspore import nn

from svd.autoencoder.autoencoder import Autoencoder
from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.conditioning.conditioning import Labels
from svd.conditioning.text_conditioner import TextConditioner
from svd.conditioning.text_encoder import TextEncoder
from svd.conditioning.tokenizer import Tokenizer
from svd.config import ImageLDMConfig
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import DISCRETE_PRECONDITIONINGS
from svd.diffusion.schedules import discrete_sigmas
from svd.models.part import Part
from svd.networks.blocks.image import image_unet
from svd.networks.split import Split
from svd.pipelines.text_to_video import TextToVideo


def parts(config: ImageLDMConfig) -> tuple[Part, ...]:
    """The networks."""
    return text_parts(config, lambda: image_unet(config))


def text_parts(config: ImageLDMConfig, build_unet: Callable[[], nn.Cell]) -> tuple[Part, ...]:
    """The networks of a model that is given text, with this UNet."""
    autoencoder = config.autoencoder
    return (
        Part("network", "the UNet", build_unet),
        Part("text_encoder", "the text encoder", lambda: TextEncoder(config.text_encoder)),
        Part("autoencoder.encoder", "the encoder", lambda: Encoder(autoencoder, quant_conv=True), exact=True),
        Part("autoencoder.decoder", "the decoder", lambda: Decoder(autoencoder)),
    )


def pipeline(
    config: ImageLDMConfig,
    networks: Mapping[str, nn.Cell],
    free_memory: Callable[[], int],
    metadata: Mapping[str, str],
) -> TextToVideo:
    """Assemble loaded networks, by their prefixes.

    Raises:
        TokenizerError: the tokenizer is not in the metadata, or not that of the text encoder.
    """
    network = networks["network"]
    preconditioning = DISCRETE_PRECONDITIONINGS[config.preconditioning](discrete_sigmas(config.schedule))
    denoiser = Denoiser(network, preconditioning, Split(network))
    autoencoder = Autoencoder(networks["autoencoder.encoder"], networks["autoencoder.decoder"], config.autoencoder)
    conditioner = build_conditioner(config, networks, metadata)
    return TextToVideo(config, conditioner, denoiser, autoencoder, free_memory)


def build_conditioner(
    config: ImageLDMConfig, networks: Mapping[str, nn.Cell], metadata: Mapping[str, str]
) -> TextConditioner:
    """Raises TokenizerError as `pipeline`."""
    tokenizer = Tokenizer.of_checkpoint(metadata, config.text_encoder)
    of_time = networks.get("temporal_text_encoder")
    return TextConditioner(networks["text_encoder"], tokenizer, of_time, Labels(config))
