"""Two processes: they train as one does with twice the batch, and end together."""

import json
import signal
import socket
from pathlib import Path

import psutil
import pytest
from device import cpu_only
from training_runs import (
    ROOT,
    Child,
    all_gone,
    checkpoint,
    descendants,
    distance,
    metrics,
    names,
    options,
    start,
    tensors,
    train_here,
)

pytestmark = cpu_only("its two processes would share a device")

LONGEST = 8
CLOSE = 1e-6
"""Relative to the weights; gradients are summed in another order."""


def flags(inputs: Path, run: Path) -> list[str]:
    # A large eps: where a gradient is next to nothing, Adam would make an update of its rounding.
    return [*options(inputs, run), "--train.checkpoint_every=1", "--train.keep_checkpoints=99"] + [
        "--train.optimizer.eps=1e-3",
        "--train.batch_size=1",
    ]


@pytest.fixture(scope="module")
def single(inputs, tmp_path_factory) -> Path:
    """One process with batches of 2, and a checkpoint of each of its updates."""
    run = tmp_path_factory.mktemp("single") / "run"
    outcome = train_here(*flags(inputs, run), f"--train.updates={LONGEST}", "--train.batch_size=2")
    assert outcome.code == 0
    return run


def start_two(folder: Path, *flags: str) -> Child:
    """Start two processes that log to folder/logs."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    return start(
        folder / "log",
        "bash",
        ROOT / "scripts/train_cpu.sh",
        *flags,
        LOG_DIR=str(folder / "logs"),
        MASTER_PORT=str(port),
    )


def ranks(child: Child) -> list[psutil.Process]:
    """The processes that train, in the order of their ranks."""
    found = []
    for process in descendants(child.process.pid):
        environment = process.environ()
        if environment.get("MS_ROLE") == "MS_WORKER" and "train.py" in " ".join(process.cmdline()):
            found.append((int(environment["MS_NODE_ID"]), process))
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def assert_close(a: Path, b: Path) -> None:
    """Two checkpoints: weights, averages, and optimizer states, which rounding shows in the most."""
    a, b = tensors(a), tensors(b)
    for kind, close in (("trained/", CLOSE), ("ema/", CLOSE), ("optimizer/", 5 * CLOSE)):
        assert distance(a, b, kind) < close, (kind, distance(a, b, kind))


def test_every_update_shows(single):
    """The tests below could not fail otherwise."""
    for update in range(2, LONGEST + 1):
        a, b = (tensors(checkpoint(single, n)) for n in (update, update - 1))
        assert min(distance(a, b, kind) for kind in ("trained/", "ema/", "optimizer/")) > 1000 * CLOSE


def test_shared_out_and_stopped(inputs, single, tmp_path):
    """Two processes train as one, optimizer states shared out; SIGTERM to the script stops both; one process continues
    what two began.
    """
    run = tmp_path / "run"
    shared = [*flags(inputs, run), "--train.shard_optimizer=True", "--train.updates=1000"]
    child = start_two(tmp_path, *shared)
    child.wait_for(" 1/1000 ")
    everyone = [process.pid for process in descendants(child.process.pid)]
    child.process.send_signal(signal.SIGTERM)
    assert child.wait() == 143
    assert all_gone(everyone) and "Traceback" not in child.said
    last = max(names(run / "checkpoints"))
    update = int(last.removeprefix("update_"))
    said = [(tmp_path / f"logs/worker_{rank}.log").read_text() for rank in (0, 1)]
    assert f"stopped by a signal after update {update}" in said[0]
    assert "/s" not in said[1], "the first one has a bar"
    assert json.loads((checkpoint(run, update) / "state.json").read_text())["samples"] == 2 * update
    assert metrics(run)["loss"].tolist() == pytest.approx(metrics(single)["loss"].tolist()[:update], rel=1e-5)
    assert names(checkpoint(run, update)) == {
        "trained.safetensors",
        "ema.safetensors",
        "optimizer_0_of_2.safetensors",
        "optimizer_1_of_2.safetensors",
        "state.json",
    }
    assert update < LONGEST, "else `single` is too short"
    assert_close(checkpoint(run, update), checkpoint(single, update))

    both = ["--train.resume=auto", "--train.batch_size=2", f"--train.updates={update + 1}"]
    outcome = train_here(*flags(inputs, run), *both)
    assert outcome.code == 0 and f"continuing from {checkpoint(run, update)}" in outcome.err
    assert "optimizer.safetensors" in names(checkpoint(run, update + 1))
    assert_close(checkpoint(run, update + 1), checkpoint(single, update + 1))


def test_a_process_that_dies_takes_the_other_with_it(inputs, single, tmp_path, monkeypatch):
    """Which would wait for it for ever. In pynative mode, with the optimizer states shared out."""
    monkeypatch.setenv("MS_NODE_TIMEOUT", "5")  # seconds until MindSpore's third process takes notice too, else 30
    run = tmp_path / "run"
    child = start_two(tmp_path, *flags(inputs, run), "--train.shard_optimizer=True", "--train.updates=1000")
    child.wait_for(" 2/1000 ")  # the checkpoint of update 1 is there
    everyone = [process.pid for process in descendants(child.process.pid)]
    ranks(child)[1].kill()
    assert child.wait() != 0
    assert all_gone(everyone)
    assert_close(checkpoint(run, 1), checkpoint(single, 1))


def test_a_script_that_is_killed_takes_all_processes_with_it(inputs, tmp_path):
    """They notice that it is gone, and write a checkpoint first; msrun alone would train on unseen."""
    run = tmp_path / "run"
    child = start_two(tmp_path, *flags(inputs, run), "--train.checkpoint_every=9999", "--train.updates=1000")
    child.wait_for(" 1/1000 ")
    everyone = [process.pid for process in descendants(child.process.pid)]
    assert len(everyone) >= 4  # msrun, and with it two processes that train and one that introduces them
    child.process.kill()
    child.wait()
    assert all_gone(everyone, 60)
    (last,) = names(run / "checkpoints")
    assert f"stopped by a signal after update {int(last[-8:])}" in (tmp_path / "logs/worker_0.log").read_text()
