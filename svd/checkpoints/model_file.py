"""This project's checkpoints: safetensors files with the model's configuration in their metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np

from svd.checkpoints.foreign import describe_adapters, describe_model
from svd.checkpoints.formats import LORA_DOWN, LORA_UP
from svd.checkpoints.tensor_files import DTYPES, lazy_tensor
from svd.checkpoints.tensor_header import CheckpointError, check_gapless, read_header
from svd.config import Model, parse_config
from svd.console import first_few

if TYPE_CHECKING:  # MindSpore takes seconds to import: errors of checkpoints do not wait for it
    import mindspore as ms
    from mindspore import nn

_MAPPED = ("F32", "F16")
"""Types whose values are memory-mapped."""


class Checkpoint:
    """An open file of weights; configuration and values are read lazily.

    Raises:
        CheckpointError: the file does not exist, is damaged, or is of another program (the error says what to do).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if foreign := describe_adapters(self.path) or describe_model(self.path):
            raise CheckpointError(f"{self.path} {foreign}")
        header = read_header(self.path)
        check_gapless(self.path, header)
        self.metadata, self.shapes = header.metadata, dict(header.shapes)
        self._taken: dict[str, Checkpoint] = {}
        self._tensors = header.tensors
        # Pages are read on use, and copied only on write.
        self._data = np.memmap(self.path, np.uint8, mode="c")

    @cached_property
    def config(self) -> Model:
        """The model's configuration.

        Raises:
            CheckpointError: there is none.
            ConfigError: it is invalid.
        """
        if "config" not in self.metadata:
            self._check_ours()
            raise CheckpointError(f"{self.path} holds no configuration: say which", setting="svd_config")
        return parse_config(self.metadata["config"])

    def names(self, prefix: str) -> set[str]:
        """Names of the stored tensors of a network."""
        return {name for name in self.shapes if name.startswith(f"{prefix}.")}

    def take(self, other: Checkpoint, names: Iterable[str]) -> None:
        """Read these tensors from another file from now on; those that it does not have are missing then."""
        for name in names:
            self._taken[name] = other
            self.shapes.pop(name, None)
            if name in other.shapes:
                self.shapes[name] = other.shapes[name]

    def read(self, name: str) -> np.ndarray:
        """The values of a tensor; float32 and float16 are mapped copy-on-write."""
        if name in self._taken:
            return self._taken[name].read(name)
        stored = self._tensors[name]
        if stored.dtype not in _MAPPED:
            return lazy_tensor(self.path, name, stored).read()
        return np.asarray(self._data[stored.start : stored.end]).view(DTYPES[stored.dtype]).reshape(stored.shape)

    def check_model(self, model: Model) -> None:
        """Raise CheckpointError if the file has a configuration with other networks than the model."""
        if "config" in self.metadata and (different := self.config.different_networks(model)):
            raise self._of_another_model(different[0])

    def check(self, networks: Mapping[str, nn.Cell]) -> None:
        """Raise CheckpointError, which lists names, unless the file has all parameters of the networks in their shapes.

        Args:
            networks: by the prefix of their parameters' names.
        """
        wanted, found = checkpoint_parameters(networks), self.shapes
        missing = [name for name in wanted if name not in found]
        if missing:
            self._check_ours()
        if missing and any(name.endswith(f".{LORA_UP}") for name in found):
            problem = "holds adapters alone: give them as lora, and the checkpoint of their model"
            raise CheckpointError(f"{self.path} {problem}", setting="lora")
        wrong = [
            f"{name} {list(found[name])} instead of {list(parameter.shape)}"
            for name, parameter in wanted.items()
            if name in found and found[name] != tuple(parameter.shape)
        ]
        if missing or wrong:
            problems = [f"{len(missing)} names missing ({first_few(missing)})"] if missing else []
            problems += [f"{len(wrong)} of another shape ({first_few(wrong)})"] if wrong else []
            raise self._of_another_model("; ".join(problems))

    def load(
        self,
        networks: Mapping[str, nn.Cell],
        changed: Optional[Callable[[str, np.ndarray], np.ndarray]] = None,
    ) -> None:
        """Load networks; each parameter keeps its dtype, and other tensors of the file are ignored.

        Args:
            networks: by the prefix of their parameters' names.
            changed: transforms a tensor, given its name; merges adapters, for example.

        Raises:
            CheckpointError: as `check`; or a value is not finite, or overflows.
        """
        self.check(networks)
        for name, parameter in checkpoint_parameters(networks).items():
            array, path = self.read(name), self._taken.get(name, self).path
            parameter.set_data(_tensor(path, name, changed(name, array) if changed else array, parameter.dtype))

    def _check_ours(self) -> None:
        """Raise CheckpointError, which says what to do, for names of other programs."""
        if foreign := describe_adapters(self.path, self.shapes) or describe_model(self.path, self.shapes):
            raise CheckpointError(f"{self.path} {foreign}")

    def _of_another_model(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is of another model than the configuration: {problem}")


def checkpoint_parameters(networks: Mapping[str, nn.Cell]) -> dict[str, ms.Parameter]:
    """By their names in a checkpoint, which adapters that are to be trained are not in."""
    found = {f"{prefix}.{p.name}": p for prefix, cell in networks.items() for p in cell.get_parameters()}
    return {name: p for name, p in found.items() if not name.endswith((f".{LORA_DOWN}", f".{LORA_UP}"))}


def _tensor(path: Path, name: str, array: np.ndarray, dtype: ms.Type) -> ms.Tensor:
    import mindspore as ms

    target = np.float16 if dtype == ms.float16 else np.float32  # NumPy has no bfloat16
    with np.errstate(over="ignore", invalid="ignore"):  # what would be warned of is an error
        # One pass, and no second array of the size of the first. In float64 no sum of finite float32 values overflows.
        if not np.isfinite(array.sum(dtype=np.float64)):
            raise CheckpointError(f"{path}: {name} holds values that are not finite (NaN or infinity)")
        converted = array.astype(target, copy=False)
    if converted.itemsize < array.itemsize and np.isinf(converted).any():
        problem = f"{path}: {name} does not fit {converted.dtype}"
        if target == np.float16:
            raise CheckpointError(f"{problem}: use amp_level O0", setting="amp_level")
        raise CheckpointError(f"{problem}: the checkpoint is damaged")
    tensor = ms.Tensor.from_numpy(np.ascontiguousarray(converted))
    return tensor.astype(dtype) if dtype == ms.bfloat16 else tensor
