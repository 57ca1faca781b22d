"""Open whatever a checkpoint is stored in: a file, told by its first bytes, or a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path

from svd_tools.mindspore_files import ENCRYPTED, read_mindspore
from svd_tools.tensor_files import ConversionError, LazyTensor, read_safetensors
from svd_tools.torch_files import read_torch

COMPONENTS = ("unet", "vae", "image_encoder")
"""Folders of a diffusers folder that hold tensors; their names are put in front of the tensors'."""

_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)


def read_weights(path: Path) -> tuple[str, dict[str, LazyTensor]]:
    """(what it is, its tensors by name) of a checkpoint file or a diffusers folder; no values are read yet.

    Raises:
        ConversionError: there is nothing at the path, or it is none of the formats that are known.
    """
    if path.is_dir():
        return "a diffusers folder", _read_folder(path)
    if not path.is_file():
        raise ConversionError(f"{path} does not exist")
    return _read_file(path)


def _read_file(path: Path) -> tuple[str, dict[str, LazyTensor]]:
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        return "a PyTorch file (read without executing its pickle)", read_torch(path)
    if head[8:9] == b"{":
        return "a .safetensors file", read_safetensors(path)
    if head.startswith(ENCRYPTED):
        raise ConversionError(f"{path} is encrypted; save it from MindSpore again without enc_key")
    if head.startswith(b"\x80"):
        raise ConversionError(
            f"{path} is a pickle in PyTorch's format from before 1.6, which is not read because that would "
            "execute it; re-save it as .safetensors"
        )
    if head.startswith(b"version https://"):
        raise ConversionError(f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` first")
    if head.startswith(b"\n"):
        return "a MindSpore checkpoint", read_mindspore(path)
    raise ConversionError(f"{path} is no checkpoint (.safetensors, PyTorch's zip format, MindSpore's .ckpt)")


def _read_folder(folder: Path) -> dict[str, LazyTensor]:
    absent = [component for component in COMPONENTS if not (folder / component).is_dir()]
    if absent:
        raise ConversionError(f"{folder} is not a diffusers folder: it has no {', no '.join(absent)} folder")
    tensors = {}
    for component in COMPONENTS:
        for file in _component_files(folder / component):
            _, found = _read_file(file)
            tensors |= {f"{component}.{name}": tensor for name, tensor in found.items()}
    return tensors


def _component_files(folder: Path) -> list[Path]:
    """The file with a component's tensors, or its shards; full precision is preferred to fp16."""
    for variant in ("", ".fp16"):
        for name in _WEIGHT_FILES:
            stem, ending = name.split(".")
            if (folder / f"{stem}{variant}.{ending}").is_file():
                return [folder / f"{stem}{variant}.{ending}"]
            index = folder / f"{name}.index{variant}.json"
            if index.is_file():
                return _shards(index)
    raise ConversionError(f"{folder} has no weights: none of {', '.join(_WEIGHT_FILES)}, nor their shards or fp16")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        paths = [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{index} is damaged: {type(error).__name__}: {error}") from error
    for path in paths:
        if not path.is_file():
            raise ConversionError(f"{path} does not exist, but {index.name} lists it")
    return paths
