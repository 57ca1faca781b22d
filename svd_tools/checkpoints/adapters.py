"""Adapters (LoRA) of other programs, converted to this project's for one of its models."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svd.checkpoints.foreign import MERGE, adapter_style
from svd.checkpoints.formats import LORA_DOWN, LORA_UP, TRAINED_FORMAT
from svd.checkpoints.lora import describe_alphas
from svd.checkpoints.tensor_files import LazyTensor, finite, write_safetensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.config import Model, dump_config
from svd.console import first_few, printable
from svd_tools.checkpoints.adapter_files import Settings, read_settings
from svd_tools.checkpoints.adapter_names import base, beyond_products, known_layers, parse
from svd_tools.checkpoints.output import cast_all, writing
from svd_tools.checkpoints.tables import Shape

Tensors = Mapping[str, LazyTensor]


@dataclass(frozen=True)
class Adapter:
    """The adapter of a layer: up [o r ...], down [r i ...], and mid [r r ...] between them, if there is one."""

    theirs: str
    """Name of the layer in the file."""
    tensors: dict[str, LazyTensor]
    """By their roles: down, up, mid, alpha."""

    @property
    def rank(self) -> int:
        return self.tensors["up"].shape[1]

    def fits(self, shape: Shape) -> bool:
        """Whether it changes weights of this shape."""
        down, up, mid = (self.tensors.get(role) for role in ("down", "up", "mid"))
        first = down.shape[0]
        if mid is not None:
            if mid.shape != (self.rank, first, *shape[2:]) or math.prod(down.shape) != first * shape[1]:
                return False
        elif first != self.rank or math.prod(down.shape[1:]) != math.prod(shape[1:]):
            return False
        return up.shape[0] == shape[0] and math.prod(up.shape[2:]) == 1

    def matrices(self, shape: Shape) -> tuple[LazyTensor, LazyTensor]:
        """down [r ...] and up [o r] for weights of this shape."""
        down, up, mid = (self.tensors.get(role) for role in ("down", "up", "mid"))
        dtype = down.dtype if mid is None else np.dtype(np.float32)
        shapes = (self.rank, *shape[1:]), (shape[0], self.rank)

        def read_down() -> np.ndarray:
            if mid is None:
                return down.read().reshape(shapes[0])
            first, second = (t.read().astype(np.float32) for t in (down, mid))
            return np.einsum("sr...,ri->si...", second, first.reshape(len(first), -1)).reshape(shapes[0])

        return (
            finite(self.theirs, LazyTensor(shapes[0], dtype, down.position, read_down)),
            finite(self.theirs, LazyTensor(shapes[1], up.dtype, up.position, lambda: up.read().reshape(shapes[1]))),
        )

    def alpha(self, settings: Settings) -> float:
        """That of the file, or of its settings; the rank, if neither says it."""
        if "alpha" in self.tensors:
            return float(finite(self.theirs, self.tensors["alpha"]).read().reshape(()))
        return settings.alpha(self.theirs, self.rank)


def convert_adapters(source: Path, tensors: Tensors, model: Model, target: Path, dtype: str, report: bool) -> Path:
    """Convert a file of adapters, print what did not fit, and return the path written.

    Raises:
        CheckpointError: nothing fits, or they are of another base, or more than products of matrices.
    """
    from svd.build import parameter_shapes  # MindSpore takes seconds to import, which errors do not wait for

    print(printable(f"{source} holds adapters (LoRA) as {adapter_style(tensors)}: {len(tensors)} tensors"))
    shapes, settings = parameter_shapes(model), read_settings(source)
    fitted, leftovers = _fit(printable(str(source)), tensors, model, shapes)
    alphas = {layer: adapter.alpha(settings) for layer, adapter in fitted.items()}
    print(_summary(fitted))
    if report:
        for layer, adapter in fitted.items():
            shape, alpha = list(shapes[f"{layer}.weight"]), alphas[layer]
            print(printable(f"{layer} | {adapter.theirs} | {shape} | rank {adapter.rank} | alpha {alpha:g}"))
        for name in leftovers:
            print(printable(f"ignored | {name}"))
    if leftovers:
        some = first_few(leftovers)
        print(printable(f"NOTE: {len(leftovers)} names did not fit the model and are left out ({some})."))
    outputs: dict[str, LazyTensor] = {}
    for layer, adapter in fitted.items():
        outputs[f"{layer}.{LORA_DOWN}"], outputs[f"{layer}.{LORA_UP}"] = adapter.matrices(shapes[f"{layer}.weight"])
    outputs = cast_all(outputs, dtype)
    metadata = {"format": TRAINED_FORMAT, "config": dump_config(model), **describe_alphas(alphas)}
    with writing(target, outputs) as (temporary, progress):
        write_safetensors(temporary, outputs, metadata, progress)
    print(f"wrote {len(alphas)} adapters:\n{target}")
    return target


def _fit(
    source: str, tensors: Tensors, model: Model, shapes: Mapping[str, Shape]
) -> tuple[dict[str, Adapter], list[str]]:
    """The adapters of a file by our names of their layers, and layers and tensors that the model does not have.

    Args:
        source: name of the file in messages.
        shapes: of all tensors of the model, by name.

    Raises:
        CheckpointError: as `convert_adapters`.
    """
    if others := beyond_products(tensors):
        problem = f"holds adapters that are more than a product of two matrices ({first_few(others)})"
        raise CheckpointError(f"{source} {problem}: {MERGE}")
    adapters, leftovers = _gather(source, tensors)
    known = known_layers(model, shapes)
    found: dict[str, Adapter] = {}
    for layer, adapter in adapters.items():
        ours = known.get(layer)
        if ours is None:
            leftovers.append(adapter.theirs)
        elif ours in found:
            both = f"{found[ours].theirs} and {adapter.theirs}"
            raise CheckpointError(f"{source}: {both} are both in the file, but mean the same")
        else:
            found[ours] = adapter
    _check_base(source, adapters, found, model, shapes)
    return found, leftovers


def _gather(source: str, tensors: Tensors) -> tuple[dict[str, Adapter], list[str]]:
    """The adapters by their layers' names with underscores, and names of other tensors; raises CheckpointError."""
    adapters: dict[str, Adapter] = {}
    others = []
    for name, tensor in tensors.items():
        parsed = parse(name)
        if parsed is None:
            others.append(name)
            continue
        theirs, layer, role = parsed
        adapter = adapters.setdefault(layer, Adapter(theirs, {}))
        if role in adapter.tensors:
            raise CheckpointError(f"{source}: {name} is a second {role} of its layer: give one adapter")
        adapter.tensors[role] = tensor
    for layer, adapter in list(adapters.items()):
        roles = adapter.tensors.keys()
        if roles == {"alpha"}:
            others.append(adapters.pop(layer).theirs)
        elif not {"down", "up"} <= roles or any(len(adapter.tensors[role].shape) < 2 for role in ("down", "up")):
            raise CheckpointError(f"{source} is damaged: the adapter of {adapter.theirs} is not whole")
        elif any(t.dtype.kind != "f" and role != "alpha" for role, t in adapter.tensors.items()):
            raise CheckpointError(f"{source}: the adapter of {adapter.theirs} is not of a floating type")
    return adapters, others


