"""Checkpoints of a training run: folders that are complete as soon as they have their names.

RUN/checkpoints/update_00000500/
    trained.safetensors             the trained parameters, float32, by their names in a model's checkpoint
    ema.safetensors                 their averages, if there are any
    optimizer.safetensors           exp_avg.* and exp_avg_sq.*; optimizer_0_of_2.safetensors ... if cards share them out
    state.json                      everything else, `TrainState`
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor
from safetensors import SafetensorError, safe_open

from svd.checkpoint import CheckpointError
from svd.files import to_disk
from svd.saving import save_tensors
from svd.training import TRAINED_FORMAT
from svd.training.distributed import Ranks


@dataclass
class TrainState:
    """Where a run is. Random numbers need no state: they follow from the seed and the samples' numbers."""

    update: int = 0
    """Updates so far, those that an overflow made void included."""
    applied: int = 0
    """Updates that changed the weights."""
    samples: int = 0
    """Samples of the stream that were used, by all cards together."""
    loss_scale: float = 2.0**16
    """The dynamic loss scale."""
    good_updates: int = 0
    """Updates since it last changed."""
    settings: dict = dataclasses.field(default_factory=dict)
    """The configuration of the run."""


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("update_*"))


class CheckpointWriter:
    """Writes a run's checkpoints, and deletes those that are too old.

    Args:
        run: the folder of the run.
        keep: how many checkpoints are kept.
        metadata: of the files of weights, such as the model's configuration.
        ranks: of which the first writes what all have in common.
    """

    def __init__(self, run: Path, keep: int, metadata: dict[str, str], ranks: Ranks):
        self.run, self.keep, self.ranks = run, keep, ranks
        self.metadata = {"format": TRAINED_FORMAT, **metadata}

    def save(
        self,
        state: TrainState,
        weights: dict[str, dict[str, Parameter]],
        optimizer: dict[str, Parameter],
        shared_out: bool,
    ) -> Path:
        """Write a checkpoint; the older ones stay until it is complete. All ranks call this together.

        Args:
            weights: the files `trained` and, if there is one, `ema`: parameters by name.
            optimizer: states by name; of this rank's parameters if `shared_out`, else of all.

        Raises:
            CheckpointError: it could not be written; the older checkpoints are still there.
        """
        target = self.run / "checkpoints" / f"update_{state.update:08d}"
        aside = target.with_name(f".{target.name}.tmp")
        files = {"optimizer": optimizer} if not shared_out else {}
        if shared_out:
            files[f"optimizer_{self.ranks.rank}_of_{self.ranks.count}"] = optimizer
        if self.ranks.first:
            files |= weights
        self._together(self._begin, aside, weights, optimizer)
        try:
            self._together(self._write, aside, files if self.ranks.first or shared_out else {})
            self._together(self._complete, aside, target, state)
        except CheckpointError:
            if self.ranks.first:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        return target

    def _together(self, action, *arguments) -> None:
        """Do something on every rank; raise on all of them if it fails on one."""
        problem = ""
        try:
            action(*arguments)
        except (OSError, SafetensorError) as error:
            problem = f": {' '.join(str(error).split())}"
        if self.ranks.sum(float(bool(problem)))[0]:
            kept = checkpoints(self.run)
            last = f"the last good one is {kept[-1]}" if kept else "there is no earlier one"
            raise CheckpointError(f"the checkpoint could not be written to {self.run}{problem}; {last}")

    def _begin(self, aside: Path, *groups: dict) -> None:
        if not self.ranks.first:
            return
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        weights, optimizer = groups
        need = sum(p.nbytes for group in (*weights.values(), optimizer) for p in group.values())
        free = shutil.disk_usage(aside).free
        if need > free:
            aside.rmdir()
            raise OSError(f"no space: {need / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")

    def _write(self, aside: Path, files: dict[str, dict[str, Parameter]]) -> None:
        for name, parameters in files.items():
            metadata = self.metadata if name in ("trained", "ema") else {"format": "pt"}
            path = aside / f"{name}.safetensors"
            save_tensors(path, {key: parameter.asnumpy() for key, parameter in parameters.items()}, metadata)
            to_disk(path)

    def _complete(self, aside: Path, target: Path, state: TrainState) -> None:
        if not self.ranks.first:
            return
        path = aside / "state.json"
        path.write_text(json.dumps(dataclasses.asdict(state), indent=1))
        to_disk(path)
        to_disk(aside)
        if target.exists():  # written twice at the same update: the older one is as good
            shutil.rmtree(aside)
        else:
            os.replace(aside, target)
            to_disk(target.parent)
        for old in checkpoints(self.run)[: -self.keep]:
            # Renamed first: what is being deleted must not look complete.
            gone = old.with_name(f".{old.name}.old")
            os.replace(old, gone)
            shutil.rmtree(gone, ignore_errors=True)


def remove_leftovers(run: Path) -> None:
    """Delete what a run that was killed left half-written or half-deleted."""
    for path in (run / "checkpoints").glob(".update_*"):
        shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path) -> TrainState:
    """The state of a checkpoint.

    Raises:
        CheckpointError: no checkpoint of a training run.
    """
    try:
        return TrainState(**json.loads((path / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a training run ({error}): give RUN/checkpoints/update_<number>, auto or never"
        ) from error


def load(path: Path, pattern: str, targets: dict[str, Parameter]) -> None:
    """Fill parameters from a checkpoint's files whose names match, such as `trained` or `optimizer*`.

    Raises:
        CheckpointError: a file is damaged, or the parameters are not those that are trained now.
    """
    found: dict[str, np.ndarray] = {}
    for file in sorted(path.glob(f"{pattern}.safetensors")):
        try:
            with safe_open(file, framework="np") as tensors:
                names = tensors.keys()
                found |= {name: tensors.get_tensor(name) for name in names if name in targets}
                extra = [name for name in names if name not in targets] if pattern == "trained" else []
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is not a complete safetensors file ({error})") from error
        if extra:
            raise CheckpointError(_other(path, f"{len(extra)} of its parameters are not trained now", extra))
    missing = [name for name in targets if name not in found]
    if missing:
        raise CheckpointError(_other(path, f"{len(missing)} of {pattern} are missing", missing))
    wrong = [name for name, parameter in targets.items() if found[name].shape != tuple(parameter.shape)]
    if wrong:
        raise CheckpointError(_other(path, f"{len(wrong)} are of another shape", wrong))
    for name, parameter in targets.items():
        parameter.set_data(Tensor(found[name].astype(np.float32, copy=False)))


def _other(path: Path, problem: str, names: list[str]) -> str:
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{path} is of another model or training than this one: {problem} ({some})"
