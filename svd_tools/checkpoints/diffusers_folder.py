"""The folder of a diffusers pipeline: checking its settings, and writing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from svd.checkpoints.tensor_files import LazyTensor, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import Model
from svd.files import fsync
from svd.records import RecordError, read_json
from svd_tools.checkpoints.vocabulary import write_vocabulary

LARGEST_CONFIG = 1 << 20  # bytes of a config.json
_OF_NETWORK = "config.json"
"""The JSON file beside tensors."""
FILES = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}


class Component(NamedTuple):
    """A subfolder, of a network or of settings alone."""

    library: str
    kind: str
    """Its class in the library; empty if its settings say so."""
    settings: Callable[[Model], dict]
    """Content of its JSON file."""
    invisible: tuple[str, ...] = ()
    """Settings that shapes do not show, and that must be those of the config."""
    noted: tuple[str, ...] = ()
    """Settings that may differ: those of the config are used."""
    file: str = _OF_NETWORK


@dataclass(frozen=True)
class Folder:
    """The folder of a pipeline of diffusers."""

    pipeline: str
    """Its class."""
    version: str
    """The first release of diffusers with it."""
    components: Mapping[str, Component]
    """By the names of the subfolders."""
    absent: tuple[str, ...] = ()
    """Further components, which the pipeline can do without."""
    values: Callable[[Model], dict] = lambda config: {}
    """Settings of the pipeline itself."""

    @property
    def networks(self) -> dict[str, Component]:
        """Those with tensors, whose names are prefixed with the subfolder's."""
        return {name: component for name, component in self.components.items() if component.file == _OF_NETWORK}

    def config_files(self, config: Model) -> dict[str, dict]:
        """All files except tensors and vocabularies, by path."""
        settings = {name: component.settings(config) for name, component in self.components.items()}
        index = {
            "_class_name": self.pipeline,
            "_diffusers_version": self.version,
            **dict.fromkeys(self.absent, [None, None]),
            **self.values(config),
            **{name: [c.library, c.kind or settings[name]["_class_name"]] for name, c in self.components.items()},
        }
        for name, component in self.components.items():
            if component.library == "diffusers":
                settings[name] = {"_class_name": component.kind, "_diffusers_version": self.version} | settings[name]
        files = {f"{name}/{component.file}": settings[name] for name, component in self.components.items()}
        return {"model_index.json": index, **files}

    def write(
        self,
        folder: Path,
        tensors: Mapping[str, LazyTensor],
        config: Model,
        progress: Callable[[int], object],
        tokenizer: str = "",
    ) -> None:
        """Write config files and tensors, whose names start with their component's, into a new folder.

        Args:
            tokenizer: a vocabulary as it is in the metadata of a checkpoint, for a pipeline with a tokenizer.
        """
        for name, content in self.config_files(config).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        for name, component in self.networks.items():
            part = {n.removeprefix(f"{name}."): tensor for n, tensor in tensors.items() if n.startswith(f"{name}.")}
            write_safetensors(folder / name / FILES[component.library], part, {"format": "pt"}, progress)
        if "tokenizer" in self.components:
            write_vocabulary(tokenizer, folder / "tokenizer")
        for path in (folder, *(folder / name for name in self.components)):
            fsync(path)  # directory entries are flushed before the folder is renamed

    def check_settings(self, folder: Path, config: Model) -> list[str]:
        """Compare files of settings with the config in what shapes do not show; returns notes on what differs.

        Raises:
            CheckpointError: a setting contradicts the config, or a file is damaged.
        """
        notes = []
        for name, component in self.components.items():
            path = folder / name / component.file
            if not (component.invisible or component.noted) or not path.exists():
                continue
            ours, theirs = component.settings(config), _read_settings(path)
            for key in (*component.invisible, *component.noted):
                if key in theirs and not _same(theirs[key], ours[key]):
                    says = f"{path} says {key} {str(theirs[key])[:80]}"
                    if key in component.invisible:
                        raise CheckpointError(f"{says}, but the config asks for {ours[key]}")
                    notes.append(f"{says}; that of the config, {ours[key]}, is taken")
        return notes


def _read_settings(path: Path) -> dict:
    try:
        settings = read_json(path, LARGEST_CONFIG)
    except RecordError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} is damaged: it is not a mapping of names to values")
    return settings


def _same(stated: object, wanted: object) -> bool:
    """Whether two settings are equal; a single number stands for one at every level."""
    if isinstance(wanted, list) and isinstance(stated, int):
        stated = [stated] * len(wanted)
    if isinstance(stated, list) and isinstance(wanted, int):
        wanted = [wanted] * len(stated)
    return stated == wanted
