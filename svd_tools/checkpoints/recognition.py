"""What other programs write, reduced to the names of one layout: wrappers, averages (EMA), scaled float8.

Whatever is removed from names, ignored or chosen becomes a note, which programs print.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Optional

import numpy as np

from svd.checkpoints.tensor_files import WIDENED, LazyTensor
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ImageLDMConfig, Model
from svd_tools.checkpoints import comfyui
from svd_tools.checkpoints.identity import check_identity
from svd_tools.checkpoints.layout import Layout, kind_of, renamed
from svd_tools.checkpoints.layouts import KIND_TITLES, OURS, detect_layout, layouts_of, missing_networks

Choice = Literal["auto", "ema", "plain"]
"""Which weights to take if there is an EMA; auto: the EMA, which sgm samples with."""
Tensors = dict[str, LazyTensor]

_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What PyTorch's module wrappers (data parallel, compiled, sharded) insert into names."""
_AVERAGES = re.compile(r"(^|[._])ema([._]|$)")


@dataclass
class Recognised:
    """A model's checkpoint: tensors by the names of a layout, and notes on how they were found."""

    layout: Layout
    tensors: Tensors
    notes: list[str] = field(default_factory=list)


def recognise(
    source: str, found: Mapping[str, LazyTensor], config: Model, weights: Choice = "auto", complete: bool = True
) -> Recognised:
    """Find a model in the tensors of a checkpoint.

    Args:
        source: name of the checkpoint in messages.
        config: what kind of model it should be of.
        complete: whether it has to have all networks, or may have a UNet or temporal layers alone.

    Raises:
        CheckpointError: it is of another model, incomplete, or has no EMA although one was requested.
    """
    wrappers = dict.fromkeys(wrapper for name in found for wrapper in _WRAPPERS.findall(name))
    tensors = renamed(found, lambda name: _WRAPPERS.sub("", name))
    layouts = layouts_of(config)
    layout, prefixes = _prefixes(tensors, layouts)
    if layout is None:
        check_identity(source, tensors, config)
        layout, alone = _unet_alone(tensors, layouts)
        if layout is None:
            title, some = KIND_TITLES[kind_of(config)], ", ".join(list(tensors)[:3]) or "none at all"
            raise CheckpointError(f"{source} is no checkpoint of {title}: its tensors are {some}")
        if complete:
            missing = " and ".join(f"no {title}" for title in list(layout.needs)[:2])
            raise _incomplete(f"{source} has a UNet alone, in {layout.title}, and {missing}", layout, config, unet=True)
        tensors, prefixes = alone, Counter([""])
    recognised = Recognised(layout, tensors, [f"the wrapper {wrapper} is taken off names" for wrapper in wrappers])
    averages = _take(recognised, prefixes)
    _choose(recognised, averages, weights, source)
    _dequantize(recognised)
    _note_widened(recognised)
    check_identity(source, recognised.tensors, config)
    missing = [layout.partial] if layout.partial else missing_networks(layout, recognised.tensors)
    if complete and missing:
        raise _incomplete(f"{source} has no {' and no '.join(missing)}", layout, config)
    recognised.layout, notes = comfyui.as_found(layout, recognised.tensors)
    recognised.notes += notes
    return recognised


def _prefixes(names: Mapping[str, LazyTensor], layouts: Sequence[Layout]) -> tuple[Optional[Layout], Counter[str]]:
    """The layout, and how many names of UNets have each prefix before the layout's own names."""
    known = detect_layout(names, layouts)
    for layout in (known,) if known else layouts:
        root = re.compile(rf"((?:.*?\.)??){re.escape(layout.mark)}")
        prefixes = Counter(match[1] for name in names if (match := root.match(name)))
        prefixes = {prefix: count for prefix, count in prefixes.items() if known or not layout.first or
                  f"{prefix}{layout.mark}{layout.first}" in names}  # fmt: skip
        if prefixes:
            return layout, Counter(prefixes)
    return None, Counter()


def _unet_alone(tensors: Tensors, layouts: Sequence[Layout]) -> tuple[Optional[Layout], Tensors]:
    """The layout of a UNet, or of temporal layers, without any network beside it, and its tensors by that layout."""
    for layout in layouts:
        for name in tensors:
            if match := re.match(layout.unet, name):
                inside = _under(match["root"], tensors)
                return layout, {layout.mark + name: tensor for name, tensor in inside.items()}
    return None, {}


