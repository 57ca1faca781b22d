"""From configuration to objects: the only place where a `kind` becomes a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Optional

import mindspore as ms
from mindspore import Parameter, nn
from mindspore.nn.utils import no_init_parameters

from svd import runtime
from svd.autoencoder.autoencoder import Autoencoder
from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.checkpoint import CheckpointError, holds, load_parameters, read_config
from svd.conditioning.conditioner import Conditioner
from svd.conditioning.image_encoder import ImageEncoder
from svd.config import ModelConfig, dump_config, load_config
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.networks.video_unet import VideoUNet
from svd.pipelines.image_to_video import ImageToVideo
from svd.pipelines.preview import Preview
from svd.precision import AmpLevel, compute_dtype, set_precision
from svd.training.checkpoint import TrainState
from svd.training.config import EnvironmentConfig, TrainConfig
from svd.training.distributed import Ranks
from svd.training.image_to_video import ImageToVideoTask
from svd.training.trainer import Trainer

TASKS = {"image_to_video": ImageToVideoTask}


def build_networks(config: ModelConfig) -> dict[str, nn.Cell]:
    """The networks that turn an image into a video, by the prefix of their parameters in a checkpoint.

    Parameters have shapes but neither values nor memory until they are loaded.
    """
    with no_init_parameters():
        return {
            "network": VideoUNet(config.unet),
            "conditioner.image_encoder": ImageEncoder(config.image_encoder),
            "conditioner.autoencoder.encoder": Encoder(config.autoencoder, quant_conv=True),
            "autoencoder.encoder": Encoder(config.autoencoder, quant_conv=config.autoencoder.decoder == "image"),
            "autoencoder.decoder": Decoder(config.autoencoder),
        }


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that a checkpoint can hold: the networks, and the image decoder that comes with them."""
    networks = build_networks(config)
    with no_init_parameters():
        networks["conditioner.autoencoder.decoder"] = Decoder(replace(config.autoencoder, decoder="image"))
    return {
        f"{prefix}.{parameter.name}": tuple(parameter.shape)
        for prefix, network in networks.items()
        for parameter in network.get_parameters()
    }


def load_pipeline(
    config: Optional[str | Path | ModelConfig] = None,
    checkpoint: str | Path = "",
    device_target: str = "auto",
    mode: int = 0,
    amp_level: AmpLevel = "auto",
) -> ImageToVideo:
    """Build an image-to-video pipeline and load its weights.

    Args:
        config: a YAML file or a ModelConfig; what the checkpoint says of itself if None.
        checkpoint: a file that svd_tools/convert.py wrote.
        device_target: Ascend, GPU, CPU, or auto for the best one that is there.
        mode: 0 for graph mode, 1 for pynative.
        amp_level: O0 for float32, O2 for float16 inside the networks, bf16 for bfloat16 (Ascend), auto for O2 on Ascend
            and O0 elsewhere.

    Raises:
        RuntimeSetupError: versions or device do not fit.
        ConfigError: the configuration cannot be used.
        CheckpointError: the checkpoint cannot be used, or is of another model.
    """
    device = runtime.setup(device_target, mode)
    return _load(config, checkpoint, device, amp_level, trained=lambda network: [])


def _load(
    config: Optional[str | Path | ModelConfig],
    checkpoint: str | Path,
    device: str,
    amp_level: AmpLevel,
    trained: Callable[[VideoUNet], list[Parameter]],
) -> ImageToVideo:
    """`load_pipeline` on a device that is set up, with a UNet of which some parameters are to be trained."""
    if not checkpoint:
        raise CheckpointError("no checkpoint was given: the weights, as svd_tools/convert.py writes them")
    if config is None:
        config = read_config(checkpoint)
    elif not isinstance(config, ModelConfig):
        config = load_config(config)
    networks = build_networks(config)
    if not holds(checkpoint, "autoencoder.encoder."):
        del networks["autoencoder.encoder"]  # diffusers' layout has a single encoder, the conditioner's
    if config.autoencoder.decoder == "image" and holds(checkpoint, "autoencoder.decoder.time_conv_out."):
        # A file of the temporal model has Stable Diffusion's decoder too: that of the conditioner's autoencoder.
        networks["conditioner.autoencoder.decoder"] = networks.pop("autoencoder.decoder")
        networks.pop("autoencoder.encoder", None)
    dtype = compute_dtype(device, amp_level)
    for prefix, network in networks.items():
        network.set_train(False)
        # The encoders see one image per video: float32 there costs nothing and keeps the latents exact.
        exact = prefix.endswith("autoencoder.encoder")
        masters = trained(network) if prefix == "network" else []
        set_precision(network, ms.float32 if exact else dtype, device, masters)
    load_parameters(networks, checkpoint)
    return assemble(config, networks, free_memory=lambda: runtime.free_memory(device))


def trained_parameters(network: VideoUNet, temporal_only: bool) -> list[Parameter]:
    """The parameters that are trained."""
    return network.temporal_parameters() if temporal_only else list(network.get_parameters())


def load_trainer(
    train: TrainConfig, environment: EnvironmentConfig, model: ModelConfig, state: TrainState, resume: Optional[Path]
) -> Trainer:
    """Build the networks, the task and the trainer, and load the weights.

    Args:
        state: where the run continues, or a new one.
        resume: the checkpoint to continue from.

    Raises:
        RuntimeSetupError, ConfigError, CheckpointError, ImageError: as for `load_pipeline`; or `resume` is of another
            training.
    """
    device = runtime.setup(environment.device_target, environment.mode)
    ranks = Ranks(*runtime.join_ranks())
    pipe = _load(
        model,
        train.pretrained,
        device,
        environment.amp_level,
        lambda network: trained_parameters(network, train.temporal_only),
    )
    network = pipe.denoiser.network
    trained = {f"network.{p.name}": p for p in trained_parameters(network, train.temporal_only)}
    if train.recompute:
        network.recompute_blocks()
    task = TASKS[train.task](pipe.conditioner, pipe.autoencoder, pipe.denoiser, trained, train.loss, train.seed)
    preview = None
    if train.preview.images and ranks.first:
        data, p = train.dataset, train.preview
        sampling = {"num_frames": data.frames, "height": data.height, "width": data.width, "seed": p.seed}
        sampling |= {"sampling_steps": p.sampling_steps}
        preview = Preview(pipe, p.images, Path(train.output_dir) / "previews", p.format, sampling)
    trainer = Trainer(
        task,
        train,
        state,
        {"config": dump_config(model), "pretrained": str(Path(train.pretrained).absolute())},
        ranks,
        dynamic_loss_scale=compute_dtype(device, environment.amp_level) == ms.float16,
        preview=preview,
        memory=lambda: runtime.used_memory(device),
    )
    if resume is not None:
        trainer.restore(resume)
    return trainer


def assemble(config: ModelConfig, networks: dict[str, nn.Cell], free_memory) -> ImageToVideo:
    """Put networks that have their values together into a pipeline."""
    conditioner = Conditioner(
        networks["conditioner.image_encoder"],
        networks["conditioner.autoencoder.encoder"],
        config.image_encoder.image_size,
        config.unet.vector_dim,
    )
    denoiser = Denoiser(networks["network"], PRECONDITIONINGS[config.preconditioning])
    encoder, decoder = (
        networks.get(f"autoencoder.{part}") or networks[f"conditioner.autoencoder.{part}"]
        for part in ("encoder", "decoder")
    )
    autoencoder = Autoencoder(encoder, decoder, config.autoencoder)
    return ImageToVideo(config, conditioner, denoiser, autoencoder, free_memory)
