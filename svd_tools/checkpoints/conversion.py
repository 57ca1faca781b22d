"""Conversion between layouts, checked by name and shape; values are read lazily."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from svd.checkpoints.tensor_files import LazyTensor, finite
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import ModelConfig
from svd_tools.checkpoints.comfyui import identity_convolution
from svd_tools.checkpoints.layouts import CLIP_SGM, Entry, Layout, expand
from svd_tools.checkpoints.tables import TRANSFORMS, Shape

_MINDSPORE_ALIASES = ((".gamma", ".weight"), (".beta", ".bias"))
"""Suffixes of names of MindSpore's normalisations."""
_COMFYUI_MARKS = (".scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant", ".v_pred")
"""Suffixes of ComfyUI's notes beside weights: scales of weights and of inputs."""


@dataclass(frozen=True)
class Weights:
    """A model's tensors under our names, and what else its source had."""

    tensors: dict[str, LazyTensor]
    leftovers: list[str]
    """Tensors of the source that are no part of the model."""
    entries: Sequence[Entry] = ()
    """Layout of the source."""


def from_layout(
    tensors: Mapping[str, LazyTensor], layout: Layout, config: ModelConfig, shapes: Mapping[str, Shape]
) -> Weights:
    """Convert a source's tensors to our names.

    Args:
        shapes: the shapes of all tensors of our layout, by name.

    Raises:
        CheckpointError: tensors are missing, unexpected, or of a wrong shape or type; `details` lists all.
    """
    source = _plain(tensors)
    entries = expand(layout, config, shapes)
    for group in _optional(config):
        names = {entry.theirs for entry in entries if entry.ours.startswith(group)}
        if not names & source.keys():
            entries = [entry for entry in entries if not entry.ours.startswith(group)]
    expected = {entry.theirs: TRANSFORMS[entry.transform].shape(shapes[entry.ours]) for entry in entries}
    leftovers = [name for name in source if name not in expected and is_leftover(name, source[name].shape)]
    _check(source, expected, set(leftovers))

    @lru_cache(maxsize=1)  # a fused query-key-value tensor is read three times in a row
    def values(name: str) -> np.ndarray:
        return finite(name, source[name]).read()

    def ours(entry: Entry) -> LazyTensor:
        stored, to_ours = source[entry.theirs], TRANSFORMS[entry.transform].to_ours
        return LazyTensor(shapes[entry.ours], stored.dtype, stored.position, lambda: to_ours(values(entry.theirs)))

    found = {entry.ours: ours(entry) for entry in entries}
    return Weights(found | identity_convolution(found, shapes), leftovers, entries)


def to_layout(weights: Mapping[str, LazyTensor], layout: Layout, config: ModelConfig) -> dict[str, LazyTensor]:
    """Convert tensors under our names to another layout; those that it does not store are left out."""
    parts: dict[str, list[Entry]] = defaultdict(list)
    for entry in expand(layout, config, weights):
        parts[entry.theirs].append(entry)
    return {name: _theirs(weights, entries) for name, entries in parts.items()}


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


def absent_parts(config: ModelConfig, names: Collection[str]) -> dict[str, str]:
    """The optional parts without any name: their prefixes, and what is missing."""
    parts = _optional(config).items()
    return {front: title for front, title in parts if not any(name.startswith(front) for name in names)}


def _optional(config: ModelConfig) -> dict[str, str]:
    from svd.build import optional_parts  # MindSpore takes seconds to import, which --help and errors do not wait for

    return optional_parts(config)


def plain_name(name: str) -> str:
    """The name without additions of MindSpore's (and mindone's) modules."""
    for end, plain in _MINDSPORE_ALIASES:
        if name.endswith(end):
            name = name.removesuffix(end) + plain
    return name.replace(".conv_out.conv3d.", ".conv_out.time_mix_conv.")


def is_leftover(name: str, shape: Shape) -> bool:
    """Whether a tensor is not part of the model: CLIP's text tower, position indices, scalars, ComfyUI's notes."""
    clip, visual = CLIP_SGM.removesuffix("visual"), f"{CLIP_SGM}."
    text_tower = name.startswith(clip) and not name.startswith(visual)
    positions = name.endswith(".vision_model.embeddings.position_ids")
    return text_tower or positions or shape == () or name.endswith(_COMFYUI_MARKS)


def _plain(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    source: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if plain_name(name) in source:
            raise CheckpointError(f"{name} and {plain_name(name)} are both in the checkpoint, but mean the same")
        source[plain_name(name)] = tensor
    return source


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
