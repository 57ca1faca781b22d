"""What goes wrong in a run: bad videos, numbers that are not finite, and disks that are full."""

import csv
import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from tiny_task import Items, assert_same, tiny_config, tiny_trainer, weights

from svd.checkpoints.tensor_header import CheckpointError
from svd.data.dataset import DatasetError
from svd.seeds import SampleOrder
from svd.training import checkpoint
from svd.training.checkpoint import TrainState, checkpoints, read_state
from svd.training.config import PreviewConfig
from svd.training.trainer import TrainingError

ORDER = [SampleOrder(0, 6).index(sample) for sample in range(6)]
"""Of the first pass: an update takes two of them."""


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv")


# --- bad videos ---


def test_bad_items_are_told_of_once(eager, tmp_path, capsys):
    """Of two that are met in every pass; others take their places, and their number is in the metrics. No name
    steers the terminal.
    """
    dataset = Items(broken=(ORDER[1], ORDER[4]))
    trainer = tiny_trainer(tiny_config(tmp_path, dataset, updates=12))
    assert trainer.run() is True
    names = [f"item_{ORDER[i]}.mp4" for i in (1, 4)]
    warnings = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "warning" in line]
    assert [line.strip() for line in warnings] == [f"warning: {name}: is \\x1b[2Jbroken" for name in names]
    with open(tmp_path / "skipped_videos_0.csv", newline="") as file:
        assert list(csv.reader(file)) == [[name, "is \x1b[2Jbroken"] for name in names]
    assert table(tmp_path)["skipped_videos"].tolist()[:3] == [1, 1, 2]
    assert table(tmp_path)["skipped_videos"].iloc[-1] == 2
    assert trainer.state.samples == 24


# --- numbers that are not finite ---


def run_into(folder: Path, **settings) -> tuple[str, list[np.ndarray], list[np.ndarray]]:
    """A run that fails: its message, its weights, and those of its last checkpoint or else of its beginning."""
    trainer = tiny_trainer(tiny_config(folder, **settings))
    kept = list(weights(trainer).values())
    with pytest.raises(TrainingError) as error:
        trainer.run()
    for path in checkpoints(folder)[-1:]:
        saved = load_file(path / "trained.safetensors")
        kept = [saved[name] for name in trainer.objective.trained]
    assert "\n" not in str(error.value)
    return str(error.value), list(weights(trainer).values()), kept


@pytest.mark.parametrize("kind, what", [("nan", "loss"), ("steep", "gradient")])
def test_a_number_that_is_not_finite_ends_the_run(eager, tmp_path, kind, what):
    """The message names the update, its clips, and the last good checkpoint; nothing of that update was applied."""
    message, result, kept = run_into(tmp_path, dataset=Items(**{kind: [ORDER[5]]}))
    clips = f"item_{ORDER[4]}.mp4, item_{ORDER[5]}.mp4"
    last = tmp_path / "checkpoints" / "update_00000002"
    assert message.startswith(f"the {what} is not finite in update 3 with the clips {clips}; the last good ")
    assert f"checkpoint: {last}. " in message and checkpoints(tmp_path) == [last]
    assert_same(result, kept)
    assert table(tmp_path)["update"].tolist() == [1, 2]
    assert (tmp_path / "loss.png").is_file()


def test_before_the_first_checkpoint_there_is_none_to_name(eager, tmp_path):
    message, result, kept = run_into(tmp_path, dataset=Items(nan=[ORDER[0]]))
    assert "in update 1 with the clips" in message and "checkpoint: none was written yet. " in message
    assert_same(result, kept)
    assert table(tmp_path).empty and not (tmp_path / "loss.png").exists()


def test_a_loss_that_is_not_finite_is_no_overflow(eager, tmp_path):
    """A smaller scale would not cure it."""
    trainer = tiny_trainer(tiny_config(tmp_path, Items(nan=[ORDER[0]])), dynamic=True)
    with pytest.raises(TrainingError, match="^the loss is not finite in update 1 "):
        trainer.run()


