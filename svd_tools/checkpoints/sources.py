"""Open a checkpoint: a file, whose format its first bytes show, or a diffusers folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from svd.checkpoints.tensor_files import LazyTensor, read_safetensors
from svd.checkpoints.tensor_header import CheckpointError, check_file
from svd.records import RecordError, read_json
from svd_tools.checkpoints.adapter_files import adapter_files
from svd_tools.checkpoints.diffusers_folder import COMPONENTS
from svd_tools.checkpoints.mindspore_files import ENCRYPTED, read_mindspore
from svd_tools.checkpoints.torch_files import read_torch

LARGEST_INDEX = 4 << 20  # bytes

_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
_VARIANTS = ("", "fp32", "fp16", "bf16")
"""Variants of a file, the most precise first, before any others."""


@dataclass(frozen=True)
class Opened:
    """The tensors of a checkpoint by name, its format, and what was chosen on opening it."""

    kind: str
    tensors: dict[str, LazyTensor]
    notes: list[str] = field(default_factory=list)


def read_weights(path: Path) -> Opened:
    """Open a checkpoint file or a diffusers folder; no values are read yet.

    Raises:
        CheckpointError: the path does not exist, or is in no known format.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
        return _read_file(path)
    except RecordError as error:
        raise CheckpointError(str(error)) from error


def _read_file(path: Path) -> Opened:
    check_file(path)
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        return Opened("a PyTorch file (read without executing its pickle)", read_torch(path))
    if head[8:9] == b"{":
        return Opened("a .safetensors file", read_safetensors(path))
    if head.startswith(ENCRYPTED):
        raise CheckpointError(f"{path} is encrypted; save it from MindSpore again without enc_key")
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a pickle in PyTorch's format from before 1.6, which is not read because that would "
            "execute it; re-save it as .safetensors"
        )
    if head.startswith(b"version https://"):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` first")
    if head.startswith(b"\n"):
        return Opened("a MindSpore checkpoint", read_mindspore(path))
    raise CheckpointError(f"{path} is no checkpoint (.safetensors, PyTorch's zip format, MindSpore's .ckpt)")


def _read_folder(folder: Path) -> Opened:
    if adapters := adapter_files(folder):
        tensors = {f"{front}{n}": t for front, file in adapters for n, t in _read_file(file).tensors.items()}
        return Opened("a folder of adapters", tensors)
    absent = [component for component in COMPONENTS if not (folder / component).is_dir()]
    if absent:
        raise CheckpointError(f"{folder} {_what_else(folder, absent)}")
    tensors, notes = {}, []
    for component in COMPONENTS:
        files, variant = _component_files(folder / component)
        if variant:
            notes.append(f"of {component} the variant {variant} is taken")
        for file in files:
            tensors |= {f"{component}.{name}": tensor for name, tensor in _read_file(file).tensors.items()}
    return Opened("a diffusers folder", tensors, notes)


def _what_else(folder: Path, absent: list[str]) -> str:
    """The message for a folder that lacks components of a diffusers folder."""
    if (folder / "zero_to_fp32.py").exists():
        return "is a checkpoint of DeepSpeed: run its zero_to_fp32.py, and give the file that this writes"
    states = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if states:
        return f"is a folder of DeepSpeed's: give its file {states[0].name}"
    return f"is not a diffusers folder: it has no {', no '.join(absent)} folder"


def _component_files(folder: Path) -> tuple[list[Path], str]:
    """(files with a component's tensors; their variant or empty): the most precise one."""
    variants = sorted(_variants(folder), key=lambda v: (_VARIANTS.index(v) if v in _VARIANTS else len(_VARIANTS), v))
    for variant in variants:
        for name in _WEIGHT_FILES:
            stem, ending = name.split(".")
            dotted = f".{variant}" if variant else ""
            if (file := folder / f"{stem}{dotted}.{ending}").exists():
                return [file], variant
            if (index := folder / f"{name}.index{dotted}.json").exists():
                return _shards(index), variant
    raise CheckpointError(
        f"{folder} has no weights: none of {', '.join(_WEIGHT_FILES)}, nor their shards or variants (fp16, bf16)"
    )


def _variants(folder: Path) -> set[str]:
    """Variants of weights in a folder: the middle of file names, empty for the plain one."""
    names = "|".join(re.escape(name) for name in _WEIGHT_FILES)
    stems = "|".join(sorted({name.split(".")[0] for name in _WEIGHT_FILES}))
    found = set()
    for path in folder.iterdir():
        if match := re.fullmatch(rf"(?:{names})\.index(?:\.(\w+))?\.json", path.name) or re.fullmatch(
            rf"(?:{stems})(?:\.(\w+))?\.(?:safetensors|bin)", path.name
        ):
            found.add(match[1] or "")
    return found


def _shards(index: Path) -> list[Path]:
    content = read_json(index, LARGEST_INDEX)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} is damaged: its weight_map is no mapping of names to files")
    paths = [index.parent / Path(name).name for name in sorted(set(names.values()))]
    for path in paths:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist, but {index.name} lists it")
    return paths
