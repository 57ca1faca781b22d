"""Reading this project's checkpoints: safetensors files with the configuration in their metadata."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from svd.checkpoints.foreign_adapters import FILES as ADAPTERS
from svd.checkpoints.foreign_adapters import REMEDY, describe_adapters
from svd.checkpoints.tensor_header import CheckpointError, Header, read_header
from svd.config import ModelConfig, parse_config

if TYPE_CHECKING:  # MindSpore takes seconds to import: what is wrong with a checkpoint is told without it
    import mindspore as ms
    from mindspore import nn

FOREIGN = re.compile(
    r"((module|_orig_mod|model|state_dict)\.)*"
    r"(diffusion_model|first_stage_model|vision_model|input_blocks|down_blocks|encoder|unet|vae)\."
)
"""How names begin in checkpoints of other projects, behind what their trainings put in front."""


def open_checkpoint(path: Path):
    """An open safetensors file; raises CheckpointError if it is none, or has to be converted."""
    open_header(path)
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file ({error}): copy it again") from error


def open_header(path: Path) -> Header:
    """What a safetensors file says of its tensors; raises CheckpointError if it is none, or has to be converted."""
    is_folder = os.path.isdir(path)
    if holds_adapters(path):
        raise CheckpointError(f"{path} holds adapters (LoRA) of another program: {REMEDY}")
    if is_folder or path.suffix in (".ckpt", ".bin", ".pt", ".pth"):
        raise CheckpointError(f"{path} has to be converted first: {_how_to_convert(path)}")
    return read_header(path)


def holds_adapters(folder: Path) -> bool:
    """Whether a folder is of adapters, as other programs write them."""
    return any(os.path.exists(folder / name) for name in ADAPTERS)


def _how_to_convert(path: Path) -> str:
    return f"python svd_tools/convert.py --pt_weights_file {path} --config CONFIG --out_dir DIR"


def _check_ours(path: Path, names: Collection[str]) -> None:
    """Raise CheckpointError, which says what to do, for names of other projects."""
    if adapters := describe_adapters(names):
        raise CheckpointError(f"{path} {adapters}")
    if any(FOREIGN.match(name) for name in names):
        raise CheckpointError(f"{path} has to be converted first: {_how_to_convert(path)}")


def read_config(path: str | Path) -> ModelConfig:
    """The model's configuration from a checkpoint's metadata.

    Raises:
        CheckpointError: not a checkpoint of this project, or one without a configuration.
    """
    header = open_header(Path(path))
    text = header.metadata.get("config")
    if text is None:
        _check_ours(Path(path), header.tensors)
        raise CheckpointError(f"{path} holds no configuration: say which", setting="svd_config")
    return parse_config(text)


def check_networks(path: str | Path, model: ModelConfig) -> None:
    """Raise CheckpointError if the checkpoint has a configuration, and other networks than the model."""
    text = open_header(Path(path)).metadata.get("config")
    if text is not None and (different := parse_config(text).different_networks(model)):
        raise CheckpointError(f"{path} is of another model than the configuration: {different[0]}")


def holds(path: str | Path, prefix: str) -> bool:
    """Whether the checkpoint has parameters whose names begin so."""
    return any(name.startswith(prefix) for name in open_header(Path(path)).tensors)


def check_parameters(networks: Mapping[str, nn.Cell], path: str | Path) -> None:
    """Raise CheckpointError unless the checkpoint has all parameters of the networks, in their shapes."""
    _check_names(Path(path), _parameters(networks), open_header(Path(path)).shapes)


def _parameters(networks: Mapping[str, nn.Cell]) -> dict[str, ms.Parameter]:
    """By their names in a checkpoint."""
    return {f"{prefix}.{p.name}": p for prefix, cell in networks.items() for p in cell.get_parameters()}


def load_parameters(
    networks: dict[str, nn.Cell],
    path: str | Path,
    changed: Callable[[str, np.ndarray], np.ndarray] = lambda name, array: array,
) -> None:
    """Fill the networks from a checkpoint; each parameter keeps the type it was given.

    Args:
        networks: by the prefix of their parameters' names.
        path: a safetensors file; what it holds for other networks is left alone.
        changed: what a tensor of this name is to be instead, such as with an adapter added.

    Raises:
        CheckpointError: not a checkpoint of this project or of this model, truncated, or with a value that is not
            finite; names are listed.
    """
    path = Path(path)
    wanted = _parameters(networks)
    header = open_header(path)
    _check_names(path, wanted, header.shapes)
    with open_checkpoint(path) as file:
        mapped = _map(path, header)
        for name, parameter in wanted.items():
            array = mapped.get(name)
            array = file.get_tensor(name) if array is None else array
            parameter.set_data(_tensor(path, name, changed(name, array), parameter.dtype))


def _map(path: Path, header: Header) -> dict[str, np.ndarray]:
    """The float tensors of a checkpoint as parts of the mapped file: pages are read when they are used, and never
    copied unless they are written to. (`safe_open` has checked the file, and copies.)
    """
    data = np.memmap(path, np.uint8, mode="c")
    dtypes = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
    return {
        name: np.asarray(data[tensor.start : tensor.end]).view(dtypes[tensor.dtype]).reshape(tensor.shape)
        for name, tensor in header.tensors.items()
        if tensor.dtype in dtypes
    }


def _check_names(path: Path, wanted: Mapping[str, ms.Parameter], found: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        _check_ours(path, found)
    if missing and any(name.endswith(".lora_up") for name in found):
        raise CheckpointError(
            f"{path} holds adapters alone: give them with --SVD.lora, and the checkpoint of their model"
        )
    wrong = [
        f"{name} {list(found[name])} instead of {list(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in found and found[name] != tuple(parameter.shape)
    ]
    if missing or wrong:
        problems = [f"{len(missing)} names missing ({_some(missing)})"] if missing else []
        problems += [f"{len(wrong)} of another shape ({_some(wrong)})"] if wrong else []
        raise CheckpointError(f"{path} is of another model than the configuration: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _tensor(path: Path, name: str, array: np.ndarray, dtype: ms.Type) -> ms.Tensor:
    import mindspore as ms

    target = np.float16 if dtype == ms.float16 else np.float32  # NumPy has no bfloat16
    with np.errstate(over="ignore", invalid="ignore"):  # what would be warned of is an error
        # One pass, and no second array of the size of the first. In float64 no sum of finite float32 values overflows.
        if not np.isfinite(array.sum(dtype=np.float64)):
            raise CheckpointError(f"{path}: {name} holds values that are not finite (NaN or infinity)")
        converted = array.astype(target, copy=False)
    if converted.itemsize < array.itemsize and np.isinf(converted).any():
        problem = f"{path}: {name} does not fit {converted.dtype}"
        if target == np.float16:
            raise CheckpointError(f"{problem}: use amp_level O0", setting="amp_level")
        raise CheckpointError(f"{problem}: the checkpoint is damaged")
    tensor = ms.Tensor.from_numpy(np.ascontiguousarray(converted))
    return tensor.astype(dtype) if dtype == ms.bfloat16 else tensor
