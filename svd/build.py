"""From configuration to objects: the only place where a `kind` becomes a class."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from functools import partial
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn
from mindspore.nn.utils import no_init_parameters
from safetensors import safe_open

from svd import runtime
from svd.autoencoder.autoencoder import Autoencoder
from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.checkpoint import CheckpointError, holds, load_parameters, read_config
from svd.compile_cache import CompileCache
from svd.conditioning.conditioner import Conditioner
from svd.conditioning.image_encoder import ImageEncoder
from svd.config import ConfigError, ModelConfig, dump_config, load_config
from svd.data.latents_dataset import LatentsDataset
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.layers.lora import adapters, add_adapters
from svd.lora import LoRA, describe_lora, read_lora
from svd.networks.one_video import PerVideo
from svd.networks.video_unet import VideoUNet
from svd.pipelines.image_to_video import ImageToVideo
from svd.pipelines.preview import Preview
from svd.precision import AmpLevel, compute_dtype, set_precision
from svd.training.checkpoint import TrainState
from svd.training.config import EnvironmentConfig, LoRAConfig, LossConfig, TrainConfig
from svd.training.distributed import Ranks
from svd.training.image_to_video import ImageToVideoTask
from svd.training.trainer import Trainer

TASKS = {"image_to_video": ImageToVideoTask}
ENCODERS = ("conditioner.image_encoder", "conditioner.autoencoder.encoder", "autoencoder.encoder")
"""The networks that latents for training are made with."""


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
    lora: Optional[str | Path] = None,
    lora_scale: float = 1.0,
    compile_cache: Optional[str | Path] = None,
) -> ImageToVideo:
    """Build an image-to-video pipeline and load its weights.

    Args:
        config: a YAML file or a ModelConfig; what the checkpoint says of itself if None.
        checkpoint: a file that svd_tools/convert.py wrote.
        device_target: Ascend, GPU, CPU, or auto for the best one that is there.
        mode: 0 for graph mode, 1 for pynative.
        amp_level: O0 for float32, O2 for float16 inside the networks, bf16 for bfloat16 (Ascend), auto for O2 on Ascend
            and O0 elsewhere.
        lora: a file of adapters that train.py wrote with --train.lora.rank; they are merged into the weights.
        lora_scale: how much of what they add; 0 leaves the model as it is, bit for bit.
        compile_cache: folder in which compiled graphs are kept for later processes; none are if None.

    Raises:
        RuntimeSetupError: versions or device do not fit.
        ConfigError: the configuration cannot be used.
        CheckpointError: the checkpoint, or the LoRA, cannot be used, or is of another model.
    """
    device = runtime.setup(device_target, mode)
    if config is None:
        config = read_config(_given(checkpoint))
    elif not isinstance(config, ModelConfig):
        config = load_config(config)
    if not isfinite(lora_scale):
        raise ConfigError(f"--SVD.lora_scale must be a finite number, got {lora_scale}")
    merged = None if lora is None else read_lora(lora)
    networks = _load(config, checkpoint, device, amp_level, lora=merged, lora_scale=lora_scale)
    pipe = assemble(config, networks, free_memory=lambda: runtime.free_memory(device))
    if compile_cache is not None:
        cache = CompileCache(compile_cache, dump_config(config), device, amp_level)
        for name, cell in {**networks, **pipe.denoiser.per_video.graphs}.items():
            cache.keep(name, cell)
    return pipe


def load_encoders(
    config: ModelConfig, checkpoint: str | Path, device_target: str, mode: int, amp_level: AmpLevel
) -> tuple[Conditioner, Autoencoder]:
    """The parts of `load_pipeline` that encode, without a decoder and without the UNet; raises the same errors."""
    device = runtime.setup(device_target, mode)
    networks = _load(config, checkpoint, device, amp_level, ENCODERS)
    return _conditioner(config, networks), Autoencoder(_autoencoder_part(networks, "encoder"), None, config.autoencoder)


def latents_model(config: ModelConfig, checkpoint: str | Path, loss: LossConfig) -> dict[str, Any]:
    """What latents for training depend on, but for the clips: the encoders, their weights, and the noise.

    The weights are represented by a digest of their values in float32, so that a file in float16 has that of its
    source, if its source had no more precision.
    """
    encoders = {prefix: cell for prefix, cell in _networks(config, checkpoint).items() if prefix in ENCODERS}
    names = {f"{prefix}.{p.name}" for prefix, cell in encoders.items() for p in cell.get_parameters()}
    digest = blake2b(digest_size=16)
    with safe_open(checkpoint, framework="np") as file:
        for name in sorted(names.intersection(file.keys())):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(file.get_tensor(name), np.float32))
    autoencoder = {name: value for name, value in asdict(config.autoencoder).items() if name != "decoder"}
    return {
        "autoencoder": autoencoder,
        "image_encoder": asdict(config.image_encoder),
        "encoder weights": digest.hexdigest(),
        "loss": {name: getattr(loss, name) for name in ("noise_aug_mean", "noise_aug_std")},
    }


def _given(checkpoint: str | Path) -> str | Path:
    if not checkpoint:
        raise CheckpointError("no checkpoint was given: the weights, as svd_tools/convert.py writes them")
    return checkpoint


def _networks(config: ModelConfig, checkpoint: str | Path) -> dict[str, nn.Cell]:
    """Those of `build_networks` that this checkpoint has values for; still without them."""
    networks = build_networks(config)
    if not holds(_given(checkpoint), "autoencoder.encoder."):
        del networks["autoencoder.encoder"]  # diffusers' layout has a single encoder, the conditioner's
    if config.autoencoder.decoder == "image" and holds(checkpoint, "autoencoder.decoder.time_conv_out."):
        # A file of the temporal model has Stable Diffusion's decoder too: that of the conditioner's autoencoder.
        networks["conditioner.autoencoder.decoder"] = networks.pop("autoencoder.decoder")
        networks.pop("autoencoder.encoder", None)
    return networks


def _load(
    config: ModelConfig,
    checkpoint: str | Path,
    device: str,
    amp_level: AmpLevel,
    wanted: Optional[Collection[str]] = None,
    trained: Callable[[VideoUNet], list[Parameter]] = lambda network: [],
    lora: Optional[LoRA] = None,
    lora_scale: float = 1.0,
) -> dict[str, nn.Cell]:
    """Networks with their weights on a device that is set up.

    Args:
        wanted: which ones, by their prefixes; all of them if None.
        trained: the parameters of the UNet that are to be trained.
        lora, lora_scale: adapters to merge into the weights, and how much of them.
    """
    networks = _networks(config, checkpoint)
    if lora is not None:
        shapes = {f"network.{p.name}": tuple(p.shape) for p in networks["network"].get_parameters()}
        lora.check(config, shapes, str(checkpoint))
    networks = {prefix: network for prefix, network in networks.items() if wanted is None or prefix in wanted}
    dtype = compute_dtype(device, amp_level)
    for prefix, network in networks.items():
        network.set_train(False)
        # The encoders see one image per video: float32 there costs nothing and keeps the latents exact.
        exact = prefix.endswith("autoencoder.encoder")
        masters = trained(network) if prefix == "network" else []
        set_precision(network, ms.float32 if exact else dtype, device, masters)
    if lora is None or not lora_scale:
        load_parameters(networks, checkpoint)
    else:
        load_parameters(networks, checkpoint, partial(lora.added, scale=lora_scale))
    return networks


def add_lora(network: VideoUNet, lora: LoRAConfig, seed: int) -> None:
    """Give the network the adapters that are to be trained, if there are to be any; raises ConfigError."""
    if lora.rank:
        add_adapters(network, lora.modules, lora.rank, lora.scaled_by, seed)


def trained_parameters(network: VideoUNet, temporal_only: bool) -> list[Parameter]:
    """The parameters that are trained: of a network with adapters, those alone."""
    if found := adapters(network):
        return found
    return network.temporal_parameters() if temporal_only else list(network.get_parameters())


def load_trainer(
    train: TrainConfig, environment: EnvironmentConfig, model: ModelConfig, state: TrainState, resume: Optional[Path]
) -> Trainer:
    """Build the networks, the task and the trainer, and load the weights.

    The encoders and the decoder are only loaded where they are needed: for videos, and for previews.

    Args:
        state: where the run continues, or a new one.
        resume: the checkpoint to continue from.

    Raises:
        RuntimeSetupError, ConfigError, CheckpointError, ImageError: as for `load_pipeline`; or `resume` is of another
            training.
        DatasetError: the data are latents of another model.
    """
    device = runtime.setup(environment.device_target, environment.mode)
    ranks = Ranks(*runtime.join_ranks())
    encoded = isinstance(train.dataset, LatentsDataset)
    if encoded:
        train.dataset.check(latents_model(model, train.pretrained, train.loss))
    previews = bool(train.preview.images) and ranks.first
    networks = _load(
        model,
        train.pretrained,
        device,
        environment.amp_level,
        wanted=("network",) if encoded and not previews else None,
        # The weights under adapters are frozen, and so of the compute type.
        trained=lambda network: [] if train.lora.rank else trained_parameters(network, train.temporal_only),
    )
    add_lora(networks["network"], train.lora, train.seed)
    task = _task(train, model, networks, encoded)
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
        memory=lambda: runtime.used_memory(device),
    )
    if resume is not None:
        trainer.restore(resume)
    return trainer


def _task(train: TrainConfig, model: ModelConfig, networks: dict[str, nn.Cell], encoded: bool) -> ImageToVideoTask:
    """What is trained; for clips that are encoded already, with parts that have no networks."""
    network = networks["network"]
    trained = {f"network.{p.name}": p for p in trained_parameters(network, train.temporal_only)}
    if train.recompute:
        network.recompute_blocks()
    if encoded:
        conditioner = Conditioner(None, None, model.image_encoder.image_size, model.unet.vector_dim)
        autoencoder = Autoencoder(lambda moments: moments, None, model.autoencoder)
    else:
        conditioner, autoencoder = _conditioner(model, networks), _autoencoder(model, networks)
    denoiser = Denoiser(network, PRECONDITIONINGS[model.preconditioning])
    return TASKS[train.task](conditioner, autoencoder, denoiser, trained, train.loss, train.seed)


def assemble(config: ModelConfig, networks: dict[str, nn.Cell], free_memory) -> ImageToVideo:
    """Put networks that have their values together into a pipeline."""
    network = networks["network"]
    denoiser = Denoiser(network, PRECONDITIONINGS[config.preconditioning], PerVideo(network))
    conditioner, autoencoder = _conditioner(config, networks), _autoencoder(config, networks)
    return ImageToVideo(config, conditioner, denoiser, autoencoder, free_memory)


def _conditioner(config: ModelConfig, networks: dict[str, nn.Cell]) -> Conditioner:
    return Conditioner(
        networks["conditioner.image_encoder"],
        networks["conditioner.autoencoder.encoder"],
        config.image_encoder.image_size,
        config.unet.vector_dim,
    )


def _autoencoder(config: ModelConfig, networks: dict[str, nn.Cell]) -> Autoencoder:
    encoder, decoder = (_autoencoder_part(networks, part) for part in ("encoder", "decoder"))
    return Autoencoder(encoder, decoder, config.autoencoder)


def _autoencoder_part(networks: dict[str, nn.Cell], part: str) -> nn.Cell:
    """The autoencoder's own, or the conditioner's where the checkpoint has no other."""
    return networks.get(f"autoencoder.{part}") or networks[f"conditioner.autoencoder.{part}"]