def test_an_overflow_is_a_void_update(eager, tmp_path):
    """The scale is halved, and the update does not count for the bias correction nor for the average's warm-up."""
    config = tiny_config(tmp_path, Items(steep=[ORDER[2]]))
    trainer = tiny_trainer(config, TrainState(loss_scale=4.0, good_updates=1997), dynamic=True)
    counted, averaged = [], []
    coefficients, rate = trainer.player.optimizer.coefficients, trainer.player.average.rate
    trainer.player.optimizer.coefficients = lambda n, lr: counted.append((n, lr)) or coefficients(n, lr)
    trainer.player.average.rate = lambda n: averaged.append(n) or rate(n)
    assert trainer.run() is True
    order = [SampleOrder(0, 6).index(sample) for sample in range(12)]
    void = [i // 2 for i, item in enumerate(order) if item == ORDER[2]]
    assert len(void) == 2
    expected = np.cumsum([1] + [i not in void for i in range(5)])
    assert [n for n, _ in counted] == averaged == expected.tolist()
    assert np.ptp([lr for _, lr in counted]) > 0.03  # the schedule goes on
    state = read_state(trainer.last_checkpoint)
    assert (state.update, state.applied, state.samples, state.loss_scale) == (6, 4, 12, 1.0)
    rows = table(tmp_path)
    assert rows["void_updates"].tolist() == [int(i in void) for i in range(6)]
    assert rows["loss_scale"].tolist() == [4.0 / 2 ** sum(v <= i for v in void) for i in range(6)]


def test_the_scale_grows_after_its_window(eager, tmp_path):
    """Counted from before the interruption on."""
    trainer = tiny_trainer(tiny_config(tmp_path), TrainState(loss_scale=64.0, good_updates=1997), dynamic=True)
    trainer.run()
    state = read_state(trainer.last_checkpoint)
    assert (state.loss_scale, state.good_updates) == (128.0, 3)


def test_an_overflow_with_a_scale_of_1_ends_the_run(eager, tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path, Items(steep=[ORDER[0]])), TrainState(loss_scale=1.0), dynamic=True)
    with pytest.raises(TrainingError, match="^the gradient is not finite in update 1 "):
        trainer.run()


# --- full disks ---


@pytest.fixture
def refuse(monkeypatch):
    """Make the disk full for the checkpoints of some updates."""
    save_tensors = checkpoint.save_tensors

    def make_full(*updates: int) -> None:
        def function(path, arrays, metadata):
            if any(f"update_{update:08d}" in str(path) for update in updates):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            save_tensors(path, arrays, metadata)

        monkeypatch.setattr(checkpoint, "save_tensors", function)

    return make_full


def test_a_checkpoint_that_fails_is_told_of_and_the_run_goes_on(eager, tmp_path, capsys, refuse):
    refuse(2)
    trainer = tiny_trainer(tiny_config(tmp_path))
    assert trainer.run() is True
    text = capsys.readouterr().err
    assert "warning: the checkpoint could not be written" in text and "No space left on device" in text
    assert "there is no earlier one; trying again after 2 updates" in text
    assert [path.name for path in checkpoints(tmp_path)] == ["update_00000004", "update_00000006"]
    uninterrupted = tiny_trainer(tiny_config(tmp_path / "whole"))
    uninterrupted.run()
    assert_same(weights(trainer).values(), weights(uninterrupted).values())


def test_a_last_checkpoint_that_fails_is_an_error(eager, tmp_path, refuse):
    refuse(6)
    last = tmp_path / "checkpoints" / "update_00000004"
    with pytest.raises(CheckpointError, match=f"No space left on device; the last good one is {last}$"):
        tiny_trainer(tiny_config(tmp_path)).run()
    assert checkpoints(tmp_path)[-1] == last


def test_after_a_failure_the_last_good_checkpoint_is_named(eager, tmp_path, refuse):
    """Not the one that could not be written."""
    refuse(4)
    message, _, _ = run_into(tmp_path, dataset=Items(12, nan=[SampleOrder(0, 12).index(9)]))
    assert "in update 5 with" in message
    assert f"the last good checkpoint: {tmp_path / 'checkpoints' / 'update_00000002'}. " in message


