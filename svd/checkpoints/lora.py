"""Reading adapters (LoRA), and merging them into the weights that they were trained for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Optional

import numpy as np

from svd.checkpoints.foreign import describe_adapters, is_adapter_folder
from svd.checkpoints.formats import LORA_DOWN, LORA_UP
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ConfigError, Model
from svd.config.models import different_settings
from svd.config.networks import NOT_OF_WEIGHTS
from svd.records import RecordError, parse_json, record

_METADATA = "lora"
_DOWN, _UP = f".{LORA_DOWN}", f".{LORA_UP}"
_SECTIONS = {"network": "unet", "text_encoder": "text_encoder"}
"""Sections of the configuration that adapters depend on, by the part that they change."""


def describe_lora(rank: int, alpha: float, modules: list[str]) -> dict[str, str]:
    """Metadata of a file of adapters of one rank and alpha; no other file has the key `lora`."""
    return {_METADATA: json.dumps({"rank": rank, "alpha": alpha, "modules": modules})}


def describe_alphas(alphas: Mapping[str, float]) -> dict[str, str]:
    """Metadata of a file of adapters whose ranks and alphas differ, by the names of their layers."""
    return {_METADATA: json.dumps({"alphas": dict(alphas)})}


@dataclass(frozen=True)
class _Metadata:
    """The value of that key, which one of these functions wrote."""

    rank: Optional[int] = None
    alpha: Optional[float] = None
    modules: list[str] = field(default_factory=list)
    alphas: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if (self.rank is None) != (self.alpha is None) or (self.rank is None) != bool(self.alphas):
            raise ValueError("it has either rank and alpha, or alphas")
        if self.rank is not None and self.rank < 1 or not all(map(isfinite, (self.alpha or 0, *self.alphas.values()))):
            raise ValueError(f"rank {self.rank}, alpha {self.alpha}")


@dataclass(frozen=True)
class LoRA:
    """The adapters of some of a model's layers."""

    path: Path
    metadata: dict[str, str]
    """What `describe_lora` or `describe_alphas` gave."""
    alphas: dict[str, float]
    """By the names of the layers."""
    config: Model
    """The model that they were trained or converted for."""
    tensors: dict[str, np.ndarray]
    """NAME.lora_down [r ...] and NAME.lora_up [o r] of the layers whose weights are NAME.weight, [o ...]."""

    @property
    def weights(self) -> list[str]:
        """Names of the weights that the adapters change."""
        return [f"{layer}.weight" for layer in self.alphas]

    def check(self, config: Model, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
        """Raise CheckpointError unless the adapters fit a model of this configuration and these shapes."""
        different = []
        for part, section in _SECTIONS.items():
            if any(layer.startswith(f"{part}.") for layer in self.alphas):
                mine, other = getattr(self.config, section), getattr(config, section, None) or object
                different += different_settings(section, mine, other, NOT_OF_WEIGHTS)
        for layer in self.alphas:
            weight, shape = f"{layer}.weight", (len(self.tensors[layer + _UP]), *self.tensors[layer + _DOWN].shape[1:])
            if shapes.get(weight) != shape:
                found = f"is {list(shapes[weight])}" if weight in shapes else "is missing"
                different.append(f"{weight}, which it changes as {list(shape)}, {found} there")
        if different:
            raise CheckpointError(f"LoRA {self.path} is of another model than {where}: {different[0]}")

    def added(self, name: str, weight: np.ndarray, scale: float) -> np.ndarray:
        """W + scale * alpha / r * up down (Hu et al. 2021, section 4.1), float32 [o ...]; other tensors unchanged."""
        layer = name.removesuffix(".weight")
        if layer not in self.alphas or not scale:
            return weight
        down, up = self.tensors[layer + _DOWN], self.tensors[layer + _UP]
        change = (up @ down.reshape(len(down), -1)).reshape(weight.shape)
        return weight.astype(np.float32) + np.float32(scale * self.alphas[layer] / len(down)) * change


def merging(loras: Sequence[tuple[LoRA, float]]) -> Callable[[str, np.ndarray], np.ndarray]:
    """A function from the name and the values of a weight to the values with these adapters, one after the other.

    Adapters at scale 0 leave a weight as it is, bit for bit.
    """

    def changed(name: str, weight: np.ndarray) -> np.ndarray:
        for lora, scale in loras:
            weight = lora.added(name, weight, scale)
        return weight

    return changed


def read_loras(
    paths: None | str | Path | Sequence[str | Path], scales: float | Sequence[float]
) -> list[tuple[LoRA, float]]:
    """Read files of adapters, with one scale for all of them or a scale each.

    Raises:
        ConfigError: a scale is no finite number, or their number is another than that of the files.
        CheckpointError: as `read_lora`.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths or ())
    each = [scales] * len(files) if isinstance(scales, (int, float)) else list(scales)
    for scale in [scales] if isinstance(scales, (int, float)) else each:
        if not isfinite(scale):
            raise ConfigError(f"lora_scale must be a finite number, got {scale}", setting="lora_scale")
    if len(each) != len(files):
        problem = f"lora_scale gives {len(each)} scales for {len(files)} files of adapters"
        raise ConfigError(f"{problem}: give one for all of them, or one each", setting="lora_scale")
    return [(read_lora(file), float(scale)) for file, scale in zip(files, each)]


def read_lora(path: str | Path) -> LoRA:
    """Read a file of adapters, as train.py or svd_tools/convert.py writes it.

    Raises:
        CheckpointError: it is no such file, or damaged.
    """
    path = Path(path)
    none = (
        f"{path} holds no LoRA of this project: give the lora.safetensors that train.py writes with train.lora.rank, "
        "or what svd_tools/convert.py makes of another program's"
    )
    other = path.suffix != ".safetensors" or os.path.isdir(path)
    if other and os.path.exists(path) and not is_adapter_folder(path):
        raise CheckpointError(none)
    file = Checkpoint(path)
    if _METADATA not in file.metadata or "config" not in file.metadata:
        adapters = describe_adapters(path, file.shapes)
        raise CheckpointError(f"{path} {adapters}" if adapters else none)
    try:
        said = record(_Metadata, parse_json(file.metadata[_METADATA], "it"), "it")
    except RecordError as error:
        reason = str(error).removeprefix("it: ")
        raise CheckpointError(f"LoRA {path} is damaged: its metadata {_METADATA} cannot be used ({reason})") from error
    layers = _layers(path, file.shapes, said)
    tensors = {name: file.read(name).astype(np.float32) for name in file.shapes}
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"LoRA {path}: {name} holds values that are not finite (NaN or infinity)")
    alphas = {layer: said.alphas.get(layer, said.alpha) for layer in layers}
    return LoRA(path, {_METADATA: file.metadata[_METADATA]}, alphas, file.config, tensors)


def _layers(path: Path, shapes: Mapping[str, tuple[int, ...]], said: _Metadata) -> list[str]:
    """Names of the layers; raises CheckpointError unless the tensors are pairs of the ranks that belong together."""
    damaged = f"LoRA {path} is damaged:"
    if not shapes:
        raise CheckpointError(f"{damaged} it holds no adapter")
    for name, shape in shapes.items():
        mine, other, axis = (_DOWN, _UP, 0) if name.endswith(_DOWN) else (_UP, _DOWN, 1)
        if not name.endswith(mine) or name.removesuffix(mine) + other not in shapes:
            raise CheckpointError(f"{damaged} {name} is no part of a whole adapter")
        if len(shape) < 2 or mine == _UP and len(shape) != 2 or said.rank not in (None, shape[axis]):
            rank = "" if said.rank is None else f"it says that its rank is {said.rank}, but "
            raise CheckpointError(f"{damaged} {rank}{name} is {list(shape)}")
    layers = [name.removesuffix(_UP) for name in shapes if name.endswith(_UP)]
    for layer in layers:
        if shapes[layer + _UP][1] != shapes[layer + _DOWN][0]:
            up, down = list(shapes[layer + _UP]), list(shapes[layer + _DOWN])
            raise CheckpointError(f"{damaged} {layer} has ranks that differ, of {LORA_DOWN} {down} and {LORA_UP} {up}")
    if said.rank is None and said.alphas.keys() != set(layers):
        raise CheckpointError(f"{damaged} its metadata {_METADATA} cannot be used (alphas of other layers)")
    return layers
