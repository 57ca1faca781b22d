"""A model from its sources: a checkpoint, and the model that its temporal layers, or its UNet, belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

from svd.checkpoints.formats import MODEL_FORMAT, TOKENIZER
from svd.checkpoints.tensor_files import LazyTensor
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ImageLDMConfig, Model, ModelConfig, parse_config
from svd.console import printable
from svd_tools.checkpoints.conversion import Weights, from_layout
from svd_tools.checkpoints.identity import check_motion_base
from svd_tools.checkpoints.layout import Layout
from svd_tools.checkpoints.layouts import OURS
from svd_tools.checkpoints.recognition import Choice, recognise
from svd_tools.checkpoints.sources import Opened
from svd_tools.checkpoints.vocabulary import WHERE, check_vocabulary, read_vocabulary

_ALIKE = ("convolution_projection", "upcast_attention")
"""Settings of a UNet that its weights in this project's layout do not depend on."""


@dataclass(frozen=True)
class Source:
    """A checkpoint in a layout that is known."""

    path: Path
    config: Model
    layout: Layout
    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]


def open_source(path: Path, opened: Opened, config: Model, weights: Choice, complete: bool = True) -> Source:
    """Recognise a checkpoint, and print what was found.

    Args:
        weights, complete: as for `recognise`.

    Raises:
        CheckpointError: it is not what the configuration describes.
    """
    recognised = recognise(printable(str(path)), opened.tensors, config, weights, complete)
    layout, tensors = recognised.layout, recognised.tensors
    _check_own_config(path, opened.metadata, config)
    print(printable(f"{path} is {opened.kind} in {layout.title}: {len(tensors)} tensors"))
    notes = [*opened.notes, *recognised.notes]
    layout.check(config, True)
    if layout.folder and path.is_dir():
        notes += layout.folder.check_settings(path, config)
    for note in notes:
        print(printable(f"NOTE: {note}."))
    return Source(path, config, layout, tensors, opened.metadata)


def _check_own_config(path: Path, metadata: Mapping[str, str], config: Model) -> None:
    """Raise CheckpointError for a file of this project whose configuration has other networks."""
    if metadata.get("format") != MODEL_FORMAT or "config" not in metadata:
        return
    different = parse_config(metadata["config"]).different_networks(config)
    different = [line for line in different if not any(f".{setting} is" in line for setting in _ALIKE)]
    if different:
        raise CheckpointError(f"{path} is of another model than the config: {different[0]}")


def other_model(
    config: Model, image_model: Optional[str | Path], base_model: Optional[str | Path]
) -> Optional[tuple[Path, Model]]:
    """The model that the rest of an incomplete one is taken from, and its configuration: the image model of a model
    that is given text, or the base of a UNet of Stable Video Diffusion; None if neither was given.

    Raises CheckpointError for one that is of no use.
    """
    if image_model is not None:
        return Path(image_model), _image_config(config)
    if base_model is not None and not isinstance(config, ModelConfig):
        problem = "a base model is for UNets of Stable Video Diffusion: leave it out (others have image_model)"
        raise CheckpointError(problem, setting="base_model")
    return None if base_model is None else (Path(base_model), config)


def _image_config(config: Model) -> ImageLDMConfig:
    """The configuration of the image model in a model that is given text."""
    if not isinstance(config, ImageLDMConfig):
        raise CheckpointError("an image model is for models that are given text: leave it out", setting="image_model")
    check_motion_base(config)
    return ImageLDMConfig(**{field.name: getattr(config, field.name) for field in fields(ImageLDMConfig)})


def assemble(source: Source, other: Optional[Source] = None) -> Weights:
    """Convert the tensors of the sources to our names.

    Raises:
        CheckpointError: they do not fit the config, or nothing of the other model is needed.
    """
    from svd.build import parameter_shapes  # MindSpore takes seconds to import, which --help and errors do not wait for

    shapes = parameter_shapes(source.config)
    if other is None:
        return from_layout(source.tensors, source.layout, source.config, shapes)
    supplied = other_shapes = parameter_shapes(other.config)
    if isinstance(source.config, ModelConfig):  # a UNet, which has to be whole
        supplied = {name for name in other_shapes if not name.startswith("network.")}
    own = from_layout(source.tensors, source.layout, source.config, shapes, supplied=supplied)
    others = from_layout(other.tensors, other.layout, other.config, other_shapes)
    if isinstance(source.config, ModelConfig) and not own.tensors.keys().isdisjoint(supplied):
        raise CheckpointError(f"{source.path} has more than a UNet: leave the base model out", setting="base_model")
    if own.tensors.keys() >= shapes.keys():
        raise CheckpointError(f"{source.path} has all networks: leave the image model out", setting="image_model")
    leftovers, entries = own.leftovers + others.leftovers, own.entries + others.entries
    return Weights(others.tensors | own.tensors, leftovers, shapes, entries)


def find_tokenizer(sources: Sequence[Source], path: Optional[Path]) -> str:
    """The vocabulary at the path, or of the first source that has one, as it is in the metadata of a checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    config = sources[0].config.text_encoder
    if path is not None:
        return read_vocabulary(path, config)
    for source in sources:
        if TOKENIZER in source.metadata:
            return check_vocabulary(source.metadata[TOKENIZER], config)
        if source.path.is_dir() and (source.path / "tokenizer").is_dir():
            return read_vocabulary(source.path / "tokenizer", config)
    raise CheckpointError(
        f"{sources[-1].path} has no vocabulary, which turns prompts into tokens: give {WHERE}", setting="tokenizer"
    )


def stores_tokenizer(config: Model, layout: Layout) -> bool:
    """Whether the vocabulary of a model is written in a layout."""
    in_folder = layout.folder is not None and "tokenizer" in layout.folder.components
    return getattr(config, "text_encoder", None) is not None and (layout.name == OURS or in_folder)
