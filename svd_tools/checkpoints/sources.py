"""Open a checkpoint: a file, whose format its first bytes show, or a diffusers folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from svd.checkpoints.tensor_files import LazyTensor, lazy_tensors
from svd.checkpoints.tensor_header import CheckpointError, check_file, read_header
from svd.records import RecordError, read_json
from svd_tools.checkpoints.adapter_files import adapter_files
from svd_tools.checkpoints.diffusers_folder import LARGEST_CONFIG
from svd_tools.checkpoints.layout import Layout
from svd_tools.checkpoints.mindspore_files import ENCRYPTED, read_mindspore
from svd_tools.checkpoints.torch_files import is_legacy, read_legacy, read_torch

LARGEST_INDEX = 4 << 20  # bytes

_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
_INDEX = "model_index.json"
_VARIANTS = ("", "fp32", "fp16", "bf16")
"""Variants of a file, the most precise first, before any others."""


@dataclass(frozen=True)
class Opened:
    """The tensors of a checkpoint by name, its format, and what was chosen on opening it."""

    kind: str
    tensors: dict[str, LazyTensor]
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    """Of a .safetensors file."""


def read_weights(path: Path, layouts: Sequence[Layout] = ()) -> Opened:
    """Open a checkpoint file or a folder; no values are read yet.

    Args:
        layouts: that a folder may be of.

    Raises:
        CheckpointError: the path does not exist, or is in no known format.
    """
    try:
        if path.is_dir():
            return _read_folder(path, layouts)
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
        header = read_header(path)
        return Opened("a .safetensors file", lazy_tensors(path, header), metadata=header.metadata)
    if head.startswith(ENCRYPTED):
        raise CheckpointError(f"{path} is encrypted; save it from MindSpore again without enc_key")
    if is_legacy(head):
        return Opened("a PyTorch file from before 1.6 (read without executing its pickle)", read_legacy(path))
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a pickle, but no checkpoint of PyTorch, and not read because that would execute it; re-save "
            "its tensors as .safetensors"
        )
    if head.startswith(b"version https://"):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` first")
    if head.startswith(b"\n"):
        return Opened("a MindSpore checkpoint", read_mindspore(path))
    raise CheckpointError(f"{path} is no checkpoint (.safetensors, PyTorch's zip format, MindSpore's .ckpt)")


def _read_folder(folder: Path, layouts: Sequence[Layout]) -> Opened:
    if adapters := adapter_files(folder):
        tensors = {f"{front}{n}": t for front, file in adapters for n, t in _read_file(file).tensors.items()}
        return Opened("a folder of adapters", tensors)
    files = [folder / name for layout in layouts for name in layout.files if (folder / name).exists()]
    if files:
        tensors = {f"{file.stem}.{n}": t for file in files for n, t in _read_file(file).tensors.items()}
        return Opened(f"a folder of {' and '.join(file.name for file in files)}", tensors)
    known = next((layout for layout in layouts if layout.folder), None)
    networks = known.folder.networks if known else ("unet", "vae")
    present = [network for network in networks if (folder / network).is_dir()]
    if known and known.alone and not present and _variants(folder):
        tensors, notes = _read_component(folder)
        return Opened("a diffusers folder of one network", tensors, notes)
    some = known and known.alone and present and not (folder / _INDEX).exists()
    if len(present) < len(networks) and not some:
        raise CheckpointError(f"{folder} {_what_else(folder, [name for name in networks if name not in present])}")
    if "text_encoder" in networks and (folder / "motion_adapter").is_dir():
        present.append("motion_adapter")
    return _read_components(folder, present)


def _read_components(folder: Path, components: Sequence[str]) -> Opened:
    """The tensors of these subfolders.

    A UNet may have motion modules inside, or in a folder beside it, or both: those beside it count if it has none.
    """
    found, notes = {}, []
    for component in components:
        tensors, notes_of_component = _read_component(folder / component)
        notes += notes_of_component
        if component == "motion_adapter":
            if any(".motion_modules." in name for name in found):
                notes.append("the motion modules are those in the UNet; the folder motion_adapter is left out")
                continue
            component = "unet"
        found |= {f"{component}.{name}": tensor for name, tensor in tensors.items()}
    return Opened("a diffusers folder", found, notes)


def _read_component(folder: Path) -> tuple[dict[str, LazyTensor], list[str]]:
    """(tensors of a network, what was chosen)"""
    files, variant = _component_files(folder)
    tensors = {name: tensor for file in files for name, tensor in _read_file(file).tensors.items()}
    return tensors, [f"of {folder.name} the variant {variant} is taken"] if variant else []


def _what_else(folder: Path, absent: list[str]) -> str:
    """The message for a folder that lacks components of a diffusers folder."""
    if (folder / "zero_to_fp32.py").exists():
        return "is a checkpoint of DeepSpeed: run its zero_to_fp32.py, and give the file that this writes"
    states = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if states:
        return f"is a folder of DeepSpeed's: give its file {states[0].name}"
    missing = f"it has no {', no '.join(absent)} folder"
    if (folder / _INDEX).is_file():
        content = read_json(folder / _INDEX, LARGEST_CONFIG)
        pipeline = content.get("_class_name") if isinstance(content, dict) else None
        return f"is a folder of diffusers' {str(pipeline)[:80]}, and not what the config is of: {missing}"
    return f"is not a diffusers folder: {missing}"


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
