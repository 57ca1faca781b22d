"""A task with two players: a step for each, and what holds for one player holds for both."""

import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from device import cpu_only
from safetensors.numpy import load_file
from tiny_duel import START, duel_trainer
from tiny_task import Items, assert_same, tiny_config
from training_runs import ROOT, start

from svd.config import ConfigError
from svd.seeds import SampleOrder
from svd.training.checkpoint import TrainState, checkpoints, read_state
from svd.training.metrics import COLUMNS
from svd.training.trainer import TrainingError


def files(checkpoint: Path) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a checkpoint by file and name; shared-out optimizer states together."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for file in checkpoint.glob("*.safetensors"):
        found.setdefault(file.stem.split("_")[0], {}).update(load_file(file))
    return found


def assert_same_checkpoint(result: Path, expected: Path) -> None:
    a, b = files(result), files(expected)
    assert a.keys() == b.keys() and result.name == expected.name
    for kind in b:
        assert a[kind].keys() == b[kind].keys()
        assert_same([a[kind][name] for name in b[kind]], b[kind].values())
    assert read_state(result) == read_state(expected)


def assert_close_checkpoint(result: Path, expected: Path) -> None:
    a, b = files(result), files(expected)
    assert a.keys() == b.keys()
    for kind in b:
        assert a[kind].keys() == b[kind].keys()
        for name, value in b[kind].items():
            np.testing.assert_allclose(a[kind][name], value, rtol=1e-3, atol=1e-6, err_msg=f"{kind} {name}")


def test_a_run(eager, tmp_path):
    """The second player begins after its start; averages are of the first one alone; both are in the metrics."""
    trainer = duel_trainer(tiny_config(tmp_path, checkpoint_every=1))
    assert trainer.run() is True
    found = [files(path) for path in checkpoints(tmp_path)]
    assert len(found) == 6
    for before, after, update in zip(found, found[1:], range(2, 6)):  # in the sixth the learning rate is zero
        moved = [not np.array_equal(before["opponent"][name], after["opponent"][name]) for name in after["opponent"]]
        assert moved == [update > START] * 2
        assert all(not np.array_equal(before["trained"][name], after["trained"][name]) for name in after["trained"])
    last = found[-1]
    assert last["opponent"].keys() == {"judge.linear.weight", "judge.linear.bias"}
    assert last["ema"].keys() == last["trained"].keys() == {"network.weight", "network.bias"}
    names = {f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in (*last["trained"], *last["opponent"])}
    assert last["optimizer"].keys() == names
    state = read_state(checkpoints(tmp_path)[-1])
    assert (state.applied, state.opponent_applied) == (6, 6 - START)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert tuple(table.columns) == (*COLUMNS, "error", "opponent_loss", "opponent_grad_norm")
    playing = table["update"] > START
    for column in ("opponent_loss", "opponent_grad_norm"):
        assert (table[column][playing] > 0).all() and (table[column][~playing] == 0).all()
    assert (table["error"] != table["loss"]).tolist() == playing.tolist()


def test_resuming_changes_no_bit(mode, tmp_path):
    """From every checkpoint: before the second player begins, when it does, and after; also after an overflow."""
    state = TrainState(loss_scale=2.0**61)
    config = {"checkpoint_every": 1}
    duel_trainer(tiny_config(tmp_path / "whole", **config), state, dynamic=True).run()
    found = checkpoints(tmp_path / "whole")
    last = read_state(found[-1])
    assert 0 < last.applied < 6 and 0 < last.opponent_applied <= 6 - START
    for checkpoint in found[:-1] if mode else found[2:3]:
        folder = tmp_path / f"from_{checkpoint.name}"
        resumed = duel_trainer(tiny_config(folder, **config), read_state(checkpoint), dynamic=True)
        resumed.restore(checkpoint)
        assert resumed.run() is True
        assert_same_checkpoint(resumed.last_checkpoint, found[-1])


