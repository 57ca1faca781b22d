"""Reading adapters (LoRA), and merging them into the weights that they were trained for."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from svd.checkpoints.foreign import describe_adapters, is_adapter_folder
from svd.checkpoints.formats import LORA_DOWN, LORA_UP
from svd.checkpoints.model_file import Checkpoint
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ModelConfig
from svd.records import RecordError, parse_json, record

_METADATA = "lora"
_DOWN, _UP = f".{LORA_DOWN}", f".{LORA_UP}"


def describe_lora(rank: int, alpha: float, modules: list[str]) -> dict[str, str]:
    """Metadata of a file of adapters; no other file has the key `lora`."""
    return {_METADATA: json.dumps({"rank": rank, "alpha": alpha, "modules": modules})}


@dataclass(frozen=True)
class _Metadata:
    """The value of that key, which `describe_lora` wrote."""

    rank: int
    alpha: float
    modules: list[str]

    def __post_init__(self):
        if self.rank < 1 or not isfinite(self.alpha):
            raise ValueError(f"rank {self.rank}, alpha {self.alpha}")


@dataclass(frozen=True)
class LoRA:
    """The adapters of some of a model's layers."""

    path: Path
    rank: int
    alpha: float
    modules: list[str]
    config: ModelConfig
    """The model that they were trained for."""
    tensors: dict[str, np.ndarray]
    """NAME.lora_down [r i] and NAME.lora_up [o r] of the layers whose weights are NAME.weight, [o i]."""

    @property
    def metadata(self) -> dict[str, str]:
        return describe_lora(self.rank, self.alpha, self.modules)

    @property
    def weights(self) -> list[str]:
        """Names of the weights that the adapters change."""
        return [f"{name.removesuffix(_UP)}.weight" for name in self.tensors if name.endswith(_UP)]

    def check(self, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
        """Raise CheckpointError unless the adapters fit a model of this configuration and these shapes."""
        ours, theirs = asdict(self.config.unet), asdict(config.unet)
        different = [f"its unet.{key} is {ours[key]}, not {theirs[key]}" for key in ours if ours[key] != theirs[key]]
        for weight in self.weights:
            down, up = (self.tensors[weight.removesuffix(".weight") + end] for end in (_DOWN, _UP))
            if shapes.get(weight) != (shape := (up.shape[0], down.shape[1])):
                found = f"is {list(shapes[weight])}" if weight in shapes else "is missing"
                different.append(f"{weight}, which it changes as {list(shape)}, {found} there")
        if different:
            raise CheckpointError(f"LoRA {self.path} is of another model than {where}: {different[0]}")

    def added(self, name: str, weight: np.ndarray, scale: float) -> np.ndarray:
        """W + scale * alpha / r * up down (Hu et al. 2021, section 4.1), float32 [o i]; other tensors unchanged."""
        layer = name.removesuffix(".weight")
        if layer + _UP not in self.tensors:
            return weight
        change = self.tensors[layer + _UP] @ self.tensors[layer + _DOWN]
        return weight.astype(np.float32) + np.float32(scale * self.alpha / self.rank) * change


def read_lora(path: str | Path) -> LoRA:
    """Read a file of adapters, as train.py writes it.

    Raises:
        CheckpointError: it is no such file, or damaged.
    """
    path = Path(path)
    none = f"{path} holds no LoRA of this project: give the lora.safetensors that train.py writes with train.lora.rank"
    other = path.suffix != ".safetensors" or os.path.isdir(path)
    if other and os.path.exists(path) and not is_adapter_folder(path):
        raise CheckpointError(none)
    file = Checkpoint(path)
    if _METADATA not in file.metadata or "config" not in file.metadata:
        adapters = describe_adapters(file.shapes)
        raise CheckpointError(f"{path} {adapters}" if adapters else none)
    try:
        lora = record(_Metadata, parse_json(file.metadata[_METADATA], "it"), "it")
    except RecordError as error:
        reason = str(error).removeprefix("it: ")
        raise CheckpointError(f"LoRA {path} is damaged: its metadata {_METADATA} cannot be used ({reason})") from error
    if not file.shapes:
        raise CheckpointError(f"LoRA {path} is damaged: it holds no adapter")
    for name, shape in file.shapes.items():
        _check_shape(path, name, shape, lora.rank, file.shapes)
    tensors = {name: file.read(name).astype(np.float32) for name in file.shapes}
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"LoRA {path}: {name} holds values that are not finite (NaN or infinity)")
    return LoRA(path, lora.rank, lora.alpha, lora.modules, file.config, tensors)


def _check_shape(path: Path, name: str, shape: tuple[int, ...], rank: int, others: Collection[str]) -> None:
    """Raise CheckpointError for a tensor that is not one of a pair of this rank."""
    mine, other, axis = (_DOWN, _UP, 0) if name.endswith(_DOWN) else (_UP, _DOWN, 1)
    if not name.endswith(mine) or name.removesuffix(mine) + other not in others:
        raise CheckpointError(f"LoRA {path} is damaged: {name} is no part of a whole adapter")
    if len(shape) != 2 or shape[axis] != rank:
        raise CheckpointError(f"LoRA {path} is damaged: it says that its rank is {rank}, but {name} is {list(shape)}")
