"""Upsamplers: Stable Diffusion's x4 upscaler, VideoLDM's over it (arXiv 2304.08818, 3.4), and those of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mindspore import nn

from svd.autoencoder.autoencoder import Autoencoder
from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.conditioning.low_resolution import LowResolutionConditioner
from svd.conditioning.text_conditioner import TextConditioner
from svd.conditioning.text_encoder import TextEncoder
from svd.conditioning.tokenizer import Tokenizer
from svd.config import UpsamplerConfig
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import DISCRETE_PRECONDITIONINGS, Preconditioning
from svd.diffusion.schedules import discrete_sigmas
from svd.models.part import Part
from svd.networks.blocks.upsampler import upsampler_unet
from svd.networks.split import Split
from svd.pipelines.upsample import Upsample


def parts(config: UpsamplerConfig) -> tuple[Part, ...]:
    """The networks; the autoencoder in float32, which its activations need."""
    found = [Part("network", "the UNet", lambda: upsampler_unet(config))]
    if config.text_encoder is not None:
        found.append(Part("text_encoder", "the text encoder", lambda: TextEncoder(config.text_encoder)))
    if config.autoencoder is not None:
        autoencoder = config.autoencoder
        found += [
            Part("autoencoder.encoder", "the encoder", lambda: Encoder(autoencoder, quant_conv=True), exact=True),
            Part("autoencoder.decoder", "the decoder", lambda: Decoder(autoencoder), exact=True),
        ]
    return tuple(found)


def build_preconditioning(config: UpsamplerConfig) -> Preconditioning:
    return DISCRETE_PRECONDITIONINGS[config.preconditioning](discrete_sigmas(config.schedule))


def build_conditioner(
    config: UpsamplerConfig, networks: Mapping[str, nn.Cell], metadata: Mapping[str, str]
) -> LowResolutionConditioner:
    """Raises TokenizerError as `pipeline`."""
    text = None
    if config.text_encoder is not None:
        text = TextConditioner(networks["text_encoder"], Tokenizer.of_checkpoint(metadata, config.text_encoder))
    return LowResolutionConditioner(config, text)


def pipeline(
    config: UpsamplerConfig,
    networks: Mapping[str, nn.Cell],
    free_memory: Callable[[], int],
    metadata: Mapping[str, str],
) -> Upsample:
    """Assemble loaded networks, by their prefixes.

    Raises:
        TokenizerError: the model is given text, and the tokenizer is not in the metadata, or not that of the text
            encoder.
    """
    network = networks["network"]
    denoiser = Denoiser(network, build_preconditioning(config), Split(network))
    autoencoder = None
    if config.autoencoder is not None:
        halves = (networks[f"autoencoder.{part}"] for part in ("encoder", "decoder"))
        autoencoder = Autoencoder(*halves, config.autoencoder)
    return Upsample(config, build_conditioner(config, networks, metadata), denoiser, autoencoder, free_memory)
