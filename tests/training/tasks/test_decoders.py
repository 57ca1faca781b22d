"""Decoders against discriminators, with perceptual losses, as train.py trains them; and killed in between."""

import signal
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_checkpoint import write_checkpoint
from training_runs import TINY, assert_same, checkpoint, metrics, names, options, start_training, tensors, train_here

from svd.config import ConfigError
from svd.data.moving_digits import MovingDigits
from svd.training.config import DiscriminatorConfig, LossConfig, TrainConfig
from svd.training.tasks import find_task

TEMPORAL = (".temporal.", ".blend.", "time_conv_out.")
AGAINST = ["--train.discriminator.kind=both", "--train.discriminator.channels=8", "--train.discriminator.layers=1"]
AGAINST += ["--train.discriminator.start=1", "--train.loss.perceptual=ssim"]


def flags(inputs: Path, run: Path, *more: str) -> list[str]:
    size = [f"--train.dataset.init_args.{side}=16" for side in ("height", "width")]
    return [*options(inputs, run), *size, "--train.task=temporal_decoder", *AGAINST, "--train.updates=2", *more]


def changed(inputs: Path, run: Path) -> set[str]:
    before, after = load_file(inputs / "tiny.safetensors"), load_file(run / "model.safetensors")
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}


def decoder(inputs: Path, temporal: bool) -> set[str]:
    all_names = [name for name in load_file(inputs / "tiny.safetensors") if name.startswith("autoencoder.decoder.")]
    return {name for name in all_names if not temporal or any(part in name for part in TEMPORAL)}


def test_temporal_layers_against_discriminators(inputs, tmp_path):
    """A preview shows a clip beside what is decoded; the metrics say how both sides do."""
    run = tmp_path / "run"
    shown = ["--train.preview.clips=1", "--train.preview.every=2", "--train.preview.format=gif"]
    outcome = train_here(*flags(inputs, run, *shown, "--train.optimizer.ema_decay=0"))
    assert outcome.code == 0, outcome.err
    assert changed(inputs, run) == decoder(inputs, temporal=True)
    assert names(checkpoint(run, 2)) == {
        *("trained.safetensors", "opponent.safetensors", "optimizer.safetensors", "state.json")
    }
    assert {name.split(".")[1] for name in load_file(checkpoint(run, 2) / "opponent.safetensors")} == {
        "clips",
        "frames",
    }
    table = metrics(run)
    assert table["adversarial_weight"][0] == 0 and table["adversarial_weight"][1] > 0
    assert table["opponent_loss"][0] == 0 and table["opponent_grad_norm"][1] > 0
    assert table["loss"][0] == pytest.approx(table["reconstruction"][0], rel=1e-4)
    assert names(run / "previews") == {"update_00000002_0.gif"}
    assert np.stack(imageio.mimread(run / "previews/update_00000002_0.gif")).shape[:3] == (3, 16, 32)


def test_all_of_a_decoder_from_clips_and_frames(inputs, tmp_path):
    """As a graph, with the device's kernels."""
    run = tmp_path / "run"
    more = ["--train.temporal_only=False", "--train.loss.single_frames=2", "--train.optimizer.ema_decay=0"]
    more += ["--environment.mode=0", "--train.discriminator.start=0"]
    outcome = train_here(*flags(inputs, run, *more))
    assert outcome.code == 0, outcome.err
    assert changed(inputs, run) == decoder(inputs, temporal=False)


