"""Adapters (LoRA) of other programs, told from their names: they are recognised so that what helps can be said."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Optional

_KINDS = (
    (r"lora_(unet|te\d?)_\w+\.(lora_|alpha)", "kohya's scripts write them"),
    (r"base_model\.model\..*\.lora_(A|B|embedding)", "peft writes them"),
    (r".*\.lora_(A|B)(\.\w+)?\.weight", "diffusers and peft write them"),
    (r".*\.lora\.(down|up)\.weight", "diffusers wrote them before it used peft"),
    (r".*(_lora|lora_linear_layer)\.(down|up)\.weight", "the first releases of diffusers wrote them"),
    (r".*\.lora_(down|up|mid)\.weight", "kohya's scripts and ComfyUI write them"),
    (r".*\.(hada_w\d_[ab]|lokr_w\d(_[ab])?|oft_blocks|dora_scale)", "LyCORIS writes them"),
)
FILES = ("adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""What folders of adapters have."""


REMEDY = (
    "merge them into their model with the program that they are for (peft: merge_and_unload, diffusers: fuse_lora, "
    "ComfyUI: ImageOnlyCheckpointSave behind LoraLoaderModelOnly), and convert that with svd_tools/convert.py"
)
"""What works with adapters of other programs."""


def describe_adapters(names: Collection[str]) -> Optional[str]:
    """What adapters of another program these are, and what to do with them; None if most names are not of such."""
    for pattern, who in _KINDS:
        if 2 * sum(re.match(pattern, name) is not None for name in names) > len(names):
            return f"holds adapters (LoRA) as {who}: {REMEDY}"
    return None
