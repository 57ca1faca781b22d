"""Checkpoints of a training run: folders that are renamed to their names once they are complete.

RUN/checkpoints/update_00000500/
    trained.safetensors             the trained parameters, float32, by their names in a model's checkpoint
    ema.safetensors                 their EMA, if there is one
    opponent.safetensors            the parameters of the second player, such as a discriminator, if there is one
    optimizer.safetensors           exp_avg.* and exp_avg_sq.*; optimizer_0_of_2.safetensors ... if they are sharded
    state.json                      everything else, `TrainState`
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Optional

import numpy as np
from mindspore import Parameter, Tensor
from safetensors import SafetensorError, safe_open

from svd.checkpoints.formats import TRAINED_FORMAT
from svd.checkpoints.tensor_files import save_tensors
from svd.checkpoints.tensor_header import CheckpointError
from svd.console import first_few, one_line
from svd.errors import ConfigError
from svd.files import fsync
from svd.records import RecordError, read_json, record
from svd.training.config import MOST_UPDATES, TrainConfig
from svd.training.distributed import Ranks

_NAME = re.compile(r"update_[0-9]{8}")
_LEFT_OVER = re.compile(r"\.update_[0-9]{8}\.(tmp|old)")
FILES = {
    "trained": r"trained",
    "ema": r"ema",
    "opponent": r"opponent",
    "optimizer": r"optimizer(_[0-9]+_of_[0-9]+)?",
}
"""File names by kind, as regular expressions."""
OPTIONAL = ("ema", "opponent")
"""Kinds that not every training has."""


class NotFiniteError(CheckpointError):
    """Weights, EMA or optimizer states are not finite: they are not written, and cannot be resumed from."""


@dataclass
class TrainState:
    """Progress of a run. Random numbers need no state: they follow from the seed and the samples' numbers."""

    update: int = 0
    """Updates so far, including those skipped for an overflow."""
    applied: int = 0
    """Updates that changed the weights."""
    samples: int = 0
    """Samples of the stream that all cards together have consumed."""
    loss_scale: float = 2.0**16
    """The dynamic loss scale."""
    good_updates: int = 0
    """Updates since it last changed."""
    settings: dict = dataclasses.field(default_factory=dict)
    """The configuration of the run."""
    opponent_applied: int = 0
    """Updates that changed the second player's, if there is one."""

    def __post_init__(self):
        most_of = dict.fromkeys(("update", "applied", "opponent_applied", "good_updates"), MOST_UPDATES)
        most_of["samples"] = 2**63
        for name, most in most_of.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} has to be 0 to {most}, not {getattr(self, name)}")
        for name in ("applied", "opponent_applied"):
            if getattr(self, name) > self.update:
                raise ValueError(f"{name}, {getattr(self, name)}, cannot be more than update, {self.update}")
        if not (isfinite(self.loss_scale) and self.loss_scale > 0):
            raise ValueError(f"loss_scale has to be positive, not {self.loss_scale}")


def checkpoint_name(update: int) -> str:
    """Name of the checkpoint after an update."""
    return f"update_{update:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; folders of other names are ignored."""
    return _checkpoints_in(run / "checkpoints")


def _checkpoints_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("update_*") if _NAME.fullmatch(path.name) and path.is_dir())


