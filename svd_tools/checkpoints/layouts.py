"""Layouts of checkpoints: a record each, with how it is recognised, where it stores the parts of a model, and under
which names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from svd.config import ModelConfig
from svd_tools.checkpoints import diffusers_folder
from svd_tools.checkpoints.names.autoencoder import DECODER, ENCODER
from svd_tools.checkpoints.names.clip import CLIP
from svd_tools.checkpoints.names.unet import UNET
from svd_tools.checkpoints.tables import Table


@dataclass(frozen=True)
class Place:
    """Where a layout stores a part of a model."""

    root: str
    """Prefix of the names, without the dot."""
    table: Table
    column: str
    """Column of the table."""
    without: tuple[str, ...] = ()
    """Beginnings of our names of layers that it does not store."""


@dataclass(frozen=True)
class Layout:
    """A format of a whole model."""

    name: str
    owner: str
    """Owner, in messages."""
    title: str
    ending: str
    """Suffix of files in this layout, after the stem of the name."""
    mark: str
    """Beginning of the UNet's names, by which the layout is recognised."""
    needs: Mapping[str, tuple[str, ...]]
    """Required networks beside the UNet, and possible beginnings of their names."""
    places: Mapping[str, Optional[Place]] = field(default_factory=dict)
    """Places of a model's parts, by their prefixes; None for a part that is not stored. Our own layout has none."""
    first: str = "conv_in.weight"
    """A tensor of the UNet that must exist for the mark to count after a prefix; empty if the mark is sufficient."""
    unet: str = ""
    """A regular expression for names that only UNets of this owner have, with any prefix."""
    averages: str = ""
    """Prefix of EMA weights, whose names are those of the weights without dots."""
    check: Callable[[ModelConfig, bool], None] = lambda config, whole: None
    """Raises CheckpointError for a model (only its UNet if not `whole`) that the layout cannot express."""
    check_settings: Callable[[Path, ModelConfig], None] = lambda folder, config: None
    """Raises CheckpointError if a folder's settings contradict the config."""
    write_folder: Optional[Callable[..., None]] = None
    """Writer of a layout that is a folder, not a .safetensors file: `diffusers_folder.write_folder`."""


SVD = Layout(
    name="svd",
    owner="this project's",
    title="this project's layout",
    ending=".safetensors",
    mark="network.",
    needs={"image encoder (CLIP)": ("conditioner.image_encoder.",), "autoencoder": ("autoencoder.decoder.",)},
)
CLIP_SGM = "conditioner.embedders.0.open_clip.model.visual"
IMAGE_SGM = "conditioner.embedders.3.encoder"
FIRST_STAGE = "first_stage_model"
SGM = Layout(
    name="sgm",
    owner="Stability's",
    title="Stability's layout (sgm)",
    ending="_sgm.safetensors",
    mark="model.diffusion_model.",
    needs={
        "image encoder (CLIP)": (f"{CLIP_SGM}.",),
        "autoencoder": (f"{FIRST_STAGE}.decoder.",),
        "encoder of an autoencoder": (f"{FIRST_STAGE}.encoder.", f"{IMAGE_SGM}."),
    },
    places={
        "network": Place("model.diffusion_model", UNET, "sgm"),
        "conditioner.image_encoder": Place(CLIP_SGM, CLIP, "sgm"),
        "conditioner.autoencoder.encoder": Place(IMAGE_SGM, ENCODER, "sgm"),
        "conditioner.autoencoder.decoder": Place(IMAGE_SGM, DECODER, "sgm"),
        "autoencoder.encoder": Place(FIRST_STAGE, ENCODER, "sgm"),
        "autoencoder.decoder": Place(FIRST_STAGE, DECODER, "sgm"),
    },
    first="",
    unet=r"input_blocks\.0\.0\.",
    averages="model_ema.",
)
DIFFUSERS = Layout(
    name="diffusers",
    owner="diffusers'",
    title="diffusers' layout",
    ending="_diffusers",
    mark="unet.",
    needs={"image encoder (CLIP)": ("image_encoder.",), "autoencoder": ("vae.",)},
    places={
        "network": Place("unet", UNET, "diffusers"),
        "conditioner.image_encoder": Place("image_encoder", CLIP, "diffusers"),
        "conditioner.autoencoder.encoder": Place("vae", ENCODER, "diffusers"),
        "conditioner.autoencoder.decoder": None,
        "autoencoder.encoder": None,
        "autoencoder.decoder": Place("vae", DECODER, "diffusers"),
    },
    unet=r"(^|\.)down_blocks\.0\.(resnets|attentions)\.0\.",
    check=diffusers_folder.check_expressible,
    check_settings=diffusers_folder.check_settings,
    write_folder=diffusers_folder.write_folder,
)
LAYOUTS = {layout.name: layout for layout in (SVD, SGM, DIFFUSERS)}


@dataclass(frozen=True)
class Entry:
    """One of our tensors, and where another layout stores it."""

    ours: str
    theirs: str
    transform: str


def expand(layout: Layout, config: ModelConfig, names: Iterable[str]) -> list[Entry]:
    """The entries of our names that the layout stores, in the order of `names`.

    Raises LookupError for a name that belongs to no part, or is in no table.
    """
    if not layout.places:
        return [Entry(name, name, "same") for name in names]
    found = ((name, _translate(layout, config, name)) for name in names)
    return [Entry(name, *translated) for name, translated in found if translated is not None]


def _translate(layout: Layout, config: ModelConfig, name: str) -> Optional[tuple[str, str]]:
    """(foreign name, transform) of one of our names; None if it is not stored."""
    for part, place in layout.places.items():
        if name.startswith(f"{part}."):
            inside = name.removeprefix(f"{part}.")
            if place is None or inside.startswith(place.without):
                return None
            found = place.table.translate(inside, place.column, config)
            return found and (f"{place.root}.{found[0]}", found[1])
    raise LookupError(f"no part is called as {name}")


def detect_layout(names: Collection[str]) -> Optional[Layout]:
    """The layout that these names are of; None for another model."""
    for layout in LAYOUTS.values():
        if any(name.startswith(layout.mark) for name in names):
            return layout
    return None
