"""What other programs write, brought under the names of one layout: wrappers, averages, scaled float8.

Everything that is taken off a name, left out or chosen is a note, to be said aloud.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Optional

import numpy as np

from svd.checkpoints.foreign_adapters import describe_adapters
from svd_tools.checkpoints import comfyui
from svd_tools.checkpoints.checkpoint_maps import NETWORKS, ROOTS, Layout, detect_layout
from svd_tools.checkpoints.tensor_files import WIDENED, ConversionError, LazyTensor

Choice = Literal["auto", "ema", "plain"]
"""Which weights are taken, if there are averages (EMA) beside them; auto: the averages, as sgm samples with."""
Tensors = dict[str, LazyTensor]

_SHELLS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What PyTorch's wrappers of modules (data parallel, compiled, sharded) put into the names of what they wrap."""
_AVERAGES = re.compile(r"(^|[._])ema([._]|$)")
_SGM_AVERAGES = "model_ema."
"""What sgm puts in front of averages, whose names are those of the weights behind `model.` without their dots."""


@dataclass
class Recognised:
    """A checkpoint of Stable Video Diffusion: its tensors by the names of a layout, and what was done to find them."""

    layout: Layout
    tensors: Tensors
    notes: list[str] = field(default_factory=list)


def recognise(source: str, found: Mapping[str, LazyTensor], weights: Choice = "auto") -> Recognised:
    """Find a model in the tensors of a checkpoint.

    Args:
        source: what the checkpoint is called in messages.

    Raises:
        ConversionError: it is of another model or a part of one, or has no averages where they were asked for.
    """
    if adapters := describe_adapters(found):
        raise ConversionError(f"{source} {adapters}")
    tensors, unwrapped = _without_shells(found)
    layout, fronts = _fronts(tensors)
    if layout is None:
        raise ConversionError(f"{source} {_what_else(list(tensors))}")
    recognised = Recognised(layout, tensors, [f"the wrapper {shell} is taken off names" for shell in unwrapped])
    averages = _take(recognised, fronts)
    _choose(recognised, averages, weights, source)
    _dequantise(recognised)
    _tell_widened(recognised)
    _check_whole(recognised, source)
    recognised.notes += comfyui.differences(layout, recognised.tensors)
    return recognised


def _without_shells(tensors: Mapping[str, LazyTensor]) -> tuple[Tensors, list[str]]:
    """The tensors by names without what wrappers of modules add to them, and those wrappers."""
    shells: dict[str, None] = {}
    plain: Tensors = {}
    for name, tensor in tensors.items():
        shells |= dict.fromkeys(_SHELLS.findall(name))
        short = _SHELLS.sub("", name)
        if short in plain:
            raise ConversionError(f"{name} and {short} are both in the checkpoint, but mean the same")
        plain[short] = tensor
    return plain, list(shells)


def _fronts(names: Mapping[str, LazyTensor]) -> tuple[Optional[Layout], Counter[str]]:
    """The layout, and how many names of UNets have each front that stands before the layout's own names."""
    known = detect_layout(names)
    for layout in (known,) if known else ROOTS:
        root = re.compile(rf"((?:.*?\.)??){re.escape(ROOTS[layout])}")
        fronts = Counter(match[1] for name in names if (match := root.match(name)))
        # `network.` and `unet.` in the middle of names say little.
        fronts = {front: count for front, count in fronts.items() if known or layout == "sgm" or
                  f"{front}{ROOTS[layout]}conv_in.weight" in names}  # fmt: skip
        if fronts:
            return layout, Counter(fronts)
    return None, Counter()


def _take(recognised: Recognised, fronts: Counter[str]) -> Tensors:
    """Keep the weights, by names without what is in front; returns the averages that stand in a place of their own."""
    averaged = [front for front in fronts if _AVERAGES.search(front)]
    plain = [front for front in fronts if front not in averaged] or averaged
    front = max(plain, key=lambda front: (not front, fronts[front]))
    averaged = [other for other in averaged if other != front]
    averages = _behind(averaged[0], recognised.tensors) if averaged else {}
    rest = {name: t for name, t in recognised.tensors.items() if not name.startswith(tuple(averaged))}
    recognised.tensors = _behind(front, rest)
    if front:
        recognised.notes.append(f"the weights are those under {front.removesuffix('.')}")
    if len(rest) > len(recognised.tensors):
        recognised.notes.append(f"{len(rest) - len(recognised.tensors):,} tensors beside them are left out")
    return averages


