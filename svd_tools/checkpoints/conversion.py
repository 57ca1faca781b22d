"""Conversion between layouts, checked by name and shape; values are read lazily."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from svd.checkpoints.tensor_files import LazyTensor, finite
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import Model
from svd_tools.checkpoints.comfyui import identity_convolution
from svd_tools.checkpoints.layout import Entry, Layout, expand, renamed
from svd_tools.checkpoints.tables import LINEAR, TRANSFORMS, Shape

_MINDSPORE_ALIASES = (
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"\.conv_out\.conv3d\.", ".conv_out.time_mix_conv."),
)
"""Other names of layers in modules of MindSpore and mindone."""
_COMFYUI_MARKS = (".scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant", ".v_pred")
"""Suffixes of ComfyUI's notes beside weights: scales of weights and of inputs."""


@dataclass(frozen=True)
class Weights:
    """A model's tensors under our names, and what else its source had."""

    tensors: dict[str, LazyTensor]
    leftovers: list[str]
    """Tensors of the source that are no part of the model."""
    shapes: Mapping[str, Shape]
    """Of all tensors of our layout, also of those that the source does not have."""
    entries: list[tuple[str, Sequence[Entry]]]
    """Where the tensors are stored, with the name of the layout, in each of the model's sources."""


def from_layout(
    tensors: Mapping[str, LazyTensor],
    layout: Layout,
    config: Model,
    shapes: Mapping[str, Shape],
    supplied: Collection[str] = (),
) -> Weights:
    """Convert a source's tensors to our names.

    Args:
        shapes: the shapes of all tensors of our layout, by name.
        supplied: our names of what another source has: of its parts, the source has all or nothing.

    Raises:
        CheckpointError: tensors are missing, unexpected, or of a wrong shape or type; `details` lists all.
    """
    source = renamed(tensors, lambda name: plain_name(name, layout))
    entries = _stored(source, expand(layout, config, shapes), _optional(config), supplied)
    entries = [_as_stored(entry, source, shapes) for entry in entries]
    expected = {entry.theirs: TRANSFORMS[entry.transform].shape(shapes[entry.ours]) for entry in entries}
    others = [name for name in source if name not in expected]
    leftovers = [name for name in others if is_leftover(name, source[name].shape, layout, config)]
    _check(source, expected, set(leftovers))
    _check_copies(source, layout)

    @lru_cache(maxsize=1)  # a fused query-key-value tensor is read three times in a row
    def values(name: str) -> np.ndarray:
        return finite(name, source[name]).read()

    def ours(entry: Entry) -> LazyTensor:
        stored, to_ours = source[entry.theirs], TRANSFORMS[entry.transform].to_ours
        return LazyTensor(shapes[entry.ours], stored.dtype, stored.position, lambda: to_ours(values(entry.theirs)))

    found = {entry.ours: ours(entry) for entry in entries}
    found |= _lazy(identity_convolution(found, shapes))
    return Weights(found, leftovers, shapes, [(layout.name, entries)])


def _check_copies(source: Mapping[str, LazyTensor], layout: Layout) -> None:
    """Raise CheckpointError if a layer is stored several times, with different values."""
    for pattern, original in layout.copies:
        for name, tensor in source.items():
            match = re.fullmatch(pattern, name)
            stored = source.get(match.expand(original)) if match else None
            if stored is not None and not np.array_equal(stored.read(), tensor.read()):
                raise CheckpointError(f"{name} and {match.expand(original)} are one layer, but differ")


def _stored(
    source: Collection[str], entries: list[Entry], optional: Collection[str], supplied: Collection[str]
) -> list[Entry]:
    """The entries without those of an optional or supplied part that the source has nothing of."""
    groups = [[entry for entry in entries if entry.ours.startswith(front)] for front in optional]
    parts: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.ours in supplied:
            parts[entry.ours.split(".")[0]].append(entry)
    absent: set[Entry] = set()
    for group in (*groups, *parts.values()):
        if not any(entry.theirs in source for entry in group):
            absent.update(group)
    return [entry for entry in entries if entry not in absent]