def test_an_autoencoder_against_a_discriminator_of_images(inputs, tmp_path):
    """The encoder learns, too, and the temporal layers do not."""
    run = tmp_path / "run"
    more = ["--train.task=autoencoder", "--train.discriminator.kind=image", "--train.dataset.init_args.frames=2"]
    outcome = train_here(*flags(inputs, run, *more, "--train.optimizer.ema_decay=0"))
    assert outcome.code == 0, outcome.err
    spatial = decoder(inputs, temporal=False) - decoder(inputs, temporal=True)
    assert {name for name in changed(inputs, run) if ".decoder." in name} == spatial
    assert any(name.startswith("autoencoder.encoder.") for name in changed(inputs, run))


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
BETWEEN_THE_PLAYERS = f"""
from svd.training.player import Player
call, calls = Player.__call__, []
def killing(self, *arguments):
    calls.append(None)
    if len(calls) == 2:
        print("between the players", flush=True)
        {KILL}
    return call(self, *arguments)
Player.__call__ = killing
"""
IN_A_SAVE = f"""
from svd.training import checkpoint
fsync = checkpoint.fsync
def killing(path):
    fsync(path)
    if path.name == "opponent.safetensors":
        print("in a save", flush=True)
        {KILL}
checkpoint.fsync = killing
"""
AFTER_A_SAVE = f"""
from svd.training.checkpoint import CheckpointWriter
save = CheckpointWriter.save
def killing(self, *arguments):
    save(self, *arguments)
    print("after a save", flush=True)
    {KILL}
CheckpointWriter.save = killing
"""


def test_killed_at_three_places(inputs, tmp_path):
    """The same weights, averages, discriminators and optimizer states, bit for bit."""
    common = ["--train.updates=4", "--train.checkpoint_every=2", "--train.resume=auto"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train_here(*flags(inputs, whole, *common)).code == 0
    for patch, said, left in (
        (AFTER_A_SAVE, "after a save", {"update_00000002"}),
        (BETWEEN_THE_PLAYERS, "between the players", {"update_00000002"}),
        (IN_A_SAVE, "in a save", {"update_00000002", ".update_00000004.tmp"}),
    ):
        child = start_training(tmp_path / "log", *flags(inputs, run, *common), patch=patch)
        child.wait_for(said)
        assert child.wait() == -signal.SIGKILL
        assert names(run / "checkpoints") == left
    assert train_here(*flags(inputs, run, *common)).code == 0
    a, b = tensors(checkpoint(run, 4)), tensors(checkpoint(whole, 4))
    assert {name.split("/")[0] for name in a} == {"trained", "ema", "opponent", "optimizer"}
    assert_same(a, b)
    columns = ["update", "loss", "reconstruction", "adversarial_weight", "opponent_loss", "opponent_grad_norm"]
    assert metrics(run)[columns].equals(metrics(whole)[columns])


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ({}, {"loss": {"perceptual": "lpips"}}, "train.loss.perceptual is lpips, which needs train.loss.lpips: the "),
        ({"size": 29}, {"discriminator": {"kind": "both", "layers": 4}}, "train.discriminator.kind is both, but frames "
         "of 29 x 29 pixels are too small for it: it needs 48"),
        ({"frames": 1}, {"discriminator": {"kind": "temporal"}}, "clips of one frame have no motion: use image"),
        ({}, {"discriminator": {"kind": "image", "start": 9}}, "discriminator.start is 9, but train.updates is 9"),
        ({"frames": 3}, {"loss": {"single_frames": 4}}, "train.loss.single_frames is 4, but clips have 3 frames"),
    ],
)  # fmt: skip
def test_what_is_refused(data, settings, message):
    parts = {"loss": LossConfig, "discriminator": DiscriminatorConfig}
    given = {name: parts[name](**values) for name, values in settings.items()}
    train = TrainConfig(MovingDigits(**data), task="temporal_decoder", updates=9, **given)
    with pytest.raises(ConfigError) as error:
        find_task("temporal_decoder").check(train, TINY)
    assert message in str(error.value)


def test_a_file_that_is_no_lpips_is_refused(inputs, tmp_path):
    other = write_checkpoint(tmp_path / "other.safetensors", {}, TINY)
    lpips = ["--train.loss.perceptual=lpips", f"--train.loss.lpips={other}"]
    outcome = train_here(*flags(inputs, tmp_path / "run", *lpips))
    assert outcome.code == 2 and "is no LPIPS: make one" in outcome.error and "`svd convert-lpips`" in outcome.error