def test_a_run_needs_no_space_but_for_its_checkpoints(eager, tmp_path, capsys, monkeypatch):
    """Metrics, their TensorBoard files, the plot, the list of videos and previews: warnings, and the run goes on."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real_open = open
    monkeypatch.setattr("svd.training.metrics.Table.write", full)
    monkeypatch.setattr("svd.training.metrics.Table.rows", full)
    monkeypatch.setattr(
        "svd.training.trainer.open", lambda path, *_, **__: real_open("/dev/full", "w", buffering=1), raising=False
    )
    config = tiny_config(tmp_path, Items(broken=[0]), preview=PreviewConfig(images=["image.png"], every=3))
    assert tiny_trainer(config, preview=full).run() is True
    text = capsys.readouterr().err
    for what in ("the metrics", "the plot of the loss", "skipped_videos_0.csv", "a preview"):
        assert text.count(f"warning: {what} could not be written: [Errno 28] No space left on device") == 1
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["2", "4", "6"]


# --- whatever ends a run ---

ENDS = {
    "data": DatasetError("the data are gone"),
    "no memory": MemoryError("no memory"),
    "a drive": OSError(errno.EIO, "Input/output error"),
    "a fault of the program": ZeroDivisionError("a fault"),
}


def ending(error: Exception, sample: int):
    """A hook that raises this at a sample."""

    def hook(samples: list[int]) -> None:
        if sample in samples:
            raise error

    return hook


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("sample", [6, 7], ids=["between updates", "in an update"])
def test_whatever_ends_a_run_its_last_update_is_saved(eager, tmp_path, capsys, error, sample):
    """It says what it was, once, and how to continue; the run is then as one that nothing has ended."""
    config = tiny_config(tmp_path / "run", checkpoint_every=100)
    trainer = tiny_trainer(config, hook=ending(error, sample))
    fault = isinstance(error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError if fault else TrainingError) as raised:
        trainer.run()
    path = tmp_path / "run/checkpoints/update_00000003"
    told = capsys.readouterr().err if fault else str(raised.value)
    assert f"; the last checkpoint is {path}: train.resume=auto continues" in told
    assert str(error) in told and "\n" not in str(raised.value)
    assert checkpoints(tmp_path / "run") == [path] and table(tmp_path / "run")["update"].tolist() == [1, 2, 3]
    resumed = tiny_trainer(config, read_state(path))
    resumed.restore(path)
    assert resumed.run()
    whole = tiny_trainer(tiny_config(tmp_path / "whole"))
    whole.run()
    assert_same(weights(resumed).values(), weights(whole).values())


def test_nothing_is_saved_twice_or_before_there_is_something(eager, tmp_path):
    with pytest.raises(DatasetError, match="^the data are gone$"):
        tiny_trainer(tiny_config(tmp_path / "none"), hook=ending(ENDS["data"], 0)).run()
    assert checkpoints(tmp_path / "none") == []
    last = tmp_path / "run/checkpoints/update_00000002"
    with pytest.raises(TrainingError, match=f"^the data are gone; the last checkpoint is {last}: "):
        tiny_trainer(tiny_config(tmp_path / "run"), hook=ending(ENDS["data"], 4)).run()
    assert checkpoints(tmp_path / "run") == [last]


def test_what_cannot_be_saved_is_said(eager, tmp_path, refuse):
    refuse(3)
    last = tmp_path / "checkpoints" / "update_00000002"
    expected = (
        f"^the data are gone; the last 1 updates could not be saved: .*No space left.*; the last checkpoint is {last}"
    )
    with pytest.raises(TrainingError, match=expected):
        tiny_trainer(tiny_config(tmp_path), hook=ending(ENDS["data"], 6)).run()


class OtherRank:
    """The sums of two ranks, of which the other tells of a failure of its own in its call of this number."""

    def __init__(self, call: int):
        self.rank, self.first, self.count, self.calls, self.call = 0, True, 1, 0, call

    def sum(self, *numbers: float) -> list[float]:
        self.calls += 1
        return [numbers[0] + (self.calls == self.call), *numbers[1:]]

    def wait(self) -> None:
        self.sum(0.0)


def test_what_ends_another_rank_ends_this_one_with_a_checkpoint(eager, tmp_path):
    """Which all write together."""
    trainer = tiny_trainer(tiny_config(tmp_path, checkpoint_every=100))
    trainer.ranks = OtherRank(7)  # two micro-batches and the update itself, twice
    trainer.ranks.count = 2
    trainer.clips_per_update = 2
    with pytest.raises(TrainingError, match="^another process of the run had to end: see what it says; the last check"):
        trainer.run()
    assert [path.name for path in checkpoints(tmp_path)] == ["update_00000002"]


def test_what_ends_a_rank_alone_in_its_step_is_not_saved_together(eager, tmp_path, monkeypatch):
    """The others wait in the step: they would for ever, and this one for them."""
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.ranks, trainer.clips_per_update = OtherRank(999), 2
    trainer.ranks.count = 2
    step = trainer.player.step

    def failing(*arguments):
        if trainer.state.update == 3:
            raise MemoryError("no memory")
        return step(*arguments)

    monkeypatch.setattr(trainer.player, "step", failing)
    monkeypatch.setattr(failing, "owned", None, raising=False)
    failing.owned = None
    with pytest.raises(
        TrainingError, match="^no memory; the last 1 updates could not be saved: processes of a run save"
    ):
        trainer.run()
    assert [path.name for path in checkpoints(tmp_path)] == ["update_00000002"]


def test_weights_that_are_not_finite_are_no_checkpoint(eager, tmp_path):
    """They end the run, and what was good stays, also where one checkpoint is kept."""

    def spoil(samples: list[int]) -> None:
        if samples == [7]:
            trainer.player.average.averages[0].set_data(trainer.player.average.averages[0] + float("inf"))

    trainer = tiny_trainer(tiny_config(tmp_path, keep_checkpoints=1), hook=spoil)
    with pytest.raises(TrainingError) as error:
        trainer.run()
    last = tmp_path / "checkpoints" / "update_00000002"
    text = "after update 4 the weights or the optimizer's states are not finite: 1 tensors of ema, such as network."
    assert str(error.value).startswith(text) and f"; the last good one is {last}; try a smaller" in str(error.value)
    assert os.listdir(tmp_path / "checkpoints") == ["update_00000002"]


# --- what a run can do without ---


@pytest.mark.parametrize("module", ["matplotlib.figure", "tensorboardX.event_file_writer"])
def test_libraries_that_cannot_be_imported(eager, tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert tiny_trainer(tiny_config(tmp_path, updates=2)).run()
    what = {"m": "the plot of the loss", "t": "TensorBoard's files"}[module[0]]
    text = capsys.readouterr().err
    assert text.count(f"warning: {what} could not be written: ModuleNotFoundError: ") == 1
    assert table(tmp_path)["update"].tolist() == [1, 2]


class Gone:
    """A stream whose terminal is gone."""

    def __init__(self, error: Exception):
        self.error = error

    def write(self, text: str):
        raise self.error

    flush = fileno = lambda self: self.write("")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "gone"), BrokenPipeError(), ValueError("closed")], ids=str)
def test_a_terminal_that_is_gone(eager, tmp_path, monkeypatch, error):
    """The bar, warnings, and what is said of previews."""
    monkeypatch.setattr(sys, "stderr", Gone(error))
    images = PreviewConfig(images=["image.png"], every=1)
    trainer = tiny_trainer(tiny_config(tmp_path, Items(broken=[0]), preview=images), preview=lambda name: 1 / 0)
    assert trainer.run()
    assert checkpoints(tmp_path)[-1].name == "update_00000006"


# --- data that stall ---


class Stalling(Items):
    """From its fourth item on, nothing comes."""

    def load(self, index: int, rng: np.random.Generator):
        if index == ORDER[3]:
            time.sleep(1000)
        return super().load(index, rng)


def test_a_signal_ends_a_run_whose_data_stall(eager, tmp_path, capsys, monkeypatch):
    """Within seconds, with a checkpoint, from which it goes on."""
    monkeypatch.setattr("svd.training.feed.GRACE", 0.3)
    started, times = threading.Event(), []

    def interrupt() -> None:
        started.wait(60)
        time.sleep(0.5)
        times.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def hook(samples: list[int]) -> None:
        if samples == [2]:
            started.set()

    config = tiny_config(tmp_path / "run", Stalling(), checkpoint_every=100, workers=1)
    thread = threading.Thread(target=interrupt)
    thread.start()
    trainer = tiny_trainer(config, hook=hook)
    assert trainer.run() is False and trainer.stopped_by == signal.SIGTERM
    assert time.monotonic() - times[0] < 10
    thread.join()
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["update_00000001"]
    text = capsys.readouterr().err
    assert "stopping after this update" in text and "stopped by a signal after update 1; train.resume=auto" in text
