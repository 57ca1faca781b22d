"""From configuration to a training: `svd.build` for what is to be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import mindspore as ms
from mindspore import Parameter, nn

from svd import runtime
from svd.autoencoder.autoencoder import Autoencoder
from svd.build import (
    assemble,
    autoencoder_part,
    build_autoencoder,
    build_conditioner,
    build_networks,
    latents_model,
    load_networks,
)
from svd.checkpoints.lora import describe_lora
from svd.checkpoints.model_file import check_networks
from svd.conditioning.conditioner import Conditioner
from svd.config import ConfigError, ModelConfig, dump_config
from svd.data.latents_dataset import LatentsDataset
from svd.data.moving_digits import MovingDigits
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.layers.lora import adapters, add_adapters
from svd.layers.marks import temporal_parameters
from svd.layers.recompute import recompute_blocks
from svd.networks.video_unet import VideoUNet
from svd.pipelines.preview import Preview
from svd.placement import compute_dtype
from svd.training.checkpoint import TrainState
from svd.training.config import EnvironmentConfig, LoRAConfig, TrainConfig
from svd.training.distributed import Ranks
from svd.training.tasks.autoencoder import AutoencoderTask
from svd.training.tasks.image_encoder import ImageEncoderTask
from svd.training.tasks.video import ImageToVideoTask
from svd.training.trainer import Task, Trainer
from svd.training.uses import UNET, check_used

NETWORKS = {
    "network": "the UNet",
    "conditioner.image_encoder": "the image encoder",
    "conditioner.autoencoder.encoder": "the conditioner's encoder",
    "conditioner.autoencoder.decoder": "the conditioner's decoder",
    "autoencoder.encoder": "the encoder",
    "autoencoder.decoder": "the decoder",
}
"""What networks are called where training tells of them."""


def add_lora(network: VideoUNet, lora: LoRAConfig, seed: int) -> None:
    """Give the network the adapters that are to be trained, if there are to be any; raises ConfigError."""
    if lora.rank:
        add_adapters(network, lora.modules, lora.rank, lora.scaled_by, seed)


def trained_parameters(network: VideoUNet, temporal_only: bool) -> list[Parameter]:
    """The parameters that are trained for videos: of a network with adapters, those alone."""
    return adapters(network) or (temporal_parameters(network) if temporal_only else _all(network))


def trained_by_task(train: TrainConfig, networks: dict[str, nn.Cell]) -> dict[str, Parameter]:
    """What the task learns, by its names in a checkpoint."""
    if train.task == "image_encoder":
        chosen = {"conditioner.image_encoder": _all(networks["conditioner.image_encoder"])}
    elif train.task in ("autoencoder", "temporal_decoder"):
        encoder, decoder = (autoencoder_part(networks, part) for part in ("encoder", "decoder"))
        temporal = temporal_parameters(networks[decoder])
        if train.task == "temporal_decoder":
            chosen = {decoder: temporal}
        else:
            chosen = {encoder: _all(networks[encoder]), decoder: _without(temporal, networks[decoder])}
    elif train.task == "image_model":
        chosen = {"network": _without(temporal_parameters(networks["network"]), networks["network"])}
    else:
        chosen = {"network": trained_parameters(networks["network"], train.temporal_only)}
    return {f"{prefix}.{p.name}": p for prefix, parameters in chosen.items() for p in parameters}


def _all(network: nn.Cell) -> list[Parameter]:
    return list(network.get_parameters())


def _without(some: list[Parameter], network: nn.Cell) -> list[Parameter]:
    left_out = {id(parameter) for parameter in some}
    return [parameter for parameter in network.get_parameters() if id(parameter) not in left_out]


def load_trainer(
    train: TrainConfig, environment: EnvironmentConfig, model: ModelConfig, state: TrainState, resume: Optional[Path]
) -> Trainer:
    """Build the networks, the task and the trainer, and load the weights.

    Networks are only loaded where the task or previews need them: for latents without previews, the UNet alone.

    Args:
        state: where the run continues, or a new one.
        resume: the checkpoint to continue from.

    Raises:
        RuntimeSetupError, ConfigError, CheckpointError, ImageError: as for `load_pipeline`; or `resume` is of another
            training.
        DatasetError: the data are latents of another model.
    """
    check_task(train, model)
    check_networks(train.pretrained, model)  # what is trained is merged with it in the end
    device = runtime.setup(environment.device_target, environment.mode)
    ranks = Ranks(*runtime.join_ranks())
    check_used(train, ranks.count)
    if isinstance(train.dataset, LatentsDataset):
        train.dataset.check(latents_model(model, train.pretrained, train.loss))
    previews = bool(train.preview.images) and ranks.first
    networks = load_networks(
        model,
        train.pretrained,
        device,
        environment.amp_level,
        wanted=None if previews else needed_networks(train),
        # The weights under adapters are frozen, and so of the compute type.
        trained=lambda networks: () if train.lora.rank else trained_by_task(train, networks).values(),
    )
    if train.lora.rank:
        add_lora(networks["network"], train.lora, train.seed)
    task = _task(train, model, networks)
    preview = None
    if previews:
        pipe = assemble(model, networks, free_memory=lambda: runtime.free_memory(device))
        data, p = train.dataset, train.preview
        sampling = {"num_frames": data.frames, "height": data.height, "width": data.width, "seed": p.seed}
        sampling |= {"sampling_steps": p.sampling_steps}
        preview = Preview(pipe, p.images, Path(train.output_dir) / "previews", p.format, sampling)
    metadata = {"config": dump_config(model), "pretrained": str(Path(train.pretrained).absolute())}
    if train.lora.rank:
        metadata |= describe_lora(train.lora.rank, train.lora.scaled_by, train.lora.modules)
    trainer = Trainer(
        task,
        train,
        state,
        metadata,
        ranks,
        dynamic_loss_scale=compute_dtype(device, environment.amp_level) == ms.float16,
        preview=preview,
        memory=lambda: runtime.peak_memory(device),
    )
    if resume is not None:
        trainer.restore(resume)
    return trainer


def needed_networks(train: TrainConfig) -> tuple[str, ...]:
    """The networks that the task cannot do without, by their prefixes in a checkpoint."""
    if train.task == "image_encoder":
        return ("conditioner.image_encoder",)
    if train.task in ("autoencoder", "temporal_decoder"):
        return tuple(name for name in NETWORKS if "autoencoder" in name)
    if isinstance(train.dataset, LatentsDataset):
        return ("network",)
    return tuple(NETWORKS)


def check_task(train: TrainConfig, model: ModelConfig) -> None:
    """Raise ConfigError where the task cannot be done with these data, or by this model."""
    check_used(train)
    if train.task not in UNET and isinstance(train.dataset, LatentsDataset):
        raise ConfigError(f"--train.task={train.task} learns from videos, not from latents: give another dataset")
    if train.task != "image_model" and isinstance(train.dataset, LatentsDataset) and train.dataset.drawn_frames:
        raise ConfigError("drawn_frames is for --train.task=image_model: other tasks learn from whole clips")
    if train.task == "image_encoder" and not isinstance(train.dataset, MovingDigits):
        raise ConfigError("--train.task=image_encoder needs data that say what is seen: --train.dataset=MovingDigits")
    if train.task in ("autoencoder", "temporal_decoder") and model.autoencoder.decoder != "temporal":
        raise ConfigError(f"--train.task={train.task} is for models with autoencoder.decoder: temporal")


def _task(train: TrainConfig, model: ModelConfig, networks: dict[str, nn.Cell]) -> Task:
    """What is trained; for clips that are encoded already, with parts that have no networks."""
    trained = trained_by_task(train, networks)
    if train.recompute:
        for prefix, network in networks.items():
            if any(name.startswith(f"{prefix}.") for name in trained):
                recompute_blocks(network)
    if train.task == "image_encoder":
        c = model.image_encoder
        return ImageEncoderTask(networks["conditioner.image_encoder"], c.image_size, c.output_dim, trained)
    if train.task in ("autoencoder", "temporal_decoder"):
        encoder, decoder = (networks[autoencoder_part(networks, part)] for part in ("encoder", "decoder"))
        return AutoencoderTask(encoder, decoder, model.autoencoder, train.loss.kl_weight, trained, train.seed)
    if isinstance(train.dataset, LatentsDataset):
        conditioner = Conditioner(None, None, model.image_encoder.image_size, model.unet.vector_dim)
        autoencoder = Autoencoder(lambda moments: moments, None, model.autoencoder)
    else:
        conditioner, autoencoder = build_conditioner(model, networks), build_autoencoder(model, networks)
    denoiser = Denoiser(networks["network"], PRECONDITIONINGS[model.preconditioning])
    image_only = train.task == "image_model"
    return ImageToVideoTask(conditioner, autoencoder, denoiser, trained, train.loss, train.seed, image_only)


def describe(train: TrainConfig, model: ModelConfig) -> str:
    """What would be trained, for --dry_run."""
    networks = build_networks(model)
    add_lora(networks["network"], train.lora, train.seed)
    trained = trained_by_task(train, networks)
    learned = {prefix: sum(p.size for n, p in trained.items() if n.startswith(f"{prefix}.")) for prefix in networks}
    frozen = {prefix: sum(p.size for p in cell.get_parameters()) - learned[prefix] for prefix, cell in networks.items()}
    unet = frozen.pop("network")
    unused = isinstance(train.dataset, LatentsDataset) and not train.preview.images
    return (
        f"# {len(train.dataset):,} videos\n"
        f"# trained: {sum(learned.values()):,} parameters in {len(trained)} tensors of "
        f"{'adapters (LoRA) in ' * bool(train.lora.rank)}"
        f"{' and '.join(NETWORKS[prefix] for prefix, count in learned.items() if count)}\n"
        f"# frozen:  {unet:,} of the UNet, {sum(frozen.values()):,} of the autoencoder and the image encoder"
        f"{', which are not loaded' if unused else ''}"
    )
