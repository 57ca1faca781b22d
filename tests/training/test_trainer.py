"""The trainer: how long it trains, what it writes, and that interruptions change no bit of the result."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tiny_task import OPTIMIZER, assert_same, tiny_config, tiny_trainer, weights

from svd.training.checkpoint import TrainState, checkpoints, read_state
from svd.training.config import PreviewConfig
from svd.training.distributed import Ranks
from svd.training.metrics import COLUMNS


def files(checkpoint: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint."""
    return {f"{file.stem}.{k}": v for file in checkpoint.glob("*.safetensors") for k, v in load_file(file).items()}


def assert_same_checkpoint(result: Path, expected: Path) -> None:
    results, expecteds = files(result), files(expected)
    assert results.keys() == expecteds.keys() and result.name == expected.name
    assert_same([results[name] for name in expecteds], expecteds.values())
    assert read_state(result) == read_state(expected)


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv")


# --- how long ---


@pytest.mark.parametrize(
    "settings, updates",
    [
        ({"epochs": 2, "gradient_accumulation": 1}, 12),
        ({"epochs": 2, "gradient_accumulation": 4}, 3),
        ({"epochs": 2, "gradient_accumulation": 5}, 3),  # the last begins a third pass
        ({"epochs": 0.5, "gradient_accumulation": 1}, 3),
        ({"epochs": 3, "gradient_accumulation": 2, "batch_size": 3}, 3),
        ({"epochs": 2, "updates": 7}, 7),
    ],
)
def test_number_of_updates(eager, tmp_path, settings, updates):
    """Of 6 items."""
    assert tiny_trainer(tiny_config(tmp_path, **({"updates": None} | settings))).updates == updates


def test_a_run(eager, tmp_path, capsys):
    """It ends after its last update with a checkpoint, has shown every sample once per pass, and the loss falls."""
    seen = []
    trainer = tiny_trainer(tiny_config(tmp_path, updates=50, log_every=20, checkpoint_every=100), hook=seen.extend)
    assert trainer.run() is True
    assert seen == list(range(100))
    assert trainer.last_checkpoint == checkpoints(tmp_path)[-1] == tmp_path / "checkpoints" / "update_00000050"
    state = read_state(trainer.last_checkpoint)
    assert (state.update, state.applied, state.samples, state.loss_scale) == (50, 50, 100, 1)
    rows = table(tmp_path)
    assert tuple(rows.columns) == COLUMNS
    assert rows["update"].tolist() == [20, 40, 50]
    np.testing.assert_allclose(rows["epoch"], [40 / 6, 80 / 6, 100 / 6])
    assert rows["loss"].iloc[-1] < rows["loss"].iloc[0]
    assert (rows["memory_gb"] == 1).all() and (rows["clips_per_second"] > 0).all()
    assert rows["learning_rate"].iloc[-1] == 0  # a cosine's end
    with Image.open(tmp_path / "loss.png") as plot:
        assert plot.format == "PNG" and len(set(plot.convert("L").getdata())) > 10
    assert [file.stat().st_size > 0 for file in (tmp_path / "tensorboard").glob("events.out.tfevents.*")] == [True]
    assert "50/50" in capsys.readouterr().err


def test_lines_of_the_metrics_are_means_of_their_updates(eager, tmp_path):
    """Of the loss, and the loss is the mean over micro-batches; the norm is that of the last update."""
    for every in (1, 3):
        tiny_trainer(tiny_config(tmp_path / str(every), log_every=every, updates=7)).run()
    each, some = table(tmp_path / "1"), table(tmp_path / "3")
    assert each["update"].tolist() == [1, 2, 3, 4, 5, 6, 7] and some["update"].tolist() == [3, 6, 7]
    means = [each["loss"][a:b].mean() for a, b in ((0, 3), (3, 6), (6, 7))]
    np.testing.assert_allclose(some["loss"], means, rtol=1e-6)
    assert some["grad_norm"].tolist() == each["grad_norm"][[2, 5, 6]].tolist()
    whole = tiny_config(tmp_path / "whole", batch_size=2, gradient_accumulation=1, updates=7)
    tiny_trainer(whole).run()
    np.testing.assert_allclose(table(tmp_path / "whole")["loss"], each["loss"], rtol=1e-4)