class CheckpointWriter:
    """Writes a run's checkpoints, and deletes old ones.

    Args:
        run: the folder of the run.
        keep: number of checkpoints to keep.
        metadata: of the files of weights, such as the model's configuration.
        ranks: the first writes what all have in common.
    """

    def __init__(self, run: Path, keep: int, metadata: dict[str, str], ranks: Ranks):
        self.run, self.keep, self.ranks = run, keep, ranks
        self.metadata = {"format": TRAINED_FORMAT, **metadata}

    def save(
        self,
        state: TrainState,
        weights: dict[str, dict[str, Parameter]],
        optimizer: dict[str, Parameter],
        sharded: bool,
    ) -> Path:
        """Write a checkpoint; older ones are kept until it is complete. Called on all ranks together.

        Args:
            weights: the files `trained` and, if there are such, `ema` and `opponent`: parameters by name.
            optimizer: states by name; of this rank's parameters if `sharded`, else of all.

        Raises:
            CheckpointError: it could not be written; the older checkpoints are still there.
        """
        target = self.run / "checkpoints" / checkpoint_name(state.update)
        aside = target.with_name(f".{target.name}.tmp")
        name = f"optimizer_{self.ranks.rank}_of_{self.ranks.count}" if sharded else "optimizer"
        files = {name: optimizer} if sharded or self.ranks.first else {}
        if self.ranks.first:
            files |= weights
        self._together(self._begin, aside, weights, optimizer)
        try:
            self._together(self._write, aside, files)
            self._together(self._complete, aside, target, state)
        except CheckpointError:
            if self.ranks.first:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        return target

    def _together(self, action, *arguments) -> None:
        """Run something on every rank; raises on all of them if it fails on one."""
        problem = None
        try:
            action(*arguments)
        except Exception as error:  # of any kind: the other ranks must not wait for this one
            problem = error
        failed, infinite = self.ranks.sum(float(problem is not None), float(isinstance(problem, NotFiniteError)))
        if not failed:
            return
        kept = checkpoints(self.run)
        last = f"the last good one is {kept[-1]}" if kept else "there is no earlier one"
        what = f": {one_line(problem)}" if problem is not None else ""
        if infinite:
            raise NotFiniteError(f"the weights or the optimizer's states are not finite{what}; {last}") from problem
        raise CheckpointError(f"the checkpoint could not be written to {self.run}{what}; {last}") from problem

    def _begin(self, aside: Path, weights: dict[str, dict[str, Parameter]], optimizer: dict[str, Parameter]) -> None:
        if not self.ranks.first:
            return
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        need = sum(p.nbytes for group in (*weights.values(), optimizer) for p in group.values())
        free = shutil.disk_usage(aside).free
        if need > free:
            aside.rmdir()
            raise OSError(f"no space: {need / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")

    def _write(self, aside: Path, files: dict[str, dict[str, Parameter]]) -> None:
        for name, parameters in files.items():
            metadata = self.metadata if name in ("trained", "ema") else {"format": "pt"}
            path = aside / f"{name}.safetensors"
            arrays = {key: parameter.asnumpy() for key, parameter in parameters.items()}
            bad = [key for key, array in arrays.items() if not np.isfinite(array).all()]
            if bad:
                raise NotFiniteError(f"{len(bad)} tensors of {name}, such as {bad[0]}")
            save_tensors(path, arrays, metadata)
            fsync(path)

    def _complete(self, aside: Path, target: Path, state: TrainState) -> None:
        if not self.ranks.first:
            return
        path = aside / "state.json"
        path.write_text(json.dumps(dataclasses.asdict(state), indent=1))
        fsync(path)
        fsync(aside)
        if target in checkpoints(self.run):  # written twice at the same update: the older is as good
            shutil.rmtree(aside)
        elif os.path.lexists(target):
            raise FileExistsError(f"{target} is in the way")
        else:
            os.replace(aside, target)
            fsync(target.parent)
        for old in checkpoints(self.run)[: -self.keep]:
            # Renamed first: a partly deleted checkpoint must not look complete.
            gone = old.with_name(f".{old.name}.old")
            os.replace(old, gone)
            shutil.rmtree(gone, ignore_errors=True)


def begin_or_resume(train: TrainConfig) -> tuple[Optional[Path], TrainState]:
    """The checkpoint to resume from, None to start anew, and its state.

    Raises:
        ConfigError: the folder has checkpoints of another run.
        CheckpointError: there is none to resume from.
    """
    found = checkpoints(Path(train.output_dir))
    if train.resume == "never" and found:
        raise ConfigError(
            f"train.output_dir {train.output_dir} has checkpoints, the last is {found[-1].name}: continue with "
            "train.resume=auto, or choose another folder",
            setting="train.resume",
        )
    if train.resume == "never" or (train.resume == "auto" and not found):
        return None, TrainState()
    resume = found[-1] if train.resume == "auto" else Path(train.resume)
    state = read_state(resume)
    if found and found[-1].name > checkpoint_name(state.update):  # they would be taken for those of the new run
        raise ConfigError(
            f"train.output_dir {train.output_dir} has checkpoints of later updates than {resume.name}, the last is "
            f"{found[-1].name}: remove them, or choose another folder",
            setting="train.output_dir",
        )
    return resume, state