def test_micro_batches_equal_one_batch(mode, tmp_path):
    for name, batch, count in (("whole", 2, 1), ("parts", 1, 2)):
        trainer = duel_trainer(tiny_config(tmp_path / name, batch_size=batch, gradient_accumulation=count))
        trainer.run()
    whole, parts = (checkpoints(tmp_path / name)[-1] for name in ("whole", "parts"))
    assert_close_checkpoint(parts, whole)


def test_an_overflow_of_one_is_no_update_of_it(eager, tmp_path):
    """Each has its own count for the bias correction; the scale is halved for both."""
    order = [SampleOrder(0, 6).index(sample) for sample in range(8)]
    trainer = duel_trainer(tiny_config(tmp_path, Items(steep=order[6:7]), updates=4), TrainState(loss_scale=4.0), True)
    trainer.run()
    void = {i // 2 for i, item in enumerate(order) if item == order[6]}
    state = read_state(trainer.last_checkpoint)
    assert len(void) == 2 and state.applied == 4 - 2 and state.opponent_applied == 4 - START
    assert state.loss_scale == 1.0


def test_the_second_player_may_have_its_own_learning_rate(eager, tmp_path):
    rates = {None: [], 0.2: []}
    for own, seen in rates.items():
        trainer = duel_trainer(tiny_config(tmp_path / str(own)), learning_rate=own)
        begin = trainer.opponent.begin
        trainer.opponent.begin = lambda n, rate, seen=seen, begin=begin: seen.append((n, rate)) or begin(n, rate)
        trainer.run()
    assert [n for n, _ in rates[None]] == [n for n, _ in rates[0.2]] == [1, 2, 3, 4]
    np.testing.assert_allclose([rate * 0.2 / 0.05 for _, rate in rates[None]], [rate for _, rate in rates[0.2]])


def test_a_loss_that_is_not_finite_ends_the_run(eager, tmp_path):
    trainer = duel_trainer(tiny_config(tmp_path, Items(nan=[SampleOrder(0, 6).index(5)])))
    with pytest.raises(TrainingError, match="^the loss is not finite in update 3 with the clips "):
        trainer.run()


def test_a_second_player_that_would_never_play_is_refused(eager, tmp_path):
    with pytest.raises(ConfigError, match="would begin after 6 updates, and 6 are made"):
        duel_trainer(tiny_config(tmp_path), start=6)


def test_a_checkpoint_without_the_second_player_is_of_another_training(eager, tmp_path):
    trainer = duel_trainer(tiny_config(tmp_path))
    trainer.run()
    (trainer.last_checkpoint / "opponent.safetensors").unlink()
    with pytest.raises(Exception, match="has no file opponent.safetensors"):
        duel_trainer(tiny_config(tmp_path)).restore(trainer.last_checkpoint)


@cpu_only("its two processes would share a device")
def test_two_processes_train_as_one(eager, tmp_path):
    """With batches of half the size; in both modes, with optimizer states shared out and not."""
    single = duel_trainer(tiny_config(tmp_path / "single", Items(), batch_size=2))
    single.run()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    program = [shutil.which("msrun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")]
    program += ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True", "--bind_core=False"]
    program += [f"--log_dir={tmp_path / 'logs'}", "--cluster_time_out=300"]
    program += [ROOT / "tests/training/tiny_duel.py", tmp_path / "two"]
    code = start(tmp_path / "log", *program, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/training'}").wait(300)
    assert code == 0, (tmp_path / "logs/worker_0.log").read_text()[-3000:]
    runs = sorted((tmp_path / "two").iterdir())
    assert [run.name for run in runs] == ["0_True", "1_False", "1_True"]
    for run in runs:
        assert_close_checkpoint(checkpoints(run)[-1], single.last_checkpoint)
        parts = {file.name for file in checkpoints(run)[-1].glob("optimizer*")}
        assert len(parts) == (2 if run.name.endswith("True") else 1)