def _check_base(
    source: str, adapters: Mapping[str, Adapter], found: Mapping[str, Adapter], model: Model, shapes: Mapping
) -> None:
    """Raise CheckpointError if nothing fits, or what has a layer's name does not fit its weights."""
    wrong = [layer for layer, adapter in found.items() if not adapter.fits(shapes[f"{layer}.weight"])]
    if found and not wrong:
        return
    contexts = Counter(
        math.prod(adapter.tensors["down"].shape[1:])
        for layer, adapter in adapters.items()
        if re.fullmatch(r".*attn2_to_[kv]", layer)
    )
    title = base(adapters, [channels for channels, _ in contexts.most_common(1)])
    of = f"is a LoRA of {title}, not of the model of the config" if title else "is a LoRA of another model"
    if wrong:
        weights, adapter = shapes[f"{wrong[0]}.weight"], found[wrong[0]]
        sizes = {role: list(tensor.shape) for role, tensor in adapter.tensors.items() if role != "alpha"}
        shown = ", ".join(f"{role} {shape}" for role, shape in sizes.items())
        where = f"{adapter.theirs} ({shown}) does not fit weights of {list(weights)}"
        raise CheckpointError(f"{source} {of}: {where}" + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""))
    some = first_few([adapter.theirs for adapter in adapters.values()])
    raise CheckpointError(f"{source} {of}: that has none of its layers ({some})")


def _summary(fitted: Mapping[str, Adapter]) -> str:
    counts = Counter(layer.split(".")[0] for layer in fitted)
    ranks = sorted({adapter.rank for adapter in fitted.values()})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    return f"{' and '.join(f'{count} layers of {part}' for part, count in counts.items())} fit, {rank}"