def remove_leftovers(run: Path) -> None:
    """Delete what a killed run left half-written or half-deleted."""
    for path in (run / "checkpoints").glob(".update_*"):
        if _LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path) -> TrainState:
    """Read the state of a checkpoint.

    Raises:
        CheckpointError: it is no checkpoint of a training run, or damaged.
    """
    try:
        return _read_state(path)
    except (OSError, RecordError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a training run ({one_line(error)}): give RUN/checkpoints/update_<number>, "
            f"auto or never{_instead_of(path)}"
        ) from error


def _read_state(path: Path) -> TrainState:
    file = path / "state.json"
    state = record(TrainState, read_json(file), str(file))
    if _NAME.fullmatch(path.name) and checkpoint_name(state.update) != path.name:
        raise RecordError(f"{file}: update is {state.update}, which is not that of its folder")
    return state


def load(path: Path, kind: str, targets: dict[str, Parameter]) -> None:
    """Fill parameters from a checkpoint's files of a kind: `trained`, `ema`, `opponent` or `optimizer*`.

    Raises:
        CheckpointError: a file is damaged, or has other parameters than are trained now.
    """
    found: dict[str, np.ndarray] = {}
    extra, wrong = [], []
    files = _files(path, kind)
    if not files and kind != "ema":
        raise CheckpointError(f"{path} has no file {kind}.safetensors{_instead_of(path)}")
    for file in files:
        try:
            file.open("rb").close()  # safetensors reports any unreadable file as missing
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    if name not in targets:
                        extra.append(name)
                    elif tensors.get_slice(name).get_shape() != list(targets[name].shape):
                        wrong.append(name)
                    else:
                        found[name] = tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            damaged = f"{file} is not a complete safetensors file ({one_line(error)})"
            raise CheckpointError(f"{damaged}{_instead_of(path)}") from error
    problems = {"of its parameters are not trained now": extra if kind == "trained" else []}
    problems[f"of {kind} are missing"] = [name for name in targets if name not in found and name not in wrong]
    problems["are of another shape"] = wrong
    for problem, names in problems.items():
        if names:
            other = f"{path} is of another model or training than this one"
            raise CheckpointError(f"{other}: {len(names)} {problem} ({first_few(names)})")
    bad = [name for name, array in found.items() if not _is_good(array)]
    if bad:
        damaged = f"{path}: {len(bad)} tensors of {kind} are not finite float32 numbers ({bad[0]})"
        raise CheckpointError(f"{damaged}{_instead_of(path)}")
    for name, parameter in targets.items():
        parameter.set_data(Tensor(found[name]))


def _files(path: Path, kind: str) -> list[Path]:
    """The files of a kind in a checkpoint."""
    name = re.compile(FILES[kind.rstrip("*")] + r"\.safetensors")
    return sorted(file for file in path.glob("*.safetensors") if name.fullmatch(file.name) and file.is_file())


def _is_good(array: np.ndarray) -> bool:
    return array.dtype == np.float32 and bool(np.isfinite(array).all())


def _instead_of(path: Path) -> str:
    """Advice about a damaged checkpoint, if there is an older intact one in its folder."""
    if not _NAME.fullmatch(path.name):
        return ""
    there = _checkpoints_in(path.parent)
    whole = next((older for older in reversed(there) if older.name < path.name and _is_whole(older)), None)
    if whole is None:
        return ""
    newer = [shlex.quote(str(other)) for other in there if other.name > whole.name]
    moves = " && ".join(f"mv {name} {name}.damaged" for name in newer)
    return f"; {whole.name} is whole, and to continue from it: {moves}, and train.resume=auto"


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read completely, and all its numbers are finite."""
    try:
        _read_state(path)
        for name in FILES:
            files = _files(path, name)
            if not files and name not in OPTIONAL:
                return False
            for file in files:
                with safe_open(file, framework="np") as tensors:
                    if not all(_is_good(tensors.get_tensor(key)) for key in tensors.keys()):  # noqa: SIM118 (no mapping)
                        return False
    except (OSError, RecordError, SafetensorError):
        return False
    return True
