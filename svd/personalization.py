"""Parts of a model taken from another checkpoint: the spatial layers of a personalised image model under the same
temporal layers (VideoLDM, arXiv 2304.08818), and the temporal decoder of Stable Video Diffusion.
"""

from __future__ import annotations

from dataclasses import replace

from mindspore import nn

from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ConfigError, ImageLDMConfig, LatentModel, Model, VideoLDMConfig
from svd.config.models import different_settings
from svd.config.networks import NOT_OF_WEIGHTS
from svd.layers.marks import spatial_parameters

_DECODER = "autoencoder.decoder"


def take_spatial(config: Model, checkpoint: Checkpoint, network: nn.Cell, other: Checkpoint) -> None:
    """Let a checkpoint read the spatial layers and the text encoder of another one from now on.

    Args:
        config: the model of the first one.
        network: its UNet; the marks of its layers say which are temporal.
        other: an image model of the same architecture, or a video model, whose temporal layers are left out.

    Raises:
        ConfigError: the model has no temporal layers.
        CheckpointError: the other one is of another architecture.
    """
    if not isinstance(config, VideoLDMConfig):
        problem = "the model has no temporal layers that could stay: give the other image model as checkpoint"
        raise ConfigError(f"spatial: {problem}", setting="spatial")
    if different := _different(config, other.config):
        raise CheckpointError(
            f"{other.path} has no spatial layers for {checkpoint.path}: {different[0]}", setting="spatial"
        )
    names = [f"network.{parameter.name}" for parameter in spatial_parameters(network)]
    checkpoint.take(other, [*names, *checkpoint.names("text_encoder")])


def _different(config: VideoLDMConfig, other: Model) -> list[str]:
    """The differences of another model's spatial layers, and of its latents, a line each."""
    if not isinstance(other, ImageLDMConfig):
        return ["it is no model that is given text"]
    different = different_settings("unet", other.unet, config.unet, NOT_OF_WEIGHTS)
    different += different_settings("text_encoder", other.text_encoder, config.text_encoder)
    if other.preconditioning != config.preconditioning:
        different.append(f"its preconditioning is {other.preconditioning}, not {config.preconditioning}")
    return different + _different_latents(config, other)


def _different_latents(config: LatentModel, other: LatentModel) -> list[str]:
    return different_settings("autoencoder", other.autoencoder, config.autoencoder, ("decoder",))


def take_decoder(config: Model, checkpoint: Checkpoint, other: Checkpoint) -> LatentModel:
    """Let a checkpoint read its decoder from another one, that of Stable Video Diffusion, from now on.

    Returns:
        The configuration with the temporal decoder.

    Raises:
        CheckpointError: the other one has no temporal decoder, or is of other latents, or either is of no latents.
    """
    for model, path in ((config, checkpoint.path), (other.config, other.path)):
        if not isinstance(model, LatentModel):
            raise CheckpointError(f"{path} is of a model in pixel space, which has no decoder", setting="decoder")
    if other.config.autoencoder.decoder != "temporal":
        raise CheckpointError(
            f"{other.path} decodes frame by frame: a temporal decoder is in the checkpoints of Stable Video Diffusion",
            setting="decoder",
        )
    if different := _different_latents(config, other.config):
        raise CheckpointError(
            f"{other.path} decodes other latents than those of {checkpoint.path}: {different[0]}", setting="decoder"
        )
    checkpoint.take(other, other.names(_DECODER))
    return replace(config, autoencoder=replace(config.autoencoder, decoder="temporal"))
