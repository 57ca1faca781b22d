"""Checkpoints of a run: whole or not at all, whatever fails in between, and never those of another training."""

import errno
import json
import os
import shutil
import subprocess
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from mindspore import Parameter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from tiny_task import assert_same, parameter, values

from svd.checkpoints.formats import TRAINED_FORMAT
from svd.checkpoints.tensor_header import CheckpointError
from svd.training import checkpoint
from svd.training.checkpoint import (
    CheckpointWriter,
    NotFiniteError,
    TrainState,
    checkpoints,
    load,
    read_state,
    remove_leftovers,
)
from svd.training.distributed import Ranks

SHAPES = {"network.a.weight": (3, 4), "network.b.bias": (5,), "network.c.mix_factor": (1,)}
STATE = TrainState(4, 3, 24, 2.0**13, 7, {"train": {"seed": 3, "betas": [0.9, 0.999]}})


def make(seed: int, prefix: str = "", shapes=None) -> dict[str, Parameter]:
    """Parameters of random values, by name; zeros for seed 0."""
    rng = np.random.default_rng(seed)
    return {
        f"{prefix}{name}": parameter(name, rng.standard_normal(shape) * bool(seed))
        for name, shape in (shapes or SHAPES).items()
    }


def writer(run: Path, keep: int = 3, ranks=None) -> CheckpointWriter:
    return CheckpointWriter(run, keep, {"config": "unet: {}"}, ranks or Ranks())


def save(run: Path, update: int = 4, seed: int = 1, keep: int = 3) -> Path:
    """A checkpoint whose values follow from the seed."""
    state = TrainState(**(vars(STATE) | {"update": update, "applied": min(STATE.applied, update)}))
    groups = {"trained": make(seed), "ema": make(seed + 1)}
    return writer(run, keep).save(state, groups, make(seed + 2, "exp_avg."), sharded=False)


def hidden(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(".*"))


