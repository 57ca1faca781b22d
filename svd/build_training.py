"""From configuration to a trainer, and to the encoders of cached latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from svd.checkpoints.model_file import Checkpoint, checkpoint_parameters
from svd.compile_cache import open_cache
from svd.config import ImageLDMConfig, LatentModel, dump_config
from svd.config.models import KINDS
from svd.data.latents_dataset import LatentsDataset
from svd.errors import check
from svd.layers.lora import add_adapters
from svd.layers.recompute import recompute_blocks
from svd.models import model_of
from svd.pipelines.preview import Preview, ReconstructionPreview, named_prompts, prepared_images, some_clips
from svd.placement import compute_dtype
from svd.training.checkpoint import TrainState
from svd.training.config import EnvironmentConfig, TrainConfig
from svd.training.distributed import Ranks
from svd.training.tasks import ClipEncoder, Plan, encodes, find_task
from svd.training.trainer import Objective, Trainer
from svd.training.uses import check_used


def plan_training(
    train: TrainConfig, model: LatentModel, networks: dict[str, nn.Cell], metadata: Mapping[str, str] = {}
) -> Plan:
    """Plan a training of these networks, to which adapters are added if requested; raises ConfigError."""
    if train.lora.rank:
        add_adapters(networks["network"], train.lora.modules, train.lora.rank, train.lora.scaled_by, train.seed)
    return Plan(train, model, networks, find_task(train.task).trained(train, networks), metadata)


def build_objective(plan: Plan) -> Objective:
    """The objective, given loaded networks."""
    if plan.train.recompute:
        for prefix in plan.chosen:
            recompute_blocks(plan.networks[prefix])
    return find_task(plan.train.task).build(plan)


def load_trainer(
    train: TrainConfig, environment: EnvironmentConfig, model: LatentModel, state: TrainState, resume: Optional[Path]
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
    model = trained_model(train, model)
    device = runtime.setup(environment.device_target, environment.mode)
    ranks = Ranks(*runtime.join_ranks())
    check_used(train, ranks.count)
    if isinstance(train.dataset, LatentsDataset):
        train.dataset.check(latents_model(train, model, checkpoint))
    plan = plan_training(train, model, stored_networks(model, checkpoint), checkpoint.metadata)
    networks = {prefix: cell for prefix, cell in plan.networks.items() if _loaded(train, prefix, ranks.first)}
    fill_networks(model, networks, checkpoint, device, environment.amp_level, plan.trained.values())
    preview = None
    if train.preview.wanted and ranks.first:
        preview = build_preview(train, model, networks, checkpoint.metadata, lambda: runtime.free_memory(device))
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
    if environment.mode == 0 and (cache := open_cache(environment.compile_cache, device, ranks.count)):
        players = {"step": trainer.player, "opponent": trainer.opponent}
        cells = networks | {name: player.step for name, player in players.items() if player is not None}
        if isinstance(preview, Preview):
            cells |= preview.pipe.denoiser.graphs
        for name, cell in cells.items():
            cache.keep(name, cell)
    if resume is not None:
        trainer.restore(resume)
    return trainer, plan


def build_preview(
    train: TrainConfig,
    model: LatentModel,
    networks: Mapping[str, nn.Cell],
    metadata: Mapping[str, str],
    free_memory: Callable[[], int],
) -> Preview | ReconstructionPreview:
    """The previews of a training, by the pipeline of loaded networks, or by the autoencoder; raises ImageError."""
    data, p, folder = train.dataset, train.preview, Path(train.output_dir) / "previews"
    if not p.sampled:
        encoder, decoder = (networks[autoencoder_part(networks, part)] for part in ("encoder", "decoder"))
        clips = some_clips(data, p.clips, p.seed)
        return ReconstructionPreview(Autoencoder(encoder, decoder, model.autoencoder), clips, folder, p.format)
    frames = 1 if type(model) is ImageLDMConfig else data.frames
    sampling = {"num_frames": frames, "height": data.height, "width": data.width, "seed": p.seed}
    sampling |= {"sampling_steps": p.sampling_steps}
    inputs = named_prompts(p.prompts) if p.prompts else prepared_images(p.images, data.height, data.width)
    pipe = model_of(model).pipeline(model, networks, free_memory, metadata)
    return Preview(pipe, inputs, folder, p.format, sampling)


def check_task(train: TrainConfig, model: LatentModel) -> None:
    """Raise ConfigError if the task is not possible with these settings, data and model."""
    task = find_task(train.task)
    kind = next(kind for kind, known in KINDS.items() if type(model) is known)
    message = f"train.task={train.task} is for models of the kind {' or '.join(task.kinds)}, and this one is {kind}"
    check(kind in task.kinds, message)
    check_used(train)
    task.check(train, model)


def trained_model(train: TrainConfig, model: LatentModel) -> LatentModel:
    """The configuration that the trained model is written with: the model's own, or the task's `result`."""
    result = getattr(find_task(train.task), "result", None)
    return model if result is None else result(train, model)


def describe(plan: Plan) -> str:
    """A description of what is trained and what is frozen."""
    train, model = plan.train, plan.model
    learned = {prefix: sum(p.size for p in parameters) for prefix, parameters in plan.chosen.items()}
    sizes = {prefix: sum(p.size for p in cell.get_parameters()) for prefix, cell in plan.networks.items()}
    titles = {part.prefix: part.title for part in model_of(model).parts(model)}
    frozen = [
        f"{size - learned.get(prefix, 0):,} of {titles[prefix]}{' (not loaded)' * (not _loaded(train, prefix))}"
        for prefix, size in sizes.items()
        if size > learned.get(prefix, 0)
    ]
    return (
        f"# {len(train.dataset):,} videos\n"
        f"# trained: {sum(learned.values()):,} parameters in {len(plan.trained)} tensors of "
        f"{'adapters (LoRA) in ' * bool(train.lora.rank)}"
        f"{' and '.join(titles[prefix] for prefix in plan.chosen)}\n"
        f"# frozen:  {', '.join(frozen) or 'nothing'}"
    )


def _loaded(train: TrainConfig, prefix: str, previews: bool = True) -> bool:
    """Whether a training loads a network: previews, which the first rank makes, need all of them."""
    needed = find_task(train.task).needs(train)
    return (previews and train.preview.sampled) or needed is None or prefix in needed


def load_clip_encoder(
    train: TrainConfig, environment: EnvironmentConfig, model: LatentModel, checkpoint: Checkpoint
) -> ClipEncoder:
    """What encodes clips for cached latents, its networks loaded; raises the same errors as `load_pipeline`."""
    device = runtime.setup(environment.device_target, environment.mode)
    task = find_task(train.task)
    networks = load_networks(model, checkpoint, device, environment.amp_level, task.encoders(train))
    if environment.mode == 0 and (cache := open_cache(environment.compile_cache, device)):
        for name, cell in networks.items():
            cache.keep(name, cell)
    return task.clip_encoder(Plan(train, model, networks, {}, checkpoint.metadata))


def latents_model(train: TrainConfig, model: LatentModel, checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything but the clips that cached latents depend on: the encoders, their weights, and what the task adds.

    The weights are represented by a digest of their values in float32, so that a file in float16 has that of its
    source, if its source had no more precision.
    """
    task = find_task(train.task)
    check(encodes(task), f"train.task={train.task} learns from videos, not from latents")
    stored, encoders = stored_networks(model, checkpoint), task.encoders(train)
    names = checkpoint_parameters({prefix: stored[prefix] for prefix in encoders if prefix in stored})
    digest = blake2b(digest_size=16)
    for name in sorted(names.keys() & checkpoint.shapes):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(checkpoint.read(name), np.float32))
    return {
        "autoencoder": {name: value for name, value in asdict(model.autoencoder).items() if name != "decoder"},
        "encoder weights": digest.hexdigest(),
        **task.cached(train, model, checkpoint.metadata),
    }
