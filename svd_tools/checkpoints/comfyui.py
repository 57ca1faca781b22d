"""Files of ComfyUI (ImageOnlyCheckpointSave): Stability's layout, but for two networks.

CLIP has the names of transformers, and there is one autoencoder, the first stage's, which also encodes the image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from svd.checkpoints.tensor_files import LazyTensor
from svd_tools.checkpoints.layout import Layout, Place
from svd_tools.checkpoints.layouts import CLIP_SGM, FIRST_STAGE, IMAGE_SGM, SGM
from svd_tools.checkpoints.names.autoencoder import ENCODER
from svd_tools.checkpoints.names.clip import CLIP
from svd_tools.checkpoints.tables import Shape

_IMAGE = "conditioner.autoencoder.encoder"


def as_found(layout: Layout, names: Collection[str]) -> tuple[Layout, list[str]]:
    """The variant of the layout of a file with these names, and notes on it.

    The last 1x1 convolution (`quant_conv`) of the image's encoder is left out if the first stage has none.
    """
    if layout is not SGM:
        return layout, []
    places, notes = dict(layout.places), []
    if any(name.startswith(f"{CLIP_SGM}.vision_model.") for name in names):
        places["conditioner.image_encoder"] = Place(CLIP_SGM, CLIP, "diffusers")
        notes.append("the image encoder (CLIP) has the names of transformers, as in files of ComfyUI")
    first_stage = any(name.startswith(f"{FIRST_STAGE}.") for name in names)
    if first_stage and not any(name.startswith(f"{IMAGE_SGM}.") for name in names):
        last = any(name.startswith(f"{FIRST_STAGE}.quant_conv.") for name in names)
        places[_IMAGE] = Place(FIRST_STAGE, ENCODER, "sgm", without=() if last else ("quant_conv.",))
        notes.append("there is one autoencoder, as in files of ComfyUI: the first stage's encodes the image, too")
    return replace(layout, places=places), notes


def identity_convolution(found: Mapping[str, LazyTensor], shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The conditioner's `quant_conv` where its encoder is that of a first stage without one: the identity."""
    weight, bias = (f"{_IMAGE}.quant_conv.{end}" for end in ("weight", "bias"))
    last = found.get(f"{_IMAGE}.conv_out.weight")
    if weight in found or weight not in shapes or last is None:
        return {}
    channels, dtype = shapes[bias][0], last.dtype
    return {weight: np.eye(channels, dtype=dtype).reshape(shapes[weight]), bias: np.zeros(channels, dtype)}
