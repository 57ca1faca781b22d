"""Conversion of UNets that were fine-tuned for videos backward in time: Generative Inbetweening (arXiv 2408.15239)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from svd.checkpoints.formats import REVERSAL_FORMAT
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.reversal import CHANGED
from svd.checkpoints.tensor_files import LazyTensor, finite, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ModelConfig, dump_config
from svd_tools.checkpoints.assembly import Source
from svd_tools.checkpoints.layout import expand
from svd_tools.checkpoints.output import cast_all, writing
from svd_tools.checkpoints.tables import TRANSFORMS

_ATTENTION = re.compile(r"network\..*\.temporal\.attn1\.(.*)")
_SAME = 1e-3
"""The largest difference, of a tensor's largest value, of what was not fine-tuned: of float16 it is half of that."""


def unet_file(path: Path) -> Path:
    """The file of weights of a folder that has a UNet, or is that of a UNet; a file itself."""
    if not path.is_dir():
        return path
    names = [f"diffusion_pytorch_model.{kind}" for kind in ("safetensors", "fp16.safetensors", "bin", "fp16.bin")]
    files = [folder / name for folder in (path / "unet", path) for name in names]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise CheckpointError(f"{path} has no UNet: neither unet/{names[0]} nor {names[0]}")
    return found


def convert_reversal(source: Source, base: Path, target: Path, dtype: str) -> Path:
    """Write what the fine-tuned temporal attention of the source has more than that of its base; returns the target.

    Args:
        source: a UNet, or its temporal self-attentions alone.
        base: the model that the fine-tuning began with, in this project's layout.

    Raises:
        CheckpointError: they are no models of images to videos, or do not belong together; nothing was written.
    """
    if not isinstance(source.config, ModelConfig):
        raise CheckpointError("videos backward in time are made by Stable Video Diffusion alone", setting="config")
    before = Checkpoint(base)
    before.check_model(source.config)
    names = [name for name in before.shapes if _ATTENTION.fullmatch(name)]
    changed, added = 0.0, {}
    for entry in expand(source.layout, source.config, names):
        kind, found = _ATTENTION.fullmatch(entry.ours)[1], source.tensors.get(entry.theirs)
        if found is None and kind in CHANGED:
            raise CheckpointError(
                f"{source.path} has no {entry.theirs}, which is fine-tuned for videos backward in time"
            )
        if found is None:  # the others are the base's
            continue
        wanted = TRANSFORMS[entry.transform].shape(before.shapes[entry.ours])
        if found.shape != wanted:
            raise CheckpointError(
                f"{source.path}: {entry.theirs} is {list(found.shape)}, not {list(wanted)} as in {base}"
            )
        ours = TRANSFORMS[entry.transform].to_ours(finite(entry.theirs, found).read()).astype(np.float32)
        theirs = before.read(entry.ours).astype(np.float32)
        difference = ours - theirs
        if kind in CHANGED:
            changed = max(changed, np.abs(difference).max())
            added[entry.ours] = LazyTensor(difference.shape, difference.dtype, ("", 0), lambda array=difference: array)
        elif np.abs(difference).max() > _SAME * np.abs(theirs).max():
            raise CheckpointError(
                f"{source.path} is no fine-tuning of {base} for videos backward in time: {entry.theirs}, which that "
                "leaves as it is, differs"
            )
    if not added or changed == 0:
        raise CheckpointError(f"{source.path} has the temporal self-attention of {base}: it was not fine-tuned")
    outputs = cast_all(added, dtype)
    with writing(target, outputs) as (temporary, progress):
        metadata = {"format": REVERSAL_FORMAT, "config": dump_config(source.config)}
        write_safetensors(temporary, outputs, metadata, progress)
    print(f"wrote {len(outputs)} differences of temporal self-attention for videos backward in time:\n{target}")
    return target