def test_a_run_that_is_over_does_nothing(eager, tmp_path):
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.run()
    before = table(tmp_path)
    again = tiny_trainer(tiny_config(tmp_path), read_state(trainer.last_checkpoint))
    again.restore(trainer.last_checkpoint)
    assert again.run() is True
    assert again.last_checkpoint == trainer.last_checkpoint
    assert_same(weights(again).values(), weights(trainer).values())
    pd.testing.assert_frame_equal(table(tmp_path), before)


# --- interruptions ---


def resume(folder: Path, checkpoint: Path, dynamic: bool, **options):
    trainer = tiny_trainer(tiny_config(folder, **options), read_state(checkpoint), dynamic)
    trainer.restore(checkpoint)
    assert trainer.last_checkpoint == checkpoint
    return trainer


@pytest.mark.parametrize("dynamic", [False, True], ids=["float32", "float16"])
def test_resuming_changes_no_bit(mode, tmp_path, dynamic):
    """From every checkpoint, with accumulation, averages and a schedule; in float16 also after voids."""
    state = TrainState(loss_scale=2.0**63)  # so large that the sum of the gradients' squares overflows
    whole = tiny_trainer(tiny_config(tmp_path / "whole"), state, dynamic)
    assert whole.run() is True
    found = checkpoints(tmp_path / "whole")
    assert [path.name[-2:] for path in found] == ["02", "04", "06"]
    last = read_state(found[-1])
    assert (last.applied < 6) == dynamic and last.applied > 0
    assert last.loss_scale == (2.0 ** (63 - 6 + last.applied) if dynamic else 1)
    for checkpoint in found[:-1] if mode else found[:1]:
        resumed = resume(tmp_path / f"from_{checkpoint.name}", checkpoint, dynamic)
        assert resumed.run() is True
        assert_same_checkpoint(resumed.last_checkpoint, found[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_update(eager, tmp_path, capsys, number):
    """With a checkpoint, from which the run goes on as if it had never stopped."""
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stop(samples: list[int]) -> None:
        if samples == [4]:  # the first of two micro-batches of the third update
            os.kill(os.getpid(), number)

    trainer = tiny_trainer(tiny_config(tmp_path, checkpoint_every=100, log_every=100), hook=stop)
    assert trainer.run() is False and trainer.stopped_by == number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    path = tmp_path / "checkpoints" / "update_00000003"
    assert checkpoints(tmp_path) == [path] and read_state(path).samples == 6
    assert table(tmp_path)["update"].tolist() == [3]
    assert "stopped by a signal after update 3; train.resume=auto continues" in capsys.readouterr().err
    resumed = resume(tmp_path, path, dynamic=False, log_every=100)
    assert resumed.run() is True
    uninterrupted = tiny_trainer(tiny_config(tmp_path / "whole"))
    uninterrupted.run()
    assert_same_checkpoint(resumed.last_checkpoint, uninterrupted.last_checkpoint)
    assert table(tmp_path)["update"].tolist() == [3, 6]


def test_a_second_ctrl_c_ends_the_run_at_once(eager, tmp_path):
    def stop(samples: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tiny_config(tmp_path), hook=stop).run()
    assert signal.getsignal(signal.SIGINT) == handler
    assert checkpoints(tmp_path) == []


def test_a_resumed_run_drops_what_came_after_its_checkpoint(eager, tmp_path):
    """Lines of updates that are made again, and the half line of a run that was killed; the table is as of one run."""
    trainer = tiny_trainer(tiny_config(tmp_path))
    trainer.run()
    whole = table(tmp_path)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("7,1.2,0.3")
    resume(tmp_path, checkpoints(tmp_path)[1], dynamic=False).run()
    again = table(tmp_path)
    assert again["update"].tolist() == [1, 2, 3, 4, 5, 6]
    exact = ["update", "epoch", "loss", "learning_rate", "grad_norm", "skipped_videos"]
    pd.testing.assert_frame_equal(again[exact], whole[exact], check_exact=True)


def test_a_new_run_begins_a_new_table(eager, tmp_path):
    (tmp_path / "metrics.csv").write_text(",".join(COLUMNS) + "\n" + ",".join(["1"] * len(COLUMNS)) + "\n")
    tiny_trainer(tiny_config(tmp_path, updates=2, log_every=2)).run()
    assert table(tmp_path)["update"].tolist() == [2]


# --- previews ---


def test_previews_show_the_averages_and_leave_the_weights(mode, tmp_path):
    check_previews(tmp_path, ema_decay=0.9)


def test_previews_show_the_weights_if_there_are_no_averages(eager, tmp_path):
    check_previews(tmp_path, ema_decay=0.0)


def check_previews(tmp_path: Path, ema_decay: float) -> None:
    """They are made after every second update and the last; the run goes on as if there had been none."""
    optimizer = vars(OPTIMIZER) | {"ema_decay": ema_decay}
    settings = {"optimizer": type(OPTIMIZER)(**optimizer), "updates": 5, "checkpoint_every": 5}
    plain = tiny_trainer(tiny_config(tmp_path / "plain", **settings))
    plain.run()
    shown = {}

    def preview(name: str) -> None:
        shown[name] = weights(trainer)
        expected = trainer.player.average.averages if trainer.player.average else trainer.objective.trained.values()
        assert_same(shown[name].values(), [p.asnumpy() for p in expected])

    images = PreviewConfig(images=["image.png"], every=2)
    trainer = tiny_trainer(tiny_config(tmp_path / "previews", preview=images, **settings), preview=preview)
    trainer.run()
    assert list(shown) == ["update_00000002", "update_00000004", "update_00000005"]
    assert_same_checkpoint(trainer.last_checkpoint, plain.last_checkpoint)
    saved = files(trainer.last_checkpoint)
    which = "ema" if ema_decay else "trained"
    assert_same(shown["update_00000005"].values(), [saved[f"{which}.{name}"] for name in trainer.objective.trained])
    assert_same(weights(trainer).values(), weights(plain).values())


def test_a_preview_that_fails_leaves_the_weights(eager, tmp_path, capsys):
    """It is told of once, and the run goes on."""

    def preview(name: str) -> None:
        raise RuntimeError("no memory")

    images = PreviewConfig(images=["image.png"], every=2)
    trainer = tiny_trainer(tiny_config(tmp_path, preview=images), preview=preview)
    assert trainer.run()
    text = capsys.readouterr().err
    assert text.count("warning: a preview could not be written: RuntimeError: no memory; the run goes on") == 1
    saved = load_file(checkpoints(tmp_path)[-1] / "trained.safetensors")
    assert_same(weights(trainer).values(), [saved[name] for name in trainer.objective.trained])


class OneOfTwo(Ranks):
    """One of two processes that hears nothing of the other, and counts how often it waits for it."""

    def __init__(self, rank: int):
        self.rank, self.count, self.waited = rank, 2, 0

    def sum(self, *numbers: float) -> list[float]:
        return list(numbers)

    def wait(self) -> None:
        self.waited += 1


def test_a_rank_that_makes_no_previews_goes_on(eager, tmp_path):
    """The first makes them, and both wait as often: after every second update and the last."""
    images = PreviewConfig(images=["image.png"], every=2)
    made = []
    for rank, preview in ((0, made.append), (1, None)):
        trainer = tiny_trainer(tiny_config(tmp_path / str(rank), preview=images, updates=3), preview=preview)
        trainer.ranks = OneOfTwo(rank)
        assert trainer.run() is True
        assert trainer.ranks.waited == 2, rank
    assert made == ["update_00000002", "update_00000003"]