def _behind(front: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(front): tensor for name, tensor in tensors.items() if name.startswith(front)}


def _choose(recognised: Recognised, averages: Tensors, weights: Choice, source: str) -> None:
    """Put averages in the place of the weights, or leave them out."""
    own = _behind(_SGM_AVERAGES, recognised.tensors) if recognised.layout == "sgm" else {}
    recognised.tensors = {n: t for n, t in recognised.tensors.items() if not n.startswith(_SGM_AVERAGES)}
    averages = averages or _with_dots(own, recognised.tensors)
    if not averages:
        if weights == "ema":
            raise ConversionError(f"{source} has no averages (EMA); use --weights plain")
        return
    count = f"{len(averages):,} averages (EMA) are beside the weights"
    if weights == "plain":
        recognised.notes.append(f"{count} and left out; --weights ema takes them")
    else:
        recognised.notes.append(f"{count} and taken in their place; --weights plain takes the weights themselves")
        recognised.tensors |= averages


def _with_dots(averages: Tensors, weights: Tensors) -> Tensors:
    """sgm's averages by the names of their weights; those that are nobody's keep their own, and counters go."""
    front = ROOTS["sgm"].split(".")[0] + "."
    names: dict[str, str] = {}
    for name in weights:
        short = name.removeprefix(front).replace(".", "")
        if name.startswith(front) and names.setdefault(short, name) != name:
            raise ConversionError(f"an average {_SGM_AVERAGES}{short} could be of {names[short]} and of {name}")
    plain = {name.replace("_orig_mod", ""): tensor for name, tensor in averages.items()}
    return {
        names.get(short, _SGM_AVERAGES + short): tensor
        for short, tensor in plain.items()
        if short not in ("decay", "num_updates")
    }


def _dequantise(recognised: Recognised) -> None:
    """Multiply weights by the scales that ComfyUI stores beside them; scales of inputs are for its kernels alone."""
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
        raise ConversionError(
            f"the scale of {name} {list(tensor.shape)} is {scale.dtype} {list(scale.shape)}: neither a number nor "
            "one for each row; re-save the checkpoint in float16"
        )

    def read() -> np.ndarray:
        values = tensor.read().astype(np.float32, copy=False)
        return np.multiply(values, scale.read().astype(np.float32).reshape(wanted), out=values)

    return replace(tensor, dtype=np.dtype(np.float32), read=read)


def _tell_widened(recognised: Recognised) -> None:
    for code, count in Counter(tensor.stored for tensor in recognised.tensors.values()).items():
        if code in WIDENED:
            recognised.notes.append(f"{count:,} tensors of type {code} are read as float32, without loss")


def _check_whole(recognised: Recognised, source: str) -> None:
    """Raise ConversionError where a whole network is missing, or the checkpoint is none but another thing."""
    names = recognised.tensors
    missing = [
        title
        for title, fronts in NETWORKS[recognised.layout].items()
        if not any(name.startswith(front) for name in names for front in fronts)
    ]
    if missing:
        remedy = _OURS if recognised.layout == "svd" else _COMPLETE
        raise ConversionError(f"{source} has no {' and no '.join(missing)}: {remedy}")


_COMPLETE = (
    "give the whole model (ComfyUI writes it with ImageOnlyCheckpointSave, if that is given UNet, CLIP vision and VAE; "
    "a UNet of diffusers belongs into the folder unet of a copy of the model that its training began with)"
)
_OURS = "svd_tools/export.py merges what train.py wrote with the model that the training began with"
_UNETS: dict[str, Callable[[str], bool]] = {
    "Stability's": lambda name: "input_blocks.0.0." in name,
    "diffusers'": lambda name: re.search(r"(^|\.)down_blocks\.0\.(resnets|attentions)\.0\.", name) is not None,
}


def _what_else(names: list[str]) -> str:
    """What tensors without a model of this kind are, and what to do."""
    for whose, is_part in _UNETS.items():
        if any(is_part(name) for name in names):
            return f"has a UNet alone, by {whose} names, and no image encoder (CLIP) and no autoencoder: {_COMPLETE}"
    some = ", ".join(names[:3]) or "none at all"
    return f"is no checkpoint of Stable Video Diffusion: its tensors are {some}"
