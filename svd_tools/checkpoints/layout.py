"""A layout of checkpoints: where another program stores the parts of a model, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from svd.checkpoints.tensor_files import LazyTensor
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import Model, VideoLDMConfig
from svd_tools.checkpoints.diffusers_folder import Folder
from svd_tools.checkpoints.tables import Shape, Table

NEVER = "(?!)"
"""A regular expression that matches nothing."""


@dataclass(frozen=True)
class Place:
    """Where a layout stores a part of a model."""

    root: str
    """Prefix of the names, without the dot; may be empty."""
    table: Table
    column: str
    """Column of the table."""
    without: tuple[str, ...] = ()
    """Beginnings of our names of layers that it does not store."""


@dataclass(frozen=True)
class Layout:
    """A format of a model."""

    name: str
    """The value of --to."""
    kinds: tuple[type, ...]
    """What it expresses: classes of configurations, or of temporal layers (`kind_of`)."""
    title: str
    ending: str
    """Suffix of files in this layout, after the stem of the name; empty if it is only read."""
    mark: str
    """Beginning of the UNet's names, by which the layout is recognised."""
    needs: Mapping[str, tuple[str, ...]]
    """Required networks beside the UNet, and possible beginnings of their names."""
    places: Mapping[str, Optional[Place]] = field(default_factory=dict)
    """Places of a model's parts, by their prefixes; None for a part that is not stored. Our own layout has none."""
    first: str = "conv_in.weight"
    """A tensor of the UNet that must exist for the mark to count after a prefix; empty if the mark is sufficient."""
    unet: str = NEVER
    """A regular expression for names that only UNets of this owner have, with any prefix."""
    averages: str = ""
    """Prefix of EMA weights, whose names are those of the weights without dots."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Regular expressions for other spellings of names, and their replacements."""
    ignored: str = NEVER
    """A regular expression for beginnings of names that are no part of the model; `{layers}` is the number of layers of
    its text encoder."""
    copies: tuple[tuple[str, str], ...] = ()
    """Regular expressions for names of what is stored again, and the names of what it has to equal."""
    constants: Callable[[Model, Mapping[str, Shape]], dict[str, np.ndarray]] = lambda config, shapes: {}
    """(model, the layout's tensors) -> further ones, which follow from the configuration: written, not read."""
    check: Callable[[Model, bool], None] = lambda config, whole: None
    """Raises CheckpointError for a model (only its UNet if not `whole`) that the layout cannot express."""
    partial: str = ""
    """What it has no place for, if it is of temporal layers alone."""
    suits: Callable[[Model], bool] = lambda config: True
    """Whether this is what is written for a configuration, if several layouts have the name."""
    folder: Optional[Folder] = None
    """The folder of a layout that is no .safetensors file."""
    alone: bool = False
    """Whether that folder may have a UNet alone, or be that of a UNet."""
    files: tuple[str, ...] = ()
    """Files of a folder in this layout, whose stems are prefixes of names."""


def kind_of(config: Model) -> type:
    """What layouts distinguish models by: the class of its temporal layers, or of the configuration."""
    return type(config.temporal.layers if isinstance(config, VideoLDMConfig) else config)


@dataclass(frozen=True)
class Entry:
    """One of our tensors, and where another layout stores it."""

    ours: str
    theirs: str
    transform: str


def renamed(tensors: Mapping[str, LazyTensor], rename: Callable[[str], str]) -> dict[str, LazyTensor]:
    """The tensors by other names; raises CheckpointError if two of them get the same."""
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        short = rename(name)
        if short in found:
            raise CheckpointError(f"{name} and {short} are both in the checkpoint, but mean the same")
        found[short] = tensor
    return found


def expand(layout: Layout, config: Model, names: Iterable[str]) -> list[Entry]:
    """The entries of our names that the layout stores, in the order of `names`.

    Raises LookupError for a name that belongs to no part, or is in no table.
    """
    if not layout.places:
        return [Entry(name, name, "same") for name in names]
    found = ((name, _translate(layout, config, name)) for name in names)
    return [Entry(name, *translated) for name, translated in found if translated is not None]


def _translate(layout: Layout, config: Model, name: str) -> Optional[tuple[str, str]]:
    """(foreign name, transform) of one of our names; None if it is not stored."""
    for part, place in layout.places.items():
        if name.startswith(f"{part}."):
            inside = name.removeprefix(f"{part}.")
            if place is None or inside.startswith(place.without):
                return None
            found = place.table.translate(inside, place.column, config)
            return found and (f"{place.root}.{found[0]}".removeprefix("."), found[1])
    raise LookupError(f"no part is called as {name}")
