"""From configuration to objects: the only place where a `kind` becomes a class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
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
from svd.autoencoder.autoencoder import Autoencoder, autoencoder_part
from svd.autoencoder.decoder import Decoder
from svd.autoencoder.encoder import Encoder
from svd.checkpoints.lora import LoRA, read_lora
from svd.checkpoints.model_file import CheckpointError, check_parameters, holds, load_parameters, read_config
from svd.compile_cache import CompileCache
from svd.conditioning.conditioner import Conditioner
from svd.conditioning.image_encoder import ImageEncoder
from svd.config import ConfigError, ModelConfig, dump_config, load_config
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.graphs import keep_latest
from svd.networks.blocks.svd import svd_unet
from svd.networks.split import Split
from svd.pipelines.image_to_video import ImageToVideo
from svd.placement import compute_dtype, place
from svd.runtime import AmpLevel
from svd.training.config import LossConfig

ENCODERS = ("conditioner.image_encoder", "conditioner.autoencoder.encoder", "autoencoder.encoder")
"""The networks that latents for training are made with."""


def build_networks(config: ModelConfig) -> dict[str, nn.Cell]:
    """The networks that turn an image into a video, by the prefix of their parameters in a checkpoint.

    Parameters have shapes but neither values nor memory until they are loaded.
    """
    with no_init_parameters():
        return {
            "network": svd_unet(config.unet),
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
    networks = load_networks(config, checkpoint, device, amp_level, lora=merged, lora_scale=lora_scale)
    pipe = assemble(config, networks, free_memory=lambda: runtime.free_memory(device))
    cells = {**networks, **pipe.denoiser.graphs}
    cache = compile_cache and CompileCache(compile_cache, dump_config(config), device, amp_level)
    for name, cell in cells.items():
        keep_latest(cell)
        if cache:
            cache.keep(name, cell)
    return pipe


def load_encoders(
    config: ModelConfig, checkpoint: str | Path, device_target: str, mode: int, amp_level: AmpLevel
) -> tuple[Conditioner, Autoencoder]:
    """The parts of `load_pipeline` that encode, without a decoder and without the UNet; raises the same errors."""
    device = runtime.setup(device_target, mode)
    networks = load_networks(config, checkpoint, device, amp_level, ENCODERS)
    encoder = networks[autoencoder_part(networks, "encoder")]
    return build_conditioner(config, networks), Autoencoder(encoder, None, config.autoencoder)


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


def load_networks(
    config: ModelConfig,
    checkpoint: str | Path,
    device: str,
    amp_level: AmpLevel,
    wanted: Optional[Collection[str]] = None,
    trained: Callable[[dict[str, nn.Cell]], Iterable[Parameter]] = lambda networks: (),
    lora: Optional[LoRA] = None,
    lora_scale: float = 1.0,
) -> dict[str, nn.Cell]:
    """Networks with their weights on a device that is set up.

    Args:
        wanted: which ones, by their prefixes; all of them if None.
        trained: tells which parameters are to be trained.
        lora, lora_scale: adapters to merge into the weights, and how much of them.
    """
    networks = _networks(config, checkpoint)
    if lora is not None:
        shapes = {f"network.{p.name}": tuple(p.shape) for p in networks["network"].get_parameters()}
        lora.check(config, shapes, str(checkpoint))
    networks = {prefix: network for prefix, network in networks.items() if wanted is None or prefix in wanted}
    check_parameters(networks, checkpoint)  # before they take memory
    dtype, masters = compute_dtype(device, amp_level), list(trained(networks))
    for prefix, network in networks.items():
        network.set_train(False)
        # The encoders see one image per video: float32 there costs nothing and keeps the latents exact; but where one
        # is trained, it sees all frames.
        exact = prefix.endswith("autoencoder.encoder") and not _shares(network, masters)
        place(network, device, ms.float32 if exact else dtype, masters)
    if lora is None or not lora_scale:
        load_parameters(networks, checkpoint)
    else:
        load_parameters(networks, checkpoint, partial(lora.added, scale=lora_scale))
    return networks


def _shares(network: nn.Cell, parameters: list[Parameter]) -> bool:
    """Whether some of the parameters are the network's."""
    known = {id(parameter) for parameter in parameters}
    return any(id(parameter) in known for parameter in network.get_parameters())


def assemble(config: ModelConfig, networks: dict[str, nn.Cell], free_memory) -> ImageToVideo:
    """Put networks that have their values together into a pipeline."""
    network = networks["network"]
    denoiser = Denoiser(network, PRECONDITIONINGS[config.preconditioning], Split(network))
    conditioner, autoencoder = build_conditioner(config, networks), build_autoencoder(config, networks)
    return ImageToVideo(config, conditioner, denoiser, autoencoder, free_memory)


def build_conditioner(config: ModelConfig, networks: dict[str, nn.Cell]) -> Conditioner:
    return Conditioner(
        networks["conditioner.image_encoder"],
        networks["conditioner.autoencoder.encoder"],
        config.image_encoder.image_size,
        config.unet.vector_dim,
    )


def build_autoencoder(config: ModelConfig, networks: dict[str, nn.Cell]) -> Autoencoder:
    encoder, decoder = (networks[autoencoder_part(networks, part)] for part in ("encoder", "decoder"))
    return Autoencoder(encoder, decoder, config.autoencoder)
