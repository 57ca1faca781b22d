"""Names in files of adapters (LoRA) of other programs.

They are made of the names that layouts have for a model's layers: with dots (diffusers, peft, ComfyUI, AnimateDiff) or
with underscores in their stead (kohya's scripts, LyCORIS), after a prefix and before what says which matrix it is. So
there is no table here: names of layouts and of files are both brought to underscores, and compared.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Optional

from svd.config import ImageLDMConfig, Model
from svd_tools.checkpoints.identity import VERSIONS
from svd_tools.checkpoints.layout import kind_of
from svd_tools.checkpoints.layouts import LAYOUTS
from svd_tools.checkpoints.tables import Shape

PARTS = ("network", "text_encoder")
"""The parts of a model that adapters exist for."""
_RESHAPED = ("same", "linear_1", "linear_1x1", "temporal")
"""Transforms of shapes alone, after which the product of two matrices is the same matrix."""

_TENSOR = re.compile(
    r"(?P<layer>.+?)(?:\.lora[._]|_lora\.|\.lora_linear_layer\.)(?P<role>down|up|mid|A|B)(?:\.[^.]+)?\.weight"
    r"|(?P<scaled>.+)\.(?P<alpha>alpha)"
)
_PREFIX = re.compile(
    r"(?:module\.|state_dict\.|base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|unet\.|text_encoder\."
    r"|text_encoders\.clip_[lh]\.transformer\.|lora_unet_|lora_te1?_|lycoris_)*"
)
_ROLES = {"A": "down", "B": "up"}
_OTHER = re.compile(r".*(dora_scale|lora_magnitude_vector|hada_\w+|lokr_\w+|oft_\w+|lora_embedding_\w|\.diff(_b)?)\b")
"""Tensors of adapters that are more than a product of two matrices."""
_ALIASES = (
    (r"(.+_to_out)_0", r"\1"),  # the first releases of diffusers: to_out_lora
    (r"(.+_self_attn)_(\w+)_proj", r"\1_to_\2"),  # the same, in text encoders
    (r"text_model_(.+)", r"\1"),  # transformers from 5.6 on
)
"""Other names of layers, by regular expressions for whole names."""


def parse(name: str) -> Optional[tuple[str, str, str]]:
    """(layer, the same with underscores and without prefixes, role) in an adapter's name; None for another tensor.

    Roles are down, up, mid (of a product of three), and alpha.
    """
    match = _TENSOR.fullmatch(name)
    if match is None:
        return None
    theirs = match["layer"] or match["scaled"]
    layer = theirs[_PREFIX.match(theirs).end() :].replace(".processor", "").replace(".", "_")
    return theirs, layer, match["alpha"] or _ROLES.get(match["role"], match["role"])


def beyond_products(names: Iterable[str]) -> list[str]:
    """Tensors of adapters that are more than a product of two matrices (DoRA, LyCORIS' other kinds)."""
    return [name for name in names if _OTHER.fullmatch(name)]


def known_layers(config: Model, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Our names of a model's layers by all names, with underscores, that other programs have for them.

    Args:
        shapes: of all tensors of the model.
    """
    found: dict[str, str] = {}
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        if layer == name or len(shape) < 2 or not name.startswith(tuple(f"{part}." for part in PARTS)):
            continue
        for theirs in _foreign(config, name):
            for alias in _spellings(theirs):
                found.setdefault(alias, layer)
    return found


def _foreign(config: Model, name: str) -> set[str]:
    """The names of a weight's layer in all layouts that store it; spatial layers have those of image models, too."""
    part, inside = name.split(".", 1)
    kinds = {kind_of(config)} | ({ImageLDMConfig} if isinstance(config, ImageLDMConfig) else set())
    places = [layout.places.get(part) for layout in LAYOUTS if kinds.intersection(layout.kinds)]
    found = set()
    for place in (place for place in places if place is not None):
        try:
            translated = place.table.translate(inside, place.column, config)
        except LookupError:
            continue  # a temporal layer, in a layout of image models
        if translated is not None and translated[1] in _RESHAPED:
            found.add(translated[0].removesuffix(".weight").replace(".", "_"))
    return found


def _spellings(layer: str) -> list[str]:
    """A layer's name, and other names for it."""
    found = [layer]
    for pattern, alias in _ALIASES:
        found += [match.expand(alias) for known in found if (match := re.fullmatch(pattern, known))]
    return found


_BASES = {
    r".*(transformer_blocks_[1-9]|text_encoder_2|lora_te2|add_embedding|label_emb)": "Stable Diffusion XL",
    r".*(double_blocks|single_blocks|single_transformer_blocks)": "FLUX",
    r".*joint_(transformer_)?blocks": "Stable Diffusion 3",
    r".*motion_modules": "AnimateDiff's motion modules",
}
"""Bases by names of their layers, the surest first."""


def base(layers: Collection[str], contexts: Collection[int]) -> Optional[str]:
    """The model that adapters are of, as far as their names and what cross-attention sees say.

    Args:
        layers: with underscores.
        contexts: channels of the input of keys and values in cross-attention.
    """
    for pattern, title in _BASES.items():
        if any(re.match(pattern, layer) for layer in layers):
            return title
    return next((VERSIONS[channels] for channels in contexts if channels in VERSIONS), None)
