"""From the tensors of one layout to those of another, checked by name and shape; no value is read yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from svd.config import ModelConfig
from svd_tools.checkpoints.checkpoint_maps import (
    OPTIONAL_GROUPS,
    TRANSFORMS,
    Entry,
    Layout,
    Shape,
    expand,
    is_leftover,
    plain_name,
)
from svd_tools.checkpoints.comfyui import as_found, identity_convolution
from svd_tools.checkpoints.tensor_files import ConversionError, LazyTensor, check_finite


@dataclass(frozen=True)
class Weights:
    """The tensors of a model under our names, and what else its source had."""

    tensors: dict[str, LazyTensor]
    leftovers: list[str]
    """Tensors of the source that are no part of the model."""
    entries: Sequence[Entry] = ()
    """Where the tensors are in the source."""


def gather(
    tensors: Mapping[str, LazyTensor], layout: Layout, config: ModelConfig, shapes: Mapping[str, Shape]
) -> Weights:
    """Bring a source's tensors under our names.

    Args:
        shapes: the shapes of all that our layout can hold, by name.

    Raises:
        ConversionError: tensors are missing, unexpected, or of a wrong shape or type; `details` lists all.
    """
    source = _plain(tensors)
    entries = expand(layout, config, shapes)
    if layout == "sgm":
        entries = as_found(entries, config, source)
    for group in OPTIONAL_GROUPS:
        names = {entry.theirs for entry in entries if entry.ours.startswith(group)}
        if not names & source.keys():
            entries = [entry for entry in entries if not entry.ours.startswith(group)]
    expected = {entry.theirs: TRANSFORMS[entry.transform].shape(shapes[entry.ours]) for entry in entries}
    leftovers = [name for name in source if name not in expected and is_leftover(name, source[name].shape)]
    _check(source, expected, set(leftovers))

    @lru_cache(maxsize=1)  # a fused query-key-value tensor is asked for three times in a row
    def values(name: str) -> np.ndarray:
        array = source[name].read()
        check_finite(array, name)
        return array

    def ours(entry: Entry) -> LazyTensor:
        stored, to_ours = source[entry.theirs], TRANSFORMS[entry.transform].to_ours
        return LazyTensor(shapes[entry.ours], stored.dtype, stored.position, lambda: to_ours(values(entry.theirs)))

    found = {entry.ours: ours(entry) for entry in entries}
    return Weights(found | identity_convolution(found, shapes), leftovers, entries)


def scatter(weights: Mapping[str, LazyTensor], layout: Layout, config: ModelConfig) -> dict[str, LazyTensor]:
    """Bring tensors under our names into another layout; those that it does not store are left out."""
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


def groups_without(names: Iterable[str], others: Iterable[str]) -> dict[str, int]:
    """The optional groups that `others` lacks, and how many of the `names` are in each."""
    counts = {group: sum(name.startswith(group) for name in names) for group in OPTIONAL_GROUPS}
    return {group: count for group, count in counts.items() if not any(name.startswith(group) for name in others)}


def _plain(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    source: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if plain_name(name) in source:
            raise ConversionError(f"{name} and {plain_name(name)} are both in the checkpoint, but mean the same")
        source[plain_name(name)] = tensor
    return source


def _check(source: Mapping[str, LazyTensor], expected: Mapping[str, Shape], leftovers: set[str]) -> None:
    """Raise ConversionError unless the source has exactly what is expected."""
    found = {name: source[name] for name in expected if name in source}
    faults = {
        "missing": [f"{name}  {list(shape)}" for name, shape in expected.items() if name not in source],
        "unexpected": [
            f"{name}  {list(tensor.shape)}"
            for name, tensor in source.items()
            if name not in expected and name not in leftovers
        ],
        "wrongly shaped": [
            f"{name}  {list(tensor.shape)}, expected {list(expected[name])}"
            for name, tensor in found.items()
            if tensor.shape != expected[name]
        ],
        "not of a floating type": [
            f"{name}  {tensor.dtype}" for name, tensor in found.items() if tensor.dtype.kind != "f"
        ],
    }
    if any(faults.values()):
        counts = ", ".join(f"{len(lines)} {fault}" for fault, lines in faults.items() if lines)
        details = [
            line
            for fault, lines in faults.items()
            if lines
            for line in (f"{len(lines)} tensors {fault}:", *(f"  {line}" for line in lines))
        ]
        raise ConversionError(f"the checkpoint does not fit the config: {counts} (of {len(expected)})", tuple(details))
