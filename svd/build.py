"""From a model's configuration to its networks and its pipeline, with their weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn
from mindspore.nn.utils import no_init_parameters

from svd import runtime
from svd.checkpoints.lora import LoRA, merging, read_loras
from svd.checkpoints.model_file import Checkpoint, checkpoint_parameters
from svd.checkpoints.reversal import read_reversal
from svd.checkpoints.tensor_header import CheckpointError
from svd.compile_cache import open_cache
from svd.config import Model, VideoLDMConfig, load_config
from svd.graphs import keep_latest
from svd.layers.reversal import pair_attention
from svd.models import model_of
from svd.models.part import Part
from svd.personalization import take_decoder, take_spatial
from svd.pipelines.image_to_video import ImageToVideo
from svd.pipelines.text_to_video import TextToVideo
from svd.pipelines.upsample import Upsample
from svd.pipelines.video_diffusion import VideoDiffusion
from svd.placement import compute_dtype, place
from svd.runtime import AmpLevel


def build_networks(config: Model) -> dict[str, nn.Cell]:
    """Build the networks of a model, by the prefix of their parameters in a checkpoint.

    Parameters have shapes but neither values nor memory until they are loaded.
    """
    with no_init_parameters():
        return {prefix: part.build() for prefix, part in _parts(config).items() if not part.spare}


def parameter_shapes(config: Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that a checkpoint can have, optional parts included."""
    with no_init_parameters():
        return _shapes({prefix: part.build() for prefix, part in _parts(config).items()})