def _as_stored(entry: Entry, source: Mapping[str, LazyTensor], shapes: Mapping[str, Shape]) -> Entry:
    """The entry with the transform that the stored shape asks for: a linear layer may be a 1x1 convolution."""
    shape = shapes[entry.ours]
    if entry.transform in LINEAR and len(shape) == 2 and entry.theirs in source:
        for transform in LINEAR:
            if source[entry.theirs].shape == TRANSFORMS[transform].shape(shape):
                return replace(entry, transform=transform)
    return entry


def to_layout(weights: Mapping[str, LazyTensor], layout: Layout, config: Model) -> dict[str, LazyTensor]:
    """Convert tensors under our names to another layout; those that it does not store are left out."""
    parts: dict[str, list[Entry]] = defaultdict(list)
    for entry in expand(layout, config, weights):
        parts[entry.theirs].append(entry)
    found = {name: _theirs(weights, entries) for name, entries in parts.items()}
    constants = layout.constants(config, {name: tensor.shape for name, tensor in found.items()})
    return found | _lazy(constants)


def _lazy(arrays: Mapping[str, np.ndarray]) -> dict[str, LazyTensor]:
    return {name: LazyTensor(a.shape, a.dtype, ("", 0), partial(np.asarray, a)) for name, a in arrays.items()}


def _theirs(weights: Mapping[str, LazyTensor], entries: list[Entry]) -> LazyTensor:
    """One foreign tensor, from ours or (fused) from three of ours."""
    entries = sorted(entries, key=lambda entry: entry.transform)
    tensors = [weights[entry.ours] for entry in entries]
    transform = TRANSFORMS[entries[0].transform]
    shape = transform.shape(tensors[0].shape)
    if len(tensors) == 1:
        return LazyTensor(shape, tensors[0].dtype, tensors[0].position, lambda: transform.to_theirs(tensors[0].read()))
    dtype = np.result_type(*[tensor.dtype for tensor in tensors])
    return LazyTensor(
        shape,
        dtype,
        tensors[0].position,
        lambda: np.concatenate([tensor.read() for tensor in tensors], dtype=dtype),
    )


def absent_parts(config: Model, names: Collection[str]) -> dict[str, str]:
    """The optional parts without any name: their prefixes, and what is missing."""
    parts = _optional(config).items()
    return {front: title for front, title in parts if not any(name.startswith(front) for name in names)}


def _optional(config: Model) -> dict[str, str]:
    from svd.build import optional_parts  # MindSpore takes seconds to import, which --help and errors do not wait for

    return optional_parts(config)


def plain_name(name: str, layout: Layout) -> str:
    """The name without other spellings, of the layout and of MindSpore's modules."""
    for alias, spelling in (*_MINDSPORE_ALIASES, *layout.aliases):
        name = re.sub(alias, spelling, name)
    return name


def is_leftover(name: str, shape: Shape, layout: Layout, config: Model) -> bool:
    """Whether a tensor is not part of the model: a scalar, a note of ComfyUI's, or what the layout says."""
    text_encoder = getattr(config, "text_encoder", None)
    layers = "" if text_encoder is None else str(text_encoder.layers)
    ignored = re.match(layout.ignored.replace("{layers}", layers), name) is not None
    return ignored or shape == () or name.endswith(_COMFYUI_MARKS)


def _check(source: Mapping[str, LazyTensor], expected: Mapping[str, Shape], leftovers: set[str]) -> None:
    """Raise CheckpointError unless the source has exactly the expected tensors."""
    found = {name: source[name] for name in expected if name in source}
    faults = {
        "missing": [f"{name}  {list(shape)}" for name, shape in expected.items() if name not in source],
        "unexpected": [f"{n}  {list(t.shape)}" for n, t in source.items() if n not in expected and n not in leftovers],
        "wrongly shaped": [
            f"{name}  {list(tensor.shape)}, expected {list(expected[name])}"
            for name, tensor in found.items()
            if tensor.shape != expected[name]
        ],
        "not of a floating type": [f"{n}  {t.dtype}" for n, t in found.items() if t.dtype.kind != "f"],
    }
    faults = {fault: lines for fault, lines in faults.items() if lines}
    if faults:
        counts = ", ".join(f"{len(lines)} {fault}" for fault, lines in faults.items())
        details = []
        for fault, lines in faults.items():
            details += [f"{len(lines)} tensors {fault}:", *(f"  {line}" for line in lines)]
        raise CheckpointError(f"the checkpoint does not fit the config: {counts} (of {len(expected)})", tuple(details))
