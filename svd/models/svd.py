"""Stable Video Diffusion: image to video (arXiv 2311.15127)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from mindspore import nn

from svd.autoencoder.autoencoder import Autoencoder, autoencoder_part
from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.conditioning.conditioner import Conditioner
from svd.conditioning.image_encoder import ImageEncoder
from svd.config import ModelConfig
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.models.part import Part
from svd.networks.blocks.svd import svd_unet
from svd.networks.split import Split
from svd.pipelines.image_to_video import ImageToVideo


def parts(config: ModelConfig) -> tuple[Part, ...]:
    """The networks; the conditioner has an autoencoder of its own (Stable Diffusion's) beside that of the first stage.

    The encoders see one image per video: float32 there costs nothing and keeps the latents exact. A file that diffusers
    wrote has a single encoder; one of the temporal model has the image decoder in the conditioner's autoencoder.
    """
    autoencoder, image = config.autoencoder, replace(config.autoencoder, decoder="image")
    frame_wise = autoencoder == image
    return (
        Part("network", "the UNet", lambda: svd_unet(config.unet)),
        Part("conditioner.image_encoder", "the image encoder", lambda: ImageEncoder(config.image_encoder)),
        Part("conditioner.autoencoder.encoder", "the conditioner's encoder",
             lambda: Encoder(autoencoder, quant_conv=True), exact=True),
        Part("autoencoder.encoder", "the encoder", lambda: Encoder(autoencoder, quant_conv=frame_wise), exact=True,
             optional="the encoder of the first stage", stand_in="conditioner.autoencoder.encoder"),
        Part("autoencoder.decoder", "the decoder", lambda: Decoder(autoencoder),
             stand_in="conditioner.autoencoder.decoder" if frame_wise else ""),
        Part("conditioner.autoencoder.decoder", "the conditioner's decoder", lambda: Decoder(image), spare=True,
             optional="the decoder of the conditioner's autoencoder"),
    )  # fmt: skip


def pipeline(
    config: ModelConfig,
    networks: Mapping[str, nn.Cell],
    free_memory: Callable[[], int],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> ImageToVideo:
    """Assemble loaded networks, by their prefixes; nothing of the metadata is needed."""
    network = networks["network"]
    denoiser = Denoiser(network, PRECONDITIONINGS[config.preconditioning], Split(network))
    conditioner, autoencoder = build_conditioner(config, networks), build_autoencoder(config, networks)
    return ImageToVideo(config, conditioner, denoiser, autoencoder, free_memory)


def build_conditioner(config: ModelConfig, networks: Mapping[str, nn.Cell]) -> Conditioner:
    return Conditioner(
        networks["conditioner.image_encoder"],
        networks["conditioner.autoencoder.encoder"],
        config.image_encoder.image_size,
        config.unet.vector_dim,
    )


def build_autoencoder(config: ModelConfig, networks: Mapping[str, nn.Cell]) -> Autoencoder:
    encoder, decoder = (networks[autoencoder_part(networks, part)] for part in ("encoder", "decoder"))
    return Autoencoder(encoder, decoder, config.autoencoder)
