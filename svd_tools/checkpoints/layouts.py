"""Layouts of checkpoints: a record for each says how it is recognised, which part of a model is where in it, and under
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
    """Where a layout has a part of a model."""

    root: str
    """What is in front of the names, without the dot."""
    table: Table
    column: str
    """Of the table."""
    without: tuple[str, ...] = ()
    """How our names of layers begin that are not stored there."""


@dataclass(frozen=True)
class Layout:
    """One way of storing a whole model."""

    name: str
    owner: str
    """Whose it is, in messages."""
    title: str
    ending: str
    """Of what is written in it, behind the stem of its name."""
    mark: str
    """How the names of the UNet begin, by which the layout is recognised."""
    needs: Mapping[str, tuple[str, ...]]
    """What a model cannot do without beside its UNet, and how its names begin: one way or another."""
    places: Mapping[str, Optional[Place]] = field(default_factory=dict)
    """Of a model's parts, by their prefixes: None for one that it does not store. Our own layout has none."""
    first: str = "conv_in.weight"
    """A tensor of the UNet that must be there for the mark to count behind something else; empty if it says enough."""
    unet: str = ""
    """A regular expression for names that only a UNet of this owner has, whatever is in front of it."""
    averages: str = ""
    """What is in front of averages (EMA) whose names are those of the weights without their dots."""
    check: Callable[[ModelConfig, bool], None] = lambda config, whole: None
    """Raises CheckpointError for a model, or the UNet alone if not `whole`, that it cannot express."""
    check_settings: Callable[[Path, ModelConfig], None] = lambda folder, config: None
    """Raises CheckpointError where the settings beside the tensors of a folder contradict the config."""
    write_folder: Optional[Callable[..., None]] = None
    """Writes it where it is a folder, not a .safetensors file: `diffusers_folder.write_folder`."""


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
    """One tensor of ours and where it is found in another layout."""

    ours: str
    theirs: str
    transform: str


def expand(layout: Layout, config: ModelConfig, names: Iterable[str]) -> list[Entry]:
    """The entries of every name of ours that the layout stores, in the order of `names`.

    Raises LookupError for a name that is of no part, or in no table.
    """
    if not layout.places:
        return [Entry(name, name, "same") for name in names]
    found = ((name, _translate(layout, config, name)) for name in names)
    return [Entry(name, *translated) for name, translated in found if translated is not None]


def _translate(layout: Layout, config: ModelConfig, name: str) -> Optional[tuple[str, str]]:
    """(their name, transform) of one of our names; None when they do not store it."""
    for part, place in layout.places.items():
        if name.startswith(f"{part}."):
            inside = name.removeprefix(f"{part}.")
            if place is None or inside.startswith(place.without):
                return None
            found = place.table.translate(inside, place.column, config)
            return found and (f"{place.root}.{found[0]}", found[1])
    raise LookupError(f"no part is called as {name}")


def detect_layout(names: Collection[str]) -> Optional[Layout]:
    """Whose names these are; None for another model's."""
    for layout in LAYOUTS.values():
        if any(name.startswith(layout.mark) for name in names):
            return layout
    return None