def message(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what is written is read ---


def test_all_comes_back_bit_for_bit(tmp_path):
    path = save(tmp_path)
    assert path == tmp_path / "checkpoints" / "update_00000004"
    assert sorted(file.name for file in path.iterdir()) == [
        "ema.safetensors", "optimizer.safetensors", "state.json", "trained.safetensors"]  # fmt: skip
    assert not hidden(tmp_path)
    for seed, pattern, prefix in ((1, "trained", ""), (2, "ema", ""), (3, "optimizer*", "exp_avg.")):
        targets = make(0, prefix)
        load(path, pattern, targets)
        assert_same(values(targets.values()), values(make(seed, prefix).values()))
    assert read_state(path) == STATE


def test_files_of_weights_say_what_they_are(tmp_path):
    path = save(tmp_path)
    for name in ("trained", "ema"):
        with safe_open(path / f"{name}.safetensors", framework="np") as file:
            assert file.metadata() == {"format": TRAINED_FORMAT, "config": "unet: {}"}
            assert set(file.keys()) == set(SHAPES)


def test_without_averages_there_is_no_file_of_them(tmp_path):
    path = writer(tmp_path).save(STATE, {"trained": make(1)}, make(3, "exp_avg."), sharded=False)
    assert not (path / "ema.safetensors").exists()


def test_the_newest_are_kept(tmp_path):
    for update in (2, 9, 10, 100):
        save(tmp_path, update, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["update_00000010", "update_00000100"]
    assert len(os.listdir(tmp_path / "checkpoints")) == 2


def test_a_checkpoint_that_is_written_twice(tmp_path):
    assert save(tmp_path) == save(tmp_path)
    assert len(checkpoints(tmp_path)) == 1 and not hidden(tmp_path)


def test_half_written_and_half_deleted_ones_do_not_count_and_are_removed(tmp_path):
    path = save(tmp_path)
    for name in (".update_00000006.tmp", ".update_00000002.old"):
        shutil.copytree(path, path.with_name(name))
    assert checkpoints(tmp_path) == [path]
    save(tmp_path, 6)  # writes over what it finds
    assert (path.with_name("update_00000006") / "state.json").exists()
    remove_leftovers(tmp_path)
    assert not hidden(tmp_path) and len(checkpoints(tmp_path)) == 2


def test_a_run_without_checkpoints(tmp_path):
    assert checkpoints(tmp_path) == []
    remove_leftovers(tmp_path)


# --- a disk that is full ---

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail(error: Exception, after: int = 0):
    """A function that raises this when it was called so many times."""
    calls = []

    def function(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise error

    return function


FAILURES = {
    "no space for the first file": ("save_tensors", fail(SafetensorError("I/O error: No space left on device"))),
    "no space, known beforehand": ("shutil.disk_usage", lambda path: namedtuple("Usage", "free")(150)),
    "the first file is not on the disk": ("os.fsync", fail(NO_SPACE)),
    "the state is not on the disk": ("os.fsync", fail(NO_SPACE, after=3)),
    "the folder cannot be renamed": ("os.replace", fail(NO_SPACE)),
}


@pytest.mark.parametrize("name, function", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("there_is_one", [True, False])
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, monkeypatch, name, function, there_is_one):
    older = [save(tmp_path, 2)] if there_is_one else []
    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as error:
        patch.setattr(f"svd.training.checkpoint.{name}", function)
        save(tmp_path, 4, keep=1)
    assert message(error).startswith(f"the checkpoint could not be written to {tmp_path}: ")
    assert "no space" in message(error).lower()
    last = f"the last good one is {older[0]}" if older else "there is no earlier one"
    assert message(error).endswith(f"; {last}")
    assert checkpoints(tmp_path) == older
    assert not hidden(tmp_path)
    if older:
        assert read_state(older[0]).update == 2
    assert save(tmp_path, 4).is_dir()


def test_space_is_needed_for_all_that_is_written(tmp_path, monkeypatch):
    """Weights, averages and the optimizer's states: 18 float32 numbers each."""
    need = 3 * 18 * 4
    for free, fits in ((need, True), (need - 1, False)):
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))  # noqa: B023
        if fits:
            save(tmp_path, 2)
        else:
            with pytest.raises(CheckpointError, match=r"no space: 0\.00 GB needed, 0\.00 GB free"):
                save(tmp_path, 4)


# --- checkpoints that cannot be used ---


@pytest.mark.parametrize("name", ["trained", "ema", "optimizer"])
def test_a_damaged_file(tmp_path, name):
    path = save(tmp_path)
    file = path / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file") as error:
        load(path, name, make(0, "exp_avg." if name == "optimizer" else ""))
    assert message(error).startswith(str(file))


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "{}x", '{"updates": 3}'])
def test_a_damaged_state(tmp_path, text):
    path = save(tmp_path)
    (path / "state.json").unlink() if text is None else (path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="is no checkpoint of a training run") as error:
        read_state(path)
    assert message(error).startswith(str(path))


