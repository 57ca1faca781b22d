"""Files of other programs: recognised by a few of their names, so that an error can say what to do with them.

Nothing else in svd/ knows such names; svd_tools/checkpoints knows all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Optional

_MODELS = re.compile(
    r"((module|_orig_mod|model|state_dict)\.)*"
    r"(diffusion_model|first_stage_model|vision_model|input_blocks|down_blocks|encoder|unet|vae)\."
)
"""Beginnings of names in models of other programs, after prefixes of their trainers."""

_LYCORIS = "LyCORIS writes them"
_ADAPTERS = (
    (r"lora_(unet|te\d?)_\w+\.(lora_|alpha)", "kohya's scripts write them"),
    (r"base_model\.model\..*\.lora_(A|B|embedding)", "peft writes them"),
    (r".*\.lora_(A|B)(\.\w+)?\.weight", "diffusers and peft write them"),
    (r".*\.lora\.(down|up)\.weight", "diffusers wrote them before it used peft"),
    (r".*(_lora|lora_linear_layer)\.(down|up)\.weight", "the first releases of diffusers wrote them"),
    (r".*\.lora_(down|up|mid)\.weight", "kohya's scripts and ComfyUI write them"),
    (r".*\.(hada_w\d_[ab]|lokr_w\d(_[ab])?|oft_blocks|dora_scale)", _LYCORIS),
)
_ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)

MERGE = (
    "merge them into their model with the program that they are for (peft: merge_and_unload, diffusers: fuse_lora, "
    "ComfyUI: ImageOnlyCheckpointSave behind LoraLoaderModelOnly), and convert that with svd_tools/convert.py"
)
"""How to use adapters of other programs that are more than products of two matrices."""


def adapter_style(names: Collection[str]) -> Optional[str]:
    """Which program writes adapters (LoRA) of such names; None unless most names match."""
    for pattern, who in _ADAPTERS:
        if 2 * sum(re.match(pattern, name) is not None for name in names) > len(names):
            return who
    return None


def describe_adapters(path: Path, names: Collection[str] = ()) -> Optional[str]:
    """Which program's adapters a folder, or a file of these names, holds, and what to do with them; None if none."""
    style = "peft and diffusers write them" if is_adapter_folder(path) else adapter_style(names)
    convert = f"convert them with {_command(path)}, and give what that writes as lora"
    return style and f"holds adapters (LoRA) as {style}: {MERGE if style == _LYCORIS else convert}"


def _command(path: Path) -> str:
    return f"python svd_tools/convert.py --pt_weights_file {path} --config CONFIG --out_dir DIR"


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder has adapters of another program."""
    return any(os.path.exists(folder / name) for name in _ADAPTER_FILES)


def describe_model(path: Path, names: Collection[str] = ()) -> Optional[str]:
    """How to convert a model of another program, recognised by its suffix or names; None if it is none."""
    if os.path.isdir(path) or path.suffix in (".ckpt", ".bin", ".pt", ".pth") or any(map(_MODELS.match, names)):
        return f"has to be converted first: {_command(path)}"
    return None
