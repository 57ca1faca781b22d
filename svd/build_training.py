"""From configuration to a training: `svd.build` for what is to be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import mindspore as ms
from mindspore import nn

from svd import runtime
from svd.build import (
    assemble,
    build_networks,
    latents_model,
    load_networks,
)
from svd.checkpoints.lora import describe_lora
from svd.checkpoints.model_file import check_networks
from svd.config import ModelConfig, dump_config
from svd.data.latents_dataset import LatentsDataset
from svd.layers.lora import add_adapters
from svd.layers.recompute import recompute_blocks
from svd.pipelines.preview import Preview
from svd.placement import compute_dtype
from svd.training.checkpoint import TrainState
from svd.training.config import EnvironmentConfig, TrainConfig
from svd.training.distributed import Ranks
from svd.training.tasks import Plan, find_task
from svd.training.trainer import Objective, Trainer
from svd.training.uses import check_used

NETWORKS = {
    "network": "the UNet",
    "conditioner.image_encoder": "the image encoder",
    "conditioner.autoencoder.encoder": "the conditioner's encoder",
    "conditioner.autoencoder.decoder": "the conditioner's decoder",
    "autoencoder.encoder": "the encoder",
    "autoencoder.decoder": "the decoder",
}
"""What networks are called where training tells of them."""


def plan_training(train: TrainConfig, model: ModelConfig, networks: dict[str, nn.Cell]) -> Plan:
    """What is trained of these networks, which get the adapters that are to be trained; raises ConfigError."""
    if train.lora.rank:
        add_adapters(networks["network"], train.lora.modules, train.lora.rank, train.lora.scaled_by, train.seed)
    return Plan(train, model, networks, find_task(train.task).trained(train, networks))


def build_objective(plan: Plan) -> Objective:
    """What is minimised, once the networks have their values."""
    if plan.train.recompute:
        for prefix in plan.chosen:
            recompute_blocks(plan.networks[prefix])
    return find_task(plan.train.task).build(plan)


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
    task = find_task(train.task)
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
        wanted=None if previews else task.needs(train),
        # The weights under adapters are frozen, and so of the compute type.
        trained=lambda networks: () if train.lora.rank else sum(task.trained(train, networks).values(), []),
    )
    objective = build_objective(plan_training(train, model, networks))
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
        objective,
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


def check_task(train: TrainConfig, model: ModelConfig) -> None:
    """Raise ConfigError where the task cannot be done with these settings and data, or by this model."""
    check_used(train)
    find_task(train.task).check(train, model)


def describe(train: TrainConfig, model: ModelConfig) -> str:
    """What would be trained, for --dry_run."""
    plan = plan_training(train, model, build_networks(model))
    learned = {prefix: sum(p.size for p in parameters) for prefix, parameters in plan.chosen.items()}
    sizes = {prefix: sum(p.size for p in cell.get_parameters()) for prefix, cell in plan.networks.items()}
    frozen = {prefix: size - learned.get(prefix, 0) for prefix, size in sizes.items()}
    unet = frozen.pop("network")
    unused = isinstance(train.dataset, LatentsDataset) and not train.preview.images
    return (
        f"# {len(train.dataset):,} videos\n"
        f"# trained: {sum(learned.values()):,} parameters in {len(plan.trained)} tensors of "
        f"{'adapters (LoRA) in ' * bool(train.lora.rank)}"
        f"{' and '.join(NETWORKS[prefix] for prefix in plan.chosen)}\n"
        f"# frozen:  {unet:,} of the UNet, {sum(frozen.values()):,} of the autoencoder and the image encoder"
        f"{', which are not loaded' if unused else ''}"
    )