@pytest.mark.parametrize(
    "pattern, change, expected",
    [
        ("trained", {"network.d": (2,)}, r"1 of trained are missing \(network\.d\)"),
        ("ema", {"network.d": (2,), "network.e": (2,)}, r"2 of ema are missing \(network\.d, network\.e\)"),
        ("trained", {"network.b.bias": None}, r"1 of its parameters are not trained now \(network\.b\.bias\)"),
        ("trained", {"network.b.bias": (6,)}, r"1 are of another shape \(network\.b\.bias\)"),
        ("ema", {"network.a.weight": (4, 3), "network.b.bias": (1,)},
         r"2 are of another shape \(network\.a\.weight, network\.b\.bias\)"),
        ("trained", {f"network.{i}": (1,) for i in range(5)},
         r"5 of trained are missing \(network\.0, network\.1, network\.2, \.\.\.\)"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_other_parameters(tmp_path, pattern, change, expected):
    """What is trained now is `change`d: names and shapes, None for not at all. No value is set."""
    path = save(tmp_path)
    targets = make(0, shapes={name: shape for name, shape in (SHAPES | change).items() if shape is not None})
    with pytest.raises(CheckpointError, match=f"is of another model or training than this one: {expected}") as error:
        load(path, pattern, targets)
    assert message(error).startswith(str(path))
    assert not any(p.asnumpy().any() for p in targets.values())


STATES = {
    "text": {"update": "text"},
    "null": {"update": None},
    "negative": {"update": -1},
    "with a point": {"update": 1e30},
    "true": {"samples": True},
    "huge": {"update": 10**8},
    "another than its folder's": {"update": STATE.update + 1},
    "more that were applied than there were": {"applied": STATE.update + 1},
    "a list of settings": {"settings": []},
    "an infinite scale": {"loss_scale": float("inf")},
    "no scale": {"loss_scale": 0},
    "an unknown field": {"updates": 3},
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_state_of_other_types_or_out_of_bounds(tmp_path, change):
    path = save(tmp_path)
    (path / "state.json").write_text(json.dumps(vars(STATE) | change))
    with pytest.raises(CheckpointError, match="is no checkpoint of a training run") as error:
        read_state(path)
    assert next(iter(change)) in message(error)


def test_a_state_that_is_nested_too_deeply_or_no_file(tmp_path):
    path = save(tmp_path)
    (path / "state.json").write_text('{"settings": ' + 100_000 * "[" + 100_000 * "]" + "}")
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read_state(path)
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    with pytest.raises(CheckpointError, match="no ordinary file"):
        read_state(path)


def rewrite(file: Path, change) -> None:
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)


@pytest.mark.parametrize("kind, prefix", [("trained", ""), ("ema", ""), ("optimizer*", "exp_avg.")])
@pytest.mark.parametrize(
    "value, expected",
    [
        (np.float32(np.inf), "1 tensors of .* are not finite float32 numbers"),
        (np.float32(np.nan), "1 tensors of .* are not finite float32 numbers"),
        (np.float16(0), "1 tensors of .* are not finite float32 numbers"),
        (np.ones((5, 3, 4), np.float32), "1 are of another shape"),
        (np.ones((12,), np.float32), "1 are of another shape"),
    ],
    ids=["infinite", "nan", "float16", "more", "flat"],
)
def test_tensors_that_no_run_writes(tmp_path, kind, prefix, value, expected):
    """Nothing is loaded then."""
    path, name = save(tmp_path), f"{prefix}network.a.weight"
    rewrite(
        path / f"{kind.rstrip('*')}.safetensors",
        lambda arrays: arrays.update({name: value if value.ndim else np.full((3, 4), value)}),
    )
    targets = make(0, prefix)
    with pytest.raises(CheckpointError, match=expected) as error:
        load(path, kind, targets)
    assert name in message(error) and not any(p.asnumpy().any() for p in targets.values())


@pytest.mark.parametrize("spoilt", ["trained.safetensors", "optimizer.safetensors", "state.json"])
def test_the_newest_that_is_whole_is_offered(tmp_path, spoilt):
    """With the commands to continue from it: of two damaged ones the older."""
    for update in (2, 3, 4, 5):
        save(tmp_path, update, keep=9)
    paths = checkpoints(tmp_path)
    (paths[1] / "state.json").write_text("{")  # 3
    rewrite(paths[2] / "ema.safetensors", lambda arrays: arrays["network.b.bias"].fill(np.nan))  # 4
    (paths[3] / spoilt).write_text("{")  # 5
    with pytest.raises(CheckpointError) as error:
        if spoilt == "state.json":
            read_state(paths[3])
        else:
            kind = spoilt.split(".")[0]
            load(paths[3], f"{kind}*" if kind == "optimizer" else kind, {})
    text = message(error)
    assert "; update_00000002 is whole, and to continue from it: " in text
    assert text.endswith(", and train.resume=auto")
    subprocess.run(text.split("to continue from it: ")[1].split(", and")[0], shell=True, check=True)
    assert checkpoints(tmp_path) == paths[:1]


# --- what is not the program's own ---

OTHERS = ("update_00000002_best", "update_00000002.bak", "update_best", "update_2", "update_000000003", "best")


def test_a_users_copies_are_neither_deleted_nor_continued_from(tmp_path):
    first = save(tmp_path, 1)
    for name in OTHERS:
        shutil.copytree(first, first.with_name(name))
    (first.parent / "update_00000009").write_text("a file")
    for name in (".update_notes", ".update_00000007.bak", ".update_7.tmp"):
        (first.parent / name).mkdir()
    for update in (2, 3, 4):
        save(tmp_path, update, keep=1)
    remove_leftovers(tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["update_00000004"]
    theirs = {*OTHERS, "update_00000009", ".update_notes", ".update_00000007.bak", ".update_7.tmp"}
    assert set(os.listdir(first.parent)) == {*theirs, "update_00000004"}


def test_something_in_the_place_of_a_checkpoint_is_not_taken_for_one(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/update_00000004").write_text("a file")
    with pytest.raises(CheckpointError, match="update_00000004 is in the way"):
        save(tmp_path, 4)
    assert (tmp_path / "checkpoints/update_00000004").read_text() == "a file" and not hidden(tmp_path)


@pytest.mark.parametrize("file", ["trained", "ema", "optimizer"])
def test_what_is_not_finite_is_not_written(tmp_path, file):
    older = save(tmp_path, 2)
    groups = {"trained": make(1), "ema": make(2), "optimizer": make(3, "exp_avg.")}
    bad = list(groups[file].values())[1]
    bad.set_data(bad * float("nan"))
    optimizer = groups.pop("optimizer")
    with pytest.raises(NotFiniteError, match=f"1 tensors of {file}, such as .*; the last good one is {older}"):
        writer(tmp_path, keep=1).save(STATE, groups, optimizer, sharded=False)
    assert checkpoints(tmp_path) == [older] and not hidden(tmp_path)


# --- several processes ---


class Process:
    """One of two ranks: a thread of this process. Sums wait for each other, as those over cards do."""

    count = 2

    def __init__(self, rank: int, barrier: Barrier, numbers: dict):
        self.rank, self.first, self.barrier, self.numbers = rank, rank == 0, barrier, numbers

    def sum(self, *numbers: float) -> list[float]:
        self.numbers[self.rank] = numbers
        self.barrier.wait(10)
        total = [sum(column) for column in zip(*self.numbers.values())]
        self.barrier.wait(10)
        return total


NAMES = list(SHAPES)
SHARES = (NAMES[:2], NAMES[2:])


def save_by_two(run: Path) -> list:
    """Each rank has states of its own parameters: the paths that they return, or what they raise."""
    barrier, numbers, weights, states = Barrier(2), {}, make(1), make(3, "exp_avg.")

    def rank(number: int):
        mine = {f"exp_avg.{name}": states[f"exp_avg.{name}"] for name in SHARES[number]}
        ranks = Process(number, barrier, numbers)
        try:
            return writer(run, ranks=ranks).save(STATE, {"trained": weights}, mine, sharded=True)
        except CheckpointError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(rank, (0, 1)))


def test_states_that_were_shared_out_are_found_by_any_number_of_processes(tmp_path):
    path, same = save_by_two(tmp_path)
    assert path == same
    for i, share in enumerate(SHARES):
        assert set(load_file(path / f"optimizer_{i}_of_2.safetensors")) == {f"exp_avg.{name}" for name in share}
    saved = make(3, "exp_avg.")
    for part in (NAMES, NAMES[1:2], NAMES[1:]):  # of one process, and of others than before
        wanted = [f"exp_avg.{name}" for name in part]
        targets = {name: value for name, value in make(0, "exp_avg.").items() if name in wanted}
        load(path, "optimizer*", targets)
        assert_same(values(targets.values()), values(saved[name] for name in wanted))
    (path / "optimizer_1_of_2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of optimizer\* are missing \(exp_avg\.network\.c\.mix_factor\)"):
        load(path, "optimizer*", make(0, "exp_avg."))


def test_what_fails_on_one_process_fails_on_all(tmp_path, monkeypatch):
    def refuse(path, arrays, metadata):
        if path.name.startswith("optimizer_1"):
            raise NO_SPACE
        path.touch()

    monkeypatch.setattr(checkpoint, "save_tensors", refuse)
    errors = save_by_two(tmp_path)
    assert [type(error) for error in errors] == [CheckpointError] * 2
    assert "No space left" in str(errors[1]) and "there is no earlier one" in str(errors[0])
    assert checkpoints(tmp_path) == [] and not hidden(tmp_path)


def test_the_state_is_readable_text(tmp_path):
    assert json.loads((save(tmp_path) / "state.json").read_text())["settings"] == STATE.settings
