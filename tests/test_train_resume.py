"""Killed, stopped and interrupted trainings continue, and end with the weights of one that was left alone."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from training_runs import (
    all_gone,
    assert_same,
    checkpoint,
    descendants,
    distance,
    metrics,
    names,
    options,
    start_training,
    tensors,
    train_here,
)

UPDATES = 6

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
IN_AN_UPDATE = f"""
import multiprocessing
from svd.training.tasks.video import DenoisingObjective
inputs, calls = DenoisingObjective.inputs, []
def killing(*arguments):
    calls.append(None)
    if len(calls) == 4:
        workers = [process.pid for process in multiprocessing.active_children()]
        print("in update 4, with the workers", *workers, "of data", flush=True)
        {KILL}
    return inputs(*arguments)
DenoisingObjective.inputs = killing
"""
IN_A_SAVE = f"""
from svd.training import checkpoint
fsync = checkpoint.fsync
def killing(path):
    fsync(path)
    if path.name == "ema.safetensors":
        print("in a save", flush=True)
        {KILL}
checkpoint.fsync = killing
"""
WHILE_THE_OLD_IS_DELETED = f"""
import shutil
rmtree = shutil.rmtree
def killing(path, *arguments, **more):
    if str(path).endswith(".old"):
        os.remove(os.path.join(path, "state.json"))
        print("while the old one is deleted", flush=True)
        {KILL}
    rmtree(path, *arguments, **more)
shutil.rmtree = killing
"""


def flags(inputs: Path, run: Path) -> list[str]:
    return [*options(inputs, run), f"--train.updates={UPDATES}", "--train.checkpoint_every=2", "--train.resume=auto"]


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train_here(*flags(inputs, run), "--train.keep_checkpoints=9", "--train.checkpoint_every=1").code == 0
    return run


def assert_as_undisturbed(run: Path, undisturbed: Path) -> None:
    """Bit for bit: weights, averages, optimizer states, the model, and what the metrics say of the loss."""
    end = checkpoint(run, UPDATES)
    assert_same(tensors(end), tensors(checkpoint(undisturbed, UPDATES)))
    kinds = {name.split("/")[0] for name in tensors(end)}
    assert kinds == {"trained", "ema", "optimizer"}
    assert_same(load_file(run / "model.safetensors"), load_file(undisturbed / "model.safetensors"))
    state, expected = (
        json.loads((path / "state.json").read_text()) for path in (end, checkpoint(undisturbed, UPDATES))
    )
    assert state | {"settings": 0} == expected | {"settings": 0} and state["update"] == state["samples"] == UPDATES
    columns = ["update", "epoch", "loss", "learning_rate", "grad_norm"]
    assert metrics(run)[columns].equals(metrics(undisturbed)[columns]), "every update once, each as it was"


def test_every_update_shows(undisturbed):
    """The tests below could not fail otherwise."""
    for update in range(2, UPDATES + 1):
        a, b = (tensors(checkpoint(undisturbed, n)) for n in (update, update - 1))
        assert min(distance(a, b, kind) for kind in ("trained/", "ema/", "optimizer/")) > 1e-3


def test_killed_again_and_again(inputs, undisturbed, tmp_path):
    """In the middle of an update, of a save, and, with the new checkpoint in place, of the deletion of the old one."""
    run = tmp_path / "run"
    kept = [*flags(inputs, run), "--train.keep_checkpoints=1", "--train.workers=1"]
    for patch, said, left in (
        (IN_AN_UPDATE, "of data", {"update_00000002"}),
        (IN_A_SAVE, "in a save", {"update_00000002", ".update_00000004.tmp"}),
        (WHILE_THE_OLD_IS_DELETED, "while the old", {".update_00000002.old", "update_00000004"}),
    ):
        child = start_training(tmp_path / "log", *kept, patch=patch)
        child.wait_for(said)
        assert child.wait() == -signal.SIGKILL
        assert names(run / "checkpoints") == left, said
        assert not (run / "model.safetensors").exists()
        if patch == IN_AN_UPDATE:
            workers = [int(pid) for pid in re.search("with the workers (.*) of data", child.said)[1].split()]
            assert len(workers) == 1 and all_gone(workers)
    outcome = train_here(*kept)
    assert outcome.code == 0 and f"continuing from {checkpoint(run, 4)}" in outcome.err
    assert names(run / "checkpoints") == {"update_00000006"}
    assert_as_undisturbed(run, undisturbed)


def test_sigterm_writes_a_checkpoint(inputs, undisturbed, tmp_path):
    """Sent to the processes that load data too, as cluster managers do. The checkpoint is that of the update."""
    run = tmp_path / "run"
    child = start_training(tmp_path / "log", *flags(inputs, run), "--train.updates=1000", "--train.workers=1")
    child.wait_for(" 1/1000 ")
    processes = [process.pid for process in descendants(child.process.pid)]
    os.killpg(child.process.pid, signal.SIGTERM)
    assert child.wait() == 143
    assert processes and all_gone(processes)
    stopped = re.search("stopped by a signal after update (.*); train.resume=auto continues", child.said)
    assert "stopping after this update, with a checkpoint" in child.said and stopped, child.said
    update = int(stopped[1])
    assert 1 <= update < UPDATES and max(names(run / "checkpoints")) == checkpoint(run, update).name
    assert not (run / "model.safetensors").exists() and metrics(run)["update"].iloc[-1] == update
    assert_same(tensors(checkpoint(run, update)), tensors(checkpoint(undisturbed, update)))
    outcome = train_here(*flags(inputs, run))
    assert outcome.code == 0 and f"  changed since: train.updates: 1000 -> {UPDATES}" in outcome.err
    assert_as_undisturbed(run, undisturbed)


def test_ctrl_c_twice_ends_at_once(inputs, tmp_path):
    """In an update that has still 99,997 micro-batches to go, for which Ctrl-C once would wait; in graph mode, where
    MindSpore has put its own handler in place of any other.
    """
    patch = """
from svd.training.tasks.video import DenoisingObjective
inputs, calls = DenoisingObjective.inputs, []
def telling(*arguments):
    calls.append(None)
    if len(calls) == 3:
        print("in micro-batch 3", flush=True)
    return inputs(*arguments)
DenoisingObjective.inputs = telling
"""
    run = tmp_path / "run"
    endless = ["--environment.mode=0", "--train.gradient_accumulation=100000", "--train.workers=1"]
    child = start_training(tmp_path / "log", *flags(inputs, run), *endless, patch=patch)
    child.wait_for("in micro-batch 3")
    processes = [process.pid for process in descendants(child.process.pid)]
    os.killpg(child.process.pid, signal.SIGINT)  # as a terminal does
    child.wait_for("stopping after this update, with a checkpoint (Ctrl-C again: at once, without)")
    os.killpg(child.process.pid, signal.SIGINT)
    assert child.wait(20) == 130
    assert child.said.rstrip().endswith("train.py: interrupted") and "Traceback" not in child.said
    assert processes and all_gone(processes)
    assert names(run / "checkpoints") == set()
