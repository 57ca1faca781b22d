"""Reading trained weights, and writing them alone or merged into their pretrained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from svd.checkpoints.formats import TOKENIZER, TRAINED_FORMAT
from svd.checkpoints.lora import LoRA, read_lora
from svd.checkpoints.tensor_files import LazyTensor, finite, lazy_tensors, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError, read_header
from svd.config import LatentModel, Model, dump_config, parse_config
from svd.console import first_few
from svd_tools.checkpoints.assembly import stores_tokenizer
from svd_tools.checkpoints.conversion import from_layout, to_layout
from svd_tools.checkpoints.converter import write_model
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.layouts import OURS, find_layout
from svd_tools.checkpoints.output import cast_all, writing
from svd_tools.checkpoints.tables import Shape


@dataclass(frozen=True)
class Trained:
    """Trained tensors of a run: a part of a model."""

    path: Path
    tensors: dict[str, LazyTensor]
    """By our names; reading one raises CheckpointError if a value is not finite."""
    config: Model
    pretrained: str
    """The checkpoint that the training started from; empty if it is not recorded."""
    lora: Optional[LoRA] = None
    """The adapters that the tensors are, if any."""


def read_trained(path: Path) -> Trained:
    """Open a file of trained weights.

    Raises:
        CheckpointError: the file is damaged, or not written by train.py.
    """
    header = read_header(path)
    metadata = header.metadata
    needed = {"config"} if "lora" in metadata else {"config", "pretrained"}
    if metadata.get("format") != TRAINED_FORMAT or not needed <= metadata.keys():
        raise CheckpointError(f"{path} holds no trained weights as train.py writes them")
    checked = {name: finite(name, tensor) for name, tensor in lazy_tensors(path, header).items()}
    lora = read_lora(path) if "lora" in metadata else None
    return Trained(path, checked, parse_config(metadata["config"]), metadata.get("pretrained", ""), lora)


def write_merged(
    trained: Trained,
    pretrained: Path,
    target: Path,
    to: str = OURS,
    dtype: str = "keep",
    lora_scale: float = 1.0,
    scale_factor: Optional[float] = None,
) -> None:
    """Write the pretrained model with the trained tensors in place of its own.

    Args:
        pretrained: the checkpoint that the training started from, in this project's layout.
        target: the output, replaced if it exists.
        to, dtype: the layout, and the type of the values, as for `write_model`.
        lora_scale: scale of the adapters.
        scale_factor: of the autoencoder's latents, if it was measured.

    Raises:
        CheckpointError: the two cannot be merged; nothing was written.
    """
    if not pretrained.is_file():
        raise CheckpointError(
            f"{pretrained}, which the training began with, is not there; say where it is with --pretrained, "
            "or export the trained tensors alone with --trained_only"
        )
    header = read_header(pretrained)
    tensors, metadata = lazy_tensors(pretrained, header), header.metadata
    if not any(name.startswith("network.") for name in tensors):
        raise CheckpointError(f"{pretrained} is not in this project's layout; convert it with svd_tools/convert.py")
    model = trained.config
    if "config" in metadata:
        model = _merged_config(trained, pretrained, parse_config(metadata["config"]))
    if scale_factor is not None:
        model = dataclasses.replace(
            model, autoencoder=dataclasses.replace(model.autoencoder, scale_factor=scale_factor)
        )
    layout = find_layout(model, to)
    layout.check(model, True)
    if stores_tokenizer(model, layout) and TOKENIZER not in metadata:
        raise CheckpointError(f"{pretrained} has no vocabulary: convert it again, with one")
    weights = from_layout(tensors, find_layout(model, OURS), model, _shapes(model))
    _check_model(trained, model, {name: tensor.shape for name, tensor in weights.tensors.items()}, str(pretrained))
    changed = trained.tensors
    if trained.lora is not None:
        names = trained.lora.weights
        changed = {name: _adapted(trained.lora, name, weights.tensors[name], lora_scale) for name in names}
    merged = dataclasses.replace(weights, tensors=weights.tensors | changed)
    write_model(target, merged, model, layout, dtype, metadata.get(TOKENIZER, ""))


def _adapted(lora: LoRA, name: str, weight: LazyTensor, scale: float) -> LazyTensor:
    """A weight with its adapter merged at this scale, float32; unchanged at scale 0."""
    if not scale:
        return weight
    added = dataclasses.replace(weight, dtype=np.dtype(np.float32), read=lambda: lora.added(name, weight.read(), scale))
    return finite(name, added)


def _merged_config(trained: Trained, pretrained: Path, before: Model) -> Model:
    """The training's configuration, which may differ in preconditioning, sampling and decoder; the rest has to agree.

    The decoder is that of the pretrained checkpoint: the training did not need it. Adapters of an image model may be
    merged into a video model that has its layers: it stays what it was.
    """
    if trained.lora is not None and type(before) is not type(trained.config):
        return before
    if different := trained.config.different_networks(before):
        raise CheckpointError(f"{trained.path} is of another model than {pretrained}: {different[0]}")
    if not isinstance(before, LatentModel):
        return trained.config
    autoencoder = dataclasses.replace(trained.config.autoencoder, decoder=before.autoencoder.decoder)
    return dataclasses.replace(trained.config, autoencoder=autoencoder)


def write_trained(trained: Trained, target: Path, to: str = OURS, dtype: str = "keep") -> None:
    """Write the trained tensors to a file of their own, replaced if it exists; raises CheckpointError."""
    layout = find_layout(trained.config, to)
    if trained.lora is not None and to != OURS:
        raise CheckpointError(
            f"adapters alone are written in this project's layout only: without --trained_only they are merged, and "
            f"can be exported to {layout.title}"
        )
    layout.check(trained.config, False)
    _check_model(trained, trained.config, _shapes(trained.config), "its own config says")
    metadata = {"format": "pt"}
    if to == OURS:  # without the path of the pretrained checkpoint, which means nothing elsewhere
        metadata = {"format": TRAINED_FORMAT, "config": dump_config(trained.config)}
        if trained.lora is not None:
            metadata |= trained.lora.metadata
    else:
        # A foreign tensor can be several of ours, except in the UNet; and diffusers has a file per network.
        others = [name for name in trained.tensors if not name.startswith("network.")]
        if others:
            raise CheckpointError(
                f"{others[0]} is no tensor of the UNet: without --trained_only it can be exported to {layout.title}"
            )
    stored = {entry.ours for entry in expand(layout, trained.config, trained.tensors)}
    if unplaced := [name for name in trained.tensors if name not in stored]:
        raise CheckpointError(f"there is no place for {first_few(unplaced)} in {layout.title}")
    outputs = cast_all(to_layout(trained.tensors, layout, trained.config), dtype)
    if layout.folder:
        outputs = {name.removeprefix(layout.mark): tensor for name, tensor in outputs.items()}
    with writing(target, outputs) as (temporary, progress):
        write_safetensors(temporary, outputs, metadata, progress)
    print(f"wrote {len(outputs)} tensors in {layout.title}:\n{target}")


def _shapes(config: Model) -> dict[str, Shape]:
    from svd.build import parameter_shapes  # MindSpore takes seconds to import, which --help and errors do not wait for

    return parameter_shapes(config)


def _check_model(trained: Trained, model: Model, known: Mapping[str, Shape], where: str) -> None:
    """Raise CheckpointError for trained tensors that are missing in the model, or of another shape."""
    if trained.lora is not None:
        trained.lora.check(model, known, where)
        return
    wrong = [
        f"{name} {list(tensor.shape)}" + (f" instead of {list(known[name])}" if name in known else "")
        for name, tensor in trained.tensors.items()
        if known.get(name) != tensor.shape
    ]
    if wrong:
        raise CheckpointError(
            f"{trained.path} is of another model than {where}: {len(wrong)} tensors are not there or of another "
            f"shape ({first_few(wrong)})"
        )
