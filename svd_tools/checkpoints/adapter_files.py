"""Files and folders of adapters (LoRA) of other programs, and the settings beside their tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from svd.checkpoints.foreign import adapter_style
from svd.checkpoints.tensor_header import CheckpointError, read_header
from svd.records import RecordError, parse_json, read_json, record

_FILES = ("adapter_model", "pytorch_lora_weights", "diffusion_pytorch_model")
"""Stems of files: peft's, diffusers', and those of diffusers' folders of motion adapters."""
_CONFIG = "adapter_config.json"
_METADATA = "lora_adapter_metadata"
"""Key of the settings in the metadata of diffusers' files."""
_COMPONENTS = ("unet", "text_encoder")


@dataclass(frozen=True)
class _Peft:
    """peft's settings that the scale of an adapter depends on."""

    lora_alpha: Optional[float] = None
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self):
        if not all(map(math.isfinite, (self.lora_alpha or 0, *self.alpha_pattern.values()))):
            raise ValueError("an alpha is no finite number")
        if self.use_dora:
            raise ValueError("use_dora: adapters that are more than a product of two matrices have to be merged")


@dataclass(frozen=True)
class Settings:
    """The settings of a file of adapters."""

    components: dict[str, _Peft] = field(default_factory=dict)
    """By the component, or by nothing if they are of all."""

    def alpha(self, layer: str, rank: int) -> float:
        """What alpha the settings give a layer; the rank if they do not say."""
        component = next((name for name in self.components if layer.startswith(f"{name}.")), "")
        peft = self.components.get(component, _Peft())
        special = (value for key, value in peft.alpha_pattern.items() if f".{layer}".endswith(f".{key}"))
        alpha = next(special, peft.lora_alpha)
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if peft.use_rslora else alpha


def adapter_files(folder: Path) -> list[tuple[str, Path]]:
    """(prefix of names, file) of a folder of adapters, or of one with a folder for each component; none in others."""
    if found := _files(folder):
        return [("", found)]
    inside = ((component, _files(folder / component)) for component in _COMPONENTS)
    return [(f"{component}.", file) for component, file in inside if file and (file.parent / _CONFIG).is_file()]


def _files(folder: Path) -> Optional[Path]:
    """The file of adapters in a folder."""
    for stem in _FILES:
        for file in (folder / f"{stem}.safetensors", folder / f"{stem}.bin"):
            # diffusers' models have files of the last name
            if file.is_file() and (stem != _FILES[-1] or (file.suffix == ".safetensors" and _holds_adapters(file))):
                return file
    return None


def _holds_adapters(file: Path) -> bool:
    return adapter_style(read_header(file).shapes) is not None


def read_settings(source: Path) -> Settings:
    """The settings of a file or folder of adapters; raises CheckpointError if they cannot be used."""
    try:
        return Settings(dict(_settings(source)))
    except RecordError as error:
        raise CheckpointError(f"the settings of {source} cannot be used: {error}") from error


def _settings(source: Path) -> Iterator[tuple[str, _Peft]]:
    if source.is_file():
        if source.suffix == ".safetensors" and (text := read_header(source).metadata.get(_METADATA)):
            said = parse_json(text, _METADATA)
            for component in _COMPONENTS:
                inside = {key.removeprefix(f"{component}."): value for key, value in _items(said)
                          if key.startswith(f"{component}.")}  # fmt: skip
                if inside:
                    yield component, _peft(inside, f"{_METADATA} of {component}")
        return
    for prefix, file in adapter_files(source):
        if (config := file.parent / _CONFIG).is_file():
            yield prefix.removesuffix("."), _peft(dict(_items(read_json(config))), _CONFIG)
        else:
            yield from _settings(file)


def _items(said: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(said, dict):
        raise RecordError(f"they are no mapping of names to values, but {json.dumps(said)[:40]}")
    yield from said.items()


def _peft(said: dict[str, Any], where: str) -> _Peft:
    """The settings that matter, of all those that peft writes."""
    used = {key: said[key] for key in _Peft.__dataclass_fields__ if said.get(key) is not None}
    return record(_Peft, used, where)