def _take(recognised: Recognised, prefixes: Counter[str]) -> Tensors:
    """Keep the weights, without their prefix; returns EMA weights that have a prefix of their own."""
    averaged = [prefix for prefix in prefixes if _AVERAGES.search(prefix)]
    plain = [prefix for prefix in prefixes if prefix not in averaged] or averaged
    prefix = max(plain, key=lambda prefix: (not prefix, prefixes[prefix]))
    averaged = [other for other in averaged if other != prefix]
    averages = _under(averaged[0], recognised.tensors) if averaged else {}
    rest = {name: t for name, t in recognised.tensors.items() if not name.startswith(tuple(averaged))}
    recognised.tensors = _under(prefix, rest)
    if prefix:
        recognised.notes.append(f"the weights are those under {prefix.removesuffix('.')}")
    if len(rest) > len(recognised.tensors):
        recognised.notes.append(f"{len(rest) - len(recognised.tensors):,} tensors beside them are left out")
    return averages


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _choose(recognised: Recognised, averages: Tensors, weights: Choice, source: str) -> None:
    """Replace the weights by the EMA, or drop it."""
    if prefix := recognised.layout.averages:
        own = _under(prefix, recognised.tensors)
        recognised.tensors = {n: t for n, t in recognised.tensors.items() if not n.startswith(prefix)}
        averages = averages or _with_dots(own, recognised.tensors, recognised.layout)
    if not averages:
        if weights == "ema":
            raise CheckpointError(f"{source} has no averages (EMA); use --weights plain")
        return
    count = f"{len(averages):,} averages (EMA) are beside the weights"
    if weights == "plain":
        recognised.notes.append(f"{count} and left out; --weights ema takes them")
    else:
        recognised.notes.append(f"{count} and taken in their place; --weights plain takes the weights themselves")
        recognised.tensors |= averages


def _with_dots(averages: Tensors, weights: Tensors, layout: Layout) -> Tensors:
    """The layout's EMA by the names of its weights; those without a weight keep their names, counters are dropped."""
    prefix = layout.mark.split(".")[0] + "."
    names: dict[str, str] = {}
    for name in weights:
        short = name.removeprefix(prefix).replace(".", "")
        if name.startswith(prefix) and names.setdefault(short, name) != name:
            raise CheckpointError(f"an average {layout.averages}{short} could be of {names[short]} and of {name}")
    plain = {name.replace("_orig_mod", ""): tensor for name, tensor in averages.items()}
    return {
        names.get(short, layout.averages + short): tensor
        for short, tensor in plain.items()
        if short not in ("decay", "num_updates")
    }


def _dequantize(recognised: Recognised) -> None:
    """Multiply weights by ComfyUI's scales; scales of inputs are only for its kernels."""
    tensors, scales = recognised.tensors, {}
    for name, tensor in list(tensors.items()):
        stem = name.removesuffix("weight")
        for scale, of_input in ((f"{stem}scale_weight", f"{stem}scale_input"), (f"{name}_scale", f"{stem}input_scale")):
            if scale in tensors and tensor.shape and tensor.dtype.kind == "f":
                tensors[name] = _scaled(name, tensor, tensors[scale])
                scales[scale] = of_input
    if scales:
        recognised.notes.append(f"{len(scales):,} tensors are multiplied by the scales beside them")
    others = {*scales, *scales.values()}
    recognised.tensors = {name: tensor for name, tensor in tensors.items() if name not in others}


def _scaled(name: str, tensor: LazyTensor, scale: LazyTensor) -> LazyTensor:
    axes = len(tensor.shape)
    per_row = (tensor.shape[0], *[1] * (axes - 1))
    wanted = per_row if scale.shape in ((tensor.shape[0],), per_row) else (1,) * axes
    if scale.dtype.kind != "f" or np.prod(scale.shape) != np.prod(wanted):
        raise CheckpointError(
            f"the scale of {name} {list(tensor.shape)} is {scale.dtype} {list(scale.shape)}: neither a number nor "
            "one for each row; re-save the checkpoint in float16"
        )

    def read() -> np.ndarray:
        values = tensor.read().astype(np.float32, copy=False)
        return np.multiply(values, scale.read().astype(np.float32).reshape(wanted), out=values)

    return replace(tensor, dtype=np.dtype(np.float32), read=read)


def _note_widened(recognised: Recognised) -> None:
    for code, count in Counter(tensor.stored for tensor in recognised.tensors.values()).items():
        if code in WIDENED:
            recognised.notes.append(f"{count:,} tensors of type {code} are read as float32, without loss")


_COMPLETE = (
    "give the whole model (ComfyUI writes it with ImageOnlyCheckpointSave, if that is given UNet, CLIP vision and VAE)"
)
_BASE_MODEL = (
    "give the model that it was tuned from, in any layout, as base_model (of ComfyUI, the whole model: "
    "ImageOnlyCheckpointSave writes it, if that is given UNet, CLIP vision and VAE)"
)
_IMAGE_MODEL = "give the image model that it belongs to, in any layout, as image_model"
_OURS = "svd_tools/export.py merges what train.py wrote with the model that the training began with"


def _incomplete(problem: str, layout: Layout, config: Model, unet: bool = False) -> CheckpointError:
    """The error for a part of a model, such as a UNet, which says what to do with it."""
    if layout.name == OURS:
        return CheckpointError(f"{problem}: {_OURS}")
    if isinstance(config, ImageLDMConfig):
        return CheckpointError(f"{problem}: {_IMAGE_MODEL}", setting="image_model")
    if unet:
        return CheckpointError(f"{problem}: {_BASE_MODEL}", setting="base_model")
    return CheckpointError(f"{problem}: {_COMPLETE}")
