"""Files of ComfyUI (ImageOnlyCheckpointSave): Stability's layout, in which two networks are otherwise.

CLIP has the names of transformers, and there is one autoencoder: the first stage's, which encodes the image, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from svd.config import ModelConfig
from svd_tools.checkpoints.checkpoint_maps import CLIP_SGM, IMAGE_SGM, Entry, Layout, Shape, expand
from svd_tools.checkpoints.tensor_files import LazyTensor

_IMAGE = "conditioner.autoencoder.encoder."


def as_found(entries: list[Entry], config: ModelConfig, names: Collection[str]) -> list[Entry]:
    """The entries of Stability's layout by the names that a file of it has, which may be ComfyUI's.

    The last 1x1 convolution (`quant_conv`) of the image's encoder has no entry where the first stage has none.
    """
    if has_transformers_clip(names):
        clip = [entry.ours for entry in entries if entry.ours.startswith("conditioner.image_encoder.")]
        theirs = {entry.ours: entry for entry in expand("diffusers", config, clip)}
        front = len("image_encoder")
        entries = [
            replace(theirs[entry.ours], theirs=CLIP_SGM + theirs[entry.ours].theirs[front:])
            if entry.ours in theirs
            else entry
            for entry in entries
        ]
    if has_one_autoencoder(names):
        entries = [
            replace(entry, theirs=f"first_stage_model{entry.theirs.removeprefix(IMAGE_SGM)}")
            if entry.ours.startswith(_IMAGE)
            else entry
            for entry in entries
        ]
        if not any(name.startswith("first_stage_model.quant_conv.") for name in names):
            entries = [entry for entry in entries if not entry.ours.startswith(f"{_IMAGE}quant_conv.")]
    return entries


def has_transformers_clip(names: Iterable[str]) -> bool:
    """Whether Stability's layout holds CLIP by the names of transformers."""
    return any(name.startswith(f"{CLIP_SGM}.vision_model.") for name in names)


def has_one_autoencoder(names: Iterable[str]) -> bool:
    """Whether Stability's layout has no autoencoder of its own for the conditioning image."""
    return not any(name.startswith(f"{IMAGE_SGM}.") for name in names)


def differences(layout: Layout, names: Collection[str]) -> list[str]:
    """What is to be said of a file that differs from Stability's as ComfyUI's do."""
    notes = []
    if layout == "sgm" and has_transformers_clip(names):
        notes.append("the image encoder (CLIP) has the names of transformers, as in files of ComfyUI")
    if layout == "sgm" and has_one_autoencoder(names):
        notes.append("there is one autoencoder, as in files of ComfyUI: the first stage's encodes the image, too")
    return notes


def identity_convolution(found: Mapping[str, LazyTensor], shapes: Mapping[str, Shape]) -> dict[str, LazyTensor]:
    """The conditioner's last convolution where its encoder is a first stage's that has none: it changes nothing."""
    weight, bias = (f"{_IMAGE}quant_conv.{end}" for end in ("weight", "bias"))
    if weight in found or weight not in shapes:
        return {}
    like, channels = found[f"{_IMAGE}conv_out.weight"], shapes[bias][0]
    one, nothing = np.eye(channels, dtype=like.dtype).reshape(shapes[weight]), np.zeros(channels, like.dtype)
    return {
        weight: LazyTensor(one.shape, one.dtype, ("", 0), lambda: one),
        bias: LazyTensor(nothing.shape, nothing.dtype, ("", 0), lambda: nothing),
    }