def _shapes(networks: Mapping[str, nn.Cell]) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters by their names in a checkpoint."""
    return {name: tuple(parameter.shape) for name, parameter in checkpoint_parameters(networks).items()}


def optional_parts(config: Model) -> dict[str, str]:
    """The optional parts of a checkpoint: prefixes of their names, and what is missing without them."""
    return {f"{prefix}.": part.optional for prefix, part in _parts(config).items() if part.optional}


def load_pipeline(
    config: Optional[str | Path | Model] = None,
    checkpoint: str | Path = "",
    device_target: str = "auto",
    mode: int = 0,
    amp_level: AmpLevel = "auto",
    lora: None | str | Path | Sequence[str | Path] = None,
    lora_scale: float | Sequence[float] = 1.0,
    compile_cache: Optional[str | Path] = "auto",
    spatial: Optional[str | Path] = None,
    decoder: Optional[str | Path] = None,
    reversal: Optional[str | Path] = None,
) -> ImageToVideo | TextToVideo | VideoDiffusion | Upsample:
    """Build the pipeline of a model, of any kind, and load its weights.

    Args:
        config: a YAML file or a configuration; that of the checkpoint if None.
        checkpoint: a file that svd_tools/convert.py wrote.
        device_target: Ascend, GPU, CPU, or auto for the best available one.
        mode: 0 for graph mode, 1 for pynative.
        amp_level: O0 for float32, O2 for float16 inside the networks, bf16 for bfloat16 (Ascend), auto for O2 on Ascend
            and O0 elsewhere.
        lora: a file of adapters, or several, that train.py wrote with train.lora.rank, or svd_tools/convert.py of
            another program's; they are merged into the weights.
        lora_scale: scale of the adapters, or a scale for each file; 0 gives the base model, bit for bit.
        compile_cache: folder in which compiled graphs are kept for later processes; `off` or None to keep none; `auto`
            for the user's cache folder on CPU, and none elsewhere.
        spatial: the checkpoint of another image model, such as a personalised one, of which spatial layers and text
            encoder are taken in place of the video model's own.
        decoder: a checkpoint of Stable Video Diffusion, whose temporal decoder decodes in place of the model's own.
        reversal: what fine-tuning for videos backward in time added to Stable Video Diffusion, as svd_tools/convert.py
            writes it: the pipeline is then for videos between two images alone.

    Raises:
        RuntimeSetupError: versions are not supported, or the device is not available.
        ConfigError: the configuration, or a scale, is invalid.
        CheckpointError: the checkpoint, or a LoRA, cannot be used, or is of another model.
        TokenizerError: the model is given text, and its checkpoint has no tokenizer that can be used.
    """
    device = runtime.setup(device_target, mode)
    if config is not None and not isinstance(config, Model):
        config = load_config(config)
    if not checkpoint:
        raise CheckpointError("no checkpoint was given: the weights, as svd_tools/convert.py writes them")
    file = Checkpoint(checkpoint)
    config = config or file.config
    if decoder is not None:
        config = take_decoder(config, file, Checkpoint(decoder))
    image = None if spatial is None else Checkpoint(spatial)
    backward = None if reversal is None else read_reversal(reversal, config)
    networks = load_networks(config, file, device, amp_level, loras=read_loras(lora, lora_scale), spatial=image)
    pipe = model_of(config).pipeline(config, networks, lambda: runtime.free_memory(device), file.metadata)
    if backward is not None:
        pair_attention(networks["network"], backward)
        pipe.paired = True
    cache = open_cache(compile_cache, device) if mode == 0 else None
    for name, cell in {**networks, **pipe.denoiser.graphs}.items():
        keep_latest(cell)
        if cache:
            cache.keep(name, cell)
    return pipe


def stored_networks(config: Model, checkpoint: Checkpoint) -> dict[str, nn.Cell]:
    """Build the networks of a model that this checkpoint has weights for, by prefix; weights are not loaded.

    A part is replaced by its stand-in if the checkpoint has none of its weights, or has other networks than the
    configuration; not if some of its weights are merely missing.
    """
    parts, networks = _parts(config), build_networks(config)
    replaceable = [prefix for prefix in networks if parts[prefix].stand_in]
    wanted = {prefix: checkpoint_parameters({prefix: networks[prefix]}).keys() for prefix in replaceable}
    stored = {prefix: checkpoint.names(prefix) for prefix in replaceable}
    has_others = any(stored[prefix] - wanted[prefix] for prefix in replaceable)
    for prefix in replaceable:
        if wanted[prefix] <= stored[prefix] or (stored[prefix] and not has_others):
            continue
        del networks[prefix]
        stand_in = parts[prefix].stand_in
        if stand_in not in networks:
            with no_init_parameters():
                networks[stand_in] = parts[stand_in].build()
    return networks


def _parts(config: Model) -> dict[str, Part]:
    """The parts of a model by their prefixes."""
    return {part.prefix: part for part in model_of(config).parts(config)}


def load_networks(
    config: Model,
    checkpoint: Checkpoint,
    device: str,
    amp_level: AmpLevel,
    wanted: Optional[Collection[str]] = None,
    loras: Sequence[tuple[LoRA, float]] = (),
    spatial: Optional[Checkpoint] = None,
) -> dict[str, nn.Cell]:
    """Load networks onto a device that is set up, by the prefixes of their parameters.

    Args:
        wanted: which ones, by their prefixes; all of them if None.
        loras: adapters to merge into the weights, and their scales.
        spatial: the image model whose spatial layers and text encoder are loaded; if the temporal layers see text, the
            checkpoint's own text encoder is loaded for them, too, as `temporal_text_encoder`.

    Raises:
        CheckpointError: the checkpoint, or a LoRA, is of another model, or has a value that cannot be used.
    """
    networks, of_time = stored_networks(config, checkpoint), {}
    if spatial is not None:
        if isinstance(config, VideoLDMConfig) and config.temporal.sees_text:
            with no_init_parameters():
                of_time = {"text_encoder": _parts(config)["text_encoder"].build()}
            fill_networks(config, of_time, checkpoint, device, amp_level)  # before another's weights are in its place
        take_spatial(config, checkpoint, networks["network"], spatial)
    if loras:
        shapes = _shapes(networks)
        for lora, _ in loras:
            lora.check(config, shapes, str(checkpoint.path))
    networks = {prefix: network for prefix, network in networks.items() if wanted is None or prefix in wanted}
    fill_networks(config, networks, checkpoint, device, amp_level, changed=merging(loras))
    return networks | {f"temporal_{prefix}": network for prefix, network in of_time.items()}


def fill_networks(
    config: Model,
    networks: Mapping[str, nn.Cell],
    checkpoint: Checkpoint,
    device: str,
    amp_level: AmpLevel,
    trained: Collection[Parameter] = (),
    changed: Optional[Callable[[str, np.ndarray], np.ndarray]] = None,
) -> None:
    """Place networks on a device that is set up, and load their weights; raises CheckpointError.

    Args:
        networks: by their prefixes; adapters in them keep their values.
        trained: parameters to train, which stay in float32.
        changed: transforms a tensor, given its name; merges adapters, for example.
    """
    checkpoint.check(networks)  # before they take memory
    parts, dtype = _parts(config), compute_dtype(device, amp_level)
    learned = {id(parameter) for parameter in trained}
    for prefix, network in networks.items():
        network.set_train(False)
        exact = parts[prefix].exact and learned.isdisjoint(map(id, network.get_parameters()))
        place(network, device, ms.float32 if exact else dtype, trained)
    checkpoint.load(networks, changed)
