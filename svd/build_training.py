"""From configuration to a trainer, and to the encoders of cached latents."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import nn

from svd import runtime
from svd.autoencoder.autoencoder import Autoencoder, autoencoder_part
from svd.build import fill_networks, load_networks, stored_networks
from svd.checkpoints.lora import describe_lora
from svd.checkpoints.model_file import Checkpoint
from svd.conditioning.conditioner import Conditioner
from svd.config import ModelConfig, dump_config
from svd.data.latents_dataset import LatentsDataset
from svd.layers.lora import add_adapters
from svd.layers.recompute import recompute_blocks
from svd.models import model_of
from svd.models.svd import build_conditioner
from svd.pipelines.preview import Preview
from svd.placement import compute_dtype
from svd.runtime import AmpLevel
from svd.training.checkpoint import TrainState
from svd.training.config import EnvironmentConfig, LossConfig, TrainConfig
from svd.training.distributed import Ranks
from svd.training.tasks import Plan, find_task
from svd.training.trainer import Objective, Trainer
from svd.training.uses import check_used

ENCODERS = ("conditioner.image_encoder", "conditioner.autoencoder.encoder", "autoencoder.encoder")
"""The parts that encode, for a training from latents."""


def plan_training(train: TrainConfig, model: ModelConfig, networks: dict[str, nn.Cell]) -> Plan:
    """Plan a training of these networks, to which adapters are added if requested; raises ConfigError."""
    if train.lora.rank:
        add_adapters(networks["network"], train.lora.modules, train.lora.rank, train.lora.scaled_by, train.seed)
    return Plan(train, model, networks, find_task(train.task).trained(train, networks))


def build_objective(plan: Plan) -> Objective:
    """The objective, given loaded networks."""
    if plan.train.recompute:
        for prefix in plan.chosen:
            recompute_blocks(plan.networks[prefix])
    return find_task(plan.train.task).build(plan)


def load_trainer(
    train: TrainConfig, environment: EnvironmentConfig, model: ModelConfig, state: TrainState, resume: Optional[Path]
) -> tuple[Trainer, Plan]:
    """Load networks, and build objective and trainer.

    Only networks that the task or previews need are loaded: for cached latents without previews, the UNet alone.

    Args:
        state: where to resume, or a new one.
        resume: the checkpoint to resume from.

    Raises:
        RuntimeSetupError, ConfigError, CheckpointError, ImageError: as for `load_pipeline`; or `resume` is of another
            training.
        DatasetError: the data are latents of another model.
    """
    check_task(train, model)
    checkpoint = Checkpoint(train.pretrained)
    checkpoint.check_model(model)  # what is trained is merged with it in the end
    device = runtime.setup(environment.device_target, environment.mode)
    ranks = Ranks(*runtime.join_ranks())
    check_used(train, ranks.count)
    if isinstance(train.dataset, LatentsDataset):
        train.dataset.check(latents_model(model, checkpoint, train.loss))
    previews = bool(train.preview.images) and ranks.first
    plan = plan_training(train, model, stored_networks(model, checkpoint))
    needed = None if previews else find_task(train.task).needs(train)
    networks = {prefix: plan.networks[prefix] for prefix in plan.networks if needed is None or prefix in needed}
    fill_networks(model, networks, checkpoint, device, environment.amp_level, plan.trained.values())
    preview = None
    if previews:
        pipe = model_of(model).pipeline(model, networks, lambda: runtime.free_memory(device), checkpoint.metadata)
        data, p = train.dataset, train.preview
        sampling = {"num_frames": data.frames, "height": data.height, "width": data.width, "seed": p.seed}
        sampling |= {"sampling_steps": p.sampling_steps}
        preview = Preview(pipe, p.images, Path(train.output_dir) / "previews", p.format, sampling)
    metadata = {"config": dump_config(model), "pretrained": str(Path(train.pretrained).absolute())}
    if train.lora.rank:
        metadata |= describe_lora(train.lora.rank, train.lora.scaled_by, train.lora.modules)
    trainer = Trainer(
        build_objective(plan),
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
    return trainer, plan


def check_task(train: TrainConfig, model: ModelConfig) -> None:
    """Raise ConfigError if the task is not possible with these settings, data and model."""
    check_used(train)
    find_task(train.task).check(train, model)


def describe(plan: Plan) -> str:
    """A description of what is trained and what is frozen."""
    train, model = plan.train, plan.model
    learned = {prefix: sum(p.size for p in parameters) for prefix, parameters in plan.chosen.items()}
    sizes = {prefix: sum(p.size for p in cell.get_parameters()) for prefix, cell in plan.networks.items()}
    titles = {part.prefix: part.title for part in model_of(model).parts(model)}
    frozen = {prefix: size - learned.get(prefix, 0) for prefix, size in sizes.items()}
    unet = frozen.pop("network")
    unused = isinstance(train.dataset, LatentsDataset) and not train.preview.images
    return (
        f"# {len(train.dataset):,} videos\n"
        f"# trained: {sum(learned.values()):,} parameters in {len(plan.trained)} tensors of "
        f"{'adapters (LoRA) in ' * bool(train.lora.rank)}"
        f"{' and '.join(titles[prefix] for prefix in plan.chosen)}\n"
        f"# frozen:  {unet:,} of the UNet, {sum(frozen.values()):,} of the autoencoder and the image encoder"
        f"{', which are not loaded' if unused else ''}"
    )


def load_encoders(
    config: ModelConfig, checkpoint: Checkpoint, device_target: str, mode: int, amp_level: AmpLevel
) -> tuple[Conditioner, Autoencoder]:
    """The parts of `load_pipeline` that encode, without a decoder and without the UNet; raises the same errors."""
    device = runtime.setup(device_target, mode)
    networks = load_networks(config, checkpoint, device, amp_level, ENCODERS)
    encoder = networks[autoencoder_part(networks, "encoder")]
    return build_conditioner(config, networks), Autoencoder(encoder, None, config.autoencoder)


def latents_model(config: ModelConfig, checkpoint: Checkpoint, loss: LossConfig) -> dict[str, Any]:
    """Everything but the clips that cached latents depend on: the encoders, their weights, and the noise.

    The weights are represented by a digest of their values in float32, so that a file in float16 has that of its
    source, if its source had no more precision.
    """
    stored = stored_networks(config, checkpoint)
    names = {f"{prefix}.{p.name}" for prefix in ENCODERS if prefix in stored for p in stored[prefix].get_parameters()}
    digest = blake2b(digest_size=16)
    for name in sorted(names.intersection(checkpoint.shapes)):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(checkpoint.read(name), np.float32))
    autoencoder = {name: value for name, value in asdict(config.autoencoder).items() if name != "decoder"}
    return {
        "autoencoder": autoencoder,
        "image_encoder": asdict(config.image_encoder),
        "encoder weights": digest.hexdigest(),
        "loss": {name: getattr(loss, name) for name in ("noise_aug_mean", "noise_aug_std")},
    }
