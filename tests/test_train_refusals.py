"""train.py says what is wrong in one line, with what to do about it, and exits with 2."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from small_checkpoint import write_checkpoint
from training_runs import TINY, Outcome, assert_same, checkpoint, names, options, tensors, train_here
from training_videos import write_csv

from svd.data import video_dataset

DATA = "--train.dataset.init_args"


@pytest.fixture
def cli(inputs, tmp_path):
    """cli(*flags) trains the tiny model into tmp_path/run; what is given replaces the flags of `options`."""

    def run(*flags: str) -> Outcome:
        return train_here(*options(inputs, tmp_path / "run"), *flags)

    return run


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        (
            "--train.pretrained=null",
            "--train.pretrained is missing: the weights to start from, as svd_tools/convert.py",
        ),
        ("--train.pretrained=", "--train.pretrained is missing"),
        ("--train.pretrained=no.safetensors", "checkpoint no.safetensors does not exist: check the path"),
        (f"{DATA}.metadata=", "metadata is missing; give a CSV file with the columns path, length, motion_bucket_id"),
        (f"{DATA}.metadata=no.csv", "no.csv: no such file; give a CSV file"),
        (f"{DATA}.data_dir=nowhere", "data_dir nowhere: no such folder; check the path"),
        (f"{DATA}.frames=99", "every video is too short: 99 frames with step 2 need 197, and the longest has 20"),
        (f"{DATA}.frames=1", "frames must be at least 2"),
        (f"{DATA}.frames=many", "frames.*Expected a <class 'int'>. Got value: many"),
        (f"{DATA}.frame=3", "'frame' is not accepted"),
        ("--train.dataset=AudioDataset", "AudioDataset"),
        ("--train.lr=1", "unrecognized arguments: --train.lr=1"),
        ("--train.batch_size=many", "train.batch_size.*Expected a <class 'int'>. Got value: many"),
        ("--train.batch_size=-1", "train.batch_size must be positive, got -1"),
        ("--train.updates=0", "train.updates must be positive, got 0"),
        ("--train.epochs=0", "train.epochs must be positive, got 0"),
        ("--train.workers=-1", "train.workers must not be negative, got -1"),
        ("--train.loss.drop_context=2", "loss.drop_context is a rate from 0 to 1, got 2"),
        ("--train.optimizer.learning_rate=-1", "optimizer.learning_rate must be positive, got -1"),
        ("--train.optimizer.betas=[0.9]", "train.optimizer.betas"),
        ("--environment.compile_cache=kept", "compile_cache keeps compiled graphs, and mode 1 compiles none"),
        ("--environment.mode=2", "environment.mode.*0, 1.*Got value: 2"),
        ("--environment.amp_level=bf16", r"bf16 is for Ascend: .* use O0 or O2 \(--environment.amp_level\)"),
        ("--environment.device_target=Ascend", r"MindSpore cannot use Ascend .*CPU \(--environment.device_target\)"),
        ("--train.preview.images=[no.png]", "no.png: no such file or folder; check the path"),
        ("--train.preview.every=0", "preview.every must be positive"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
        ("--svd_config=nowhere.yaml", "config nowhere.yaml is no file; the published models are in configs/"),
        (
            "--train.resume=nowhere",
            "nowhere is no checkpoint of a training run .*: give RUN/checkpoints/update_<number>",
        ),
        ("--train.resume=Auto", "Auto is no checkpoint of a training run .*, auto or never"),
    ],
    ids=str,
)
def test_a_bad_flag(cli, tmp_path, flag, what):
    """Told before anything is written."""
    run = cli(flag)
    assert run.code == 2 and names(tmp_path) == set()
    assert re.search(what, run.error), run.error


def test_sections_that_are_empty_are_as_if_they_were_not_there(inputs, tmp_path):
    sections = ["loss", "lora", "preview", "optimizer", "dataset", "output_dir"]
    path = tmp_path / "train.yaml"
    path.write_text("\n  ".join(["environment:\ntrain:", "log_every: 3", *(f"{section}:" for section in sections)]))
    runs = [train_here(*flags, *options(inputs, tmp_path), "--dry_run") for flags in ([f"--config={path}"], [])]
    resolved, defaults = (yaml.safe_load(run.out.split("\n# ")[0]) for run in runs)
    assert resolved == defaults and all(resolved["train"][section] is not None for section in sections)


@pytest.mark.parametrize("value", ["3", "[]", "text"])
def test_what_is_no_section(tmp_path, value):
    path = tmp_path / "train.yaml"
    path.write_text(f"train:\n  loss: {value}\n")
    run = train_here(f"--config={path}", "--dry_run")
    assert run.code == 2 and "train.loss" in run.error


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty; give a CSV file with the columns"),
        ("path,length,motion_bucket_id\n", "no rows under the header; add one for each video"),
        ("path,length\na.mp4,20\n", "no column motion_bucket_id; found path, length"),
        ("path,length,motion_bucket_id\na.mp4,20,fast\n", "motion_bucket_id must be a number.*'fast' in line 2"),
    ],
    ids=["empty", "no rows", "no column", "no number"],
)
def test_a_bad_csv(cli, tmp_path, text, what):
    path = tmp_path / "videos.csv"
    path.write_text(text)
    run = cli(f"{DATA}.metadata={path}")
    assert run.code == 2 and names(tmp_path) == {"videos.csv"}
    assert str(path) in run.error and re.search(what, run.error), run.error


def test_no_video_can_be_used(cli, tmp_path):
    path = write_csv(tmp_path / "videos.csv", [(f"{i}.mp4", 20, 0) for i in range(5)])
    run = cli(f"{DATA}.metadata={path}")
    assert run.code == 2
    assert run.error.startswith("none of the 5 items of the data can be used; the first: ")
    assert f"{tmp_path / '0.mp4'}: no such file" in run.error


def test_a_size_that_the_networks_cannot_halve(cli, inputs, tmp_path):
    config = tmp_path / "deep.yaml"
    config.write_text(f"base: {inputs / 'tiny.yaml'}\nunet: {{channel_mult: [1, 2]}}\n")
    for name in ("height", "width"):
        run = cli(f"--svd_config={config}", f"{DATA}.{name}=9")
        assert run.code == 2 and re.match("height and width must be multiples of 2, got 9 x 8|.* 8 x 9", run.error)


@pytest.mark.parametrize(
    ("changed", "known"),
    [("unet: {model_channels: 64}", "unet.model_channels is 32, not 64"),
     ("autoencoder: {scale_factor: 0.5}", "autoencoder.scale_factor is 0.18215, not 0.5")],
)  # fmt: skip
def test_pretrained_weights_of_another_model(cli, inputs, tmp_path, changed, known):
    """Told before the training, also where no tensor has another shape: at its end, both are merged."""
    config = tmp_path / "deep.yaml"
    config.write_text(f"base: {inputs / 'tiny.yaml'}\n{changed}\n")
    run = cli(f"--svd_config={config}")
    assert run.code == 2 and not (tmp_path / "run").exists()
    assert run.error.endswith(f"tiny.safetensors is of another model than the configuration: its {known}")


@pytest.mark.parametrize("flag", [[], ["--svd_config=null"]], ids=["with config", "without"])
def test_pretrained_weights_that_are_to_be_converted(cli, golden_source, flag):
    run = cli(f"--train.pretrained={golden_source}", *flag)
    assert run.code == 2
    assert run.error.startswith(f"{golden_source} has to be converted first: python svd_tools/convert.py ")


def test_pretrained_weights_that_do_not_say_what_they_are(cli, inputs, tmp_path):
    """The flag in the message is train.py's, not that of image_to_video.py."""
    path = write_checkpoint(tmp_path / "unnamed.safetensors", load_file(inputs / "tiny.safetensors"), config=None)
    run = cli(f"--train.pretrained={path}", "--svd_config=null")
    assert run.code == 2
    assert run.error == f"{path} holds no configuration: say which (--svd_config)"


def test_the_configuration_of_the_pretrained_weights_is_enough(cli, inputs):
    assert cli("--svd_config=null", "--dry_run").code == 0


def test_a_folder_to_write_to_that_is_a_file(cli, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("precious")
    for folder in (path, path / "below"):
        run = cli(f"--train.output_dir={folder}")
        assert run.code == 2
        assert run.error == f"--train.output_dir {folder}: {path} is a file; choose another folder"
    assert path.read_text() == "precious"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs the tests may write anywhere
    assert (
        cli().error == f"--train.output_dir {tmp_path / 'run'}: {tmp_path} may not be written to; choose another folder"
    )


# --- with a run that is there ---


@pytest.fixture(scope="module")
def run_of_two(inputs, tmp_path_factory) -> Path:
    """A run of two updates, with a checkpoint of each."""
    run = tmp_path_factory.mktemp("before") / "run"
    outcome = train_here(*options(inputs, run), "--train.updates=2", "--train.checkpoint_every=1")
    assert outcome.code == 0
    return run


def test_a_folder_with_checkpoints(cli, run_of_two):
    before = {path: path.read_bytes() for path in run_of_two.rglob("*") if path.is_file()}
    run = cli(f"--train.output_dir={run_of_two}")
    assert run.code == 2
    assert run.error == (
        f"train.output_dir {run_of_two} has checkpoints, the last is update_00000002: continue with "
        "train.resume=auto, or choose another folder (--train.resume)"
    )
    assert {path: path.read_bytes() for path in run_of_two.rglob("*") if path.is_file()} == before


def test_an_older_checkpoint_beside_newer_ones(cli, run_of_two, tmp_path):
    """Which would be taken for those of the new run. In another folder it can be continued."""
    resume = f"--train.resume={checkpoint(run_of_two, 1)}"
    run = cli(f"--train.output_dir={run_of_two}", resume)
    assert run.code == 2
    assert run.error == (
        f"train.output_dir {run_of_two} has checkpoints of later updates than update_00000001, the last is "
        "update_00000002: remove them, or choose another folder (--train.output_dir)"
    )
    run = cli(resume, "--train.updates=2")
    assert run.code == 0 and run.err[0] == f"continuing from {checkpoint(run_of_two, 1)}"
    assert_same(tensors(checkpoint(tmp_path / "run", 2)), tensors(checkpoint(run_of_two, 2)))


def test_a_run_that_has_had_all_its_updates(cli, run_of_two):
    """It writes its model once more, also where fewer updates are asked for than it has had."""
    (run_of_two / "model.safetensors").unlink()
    for updates in (2, 1):
        run = cli(f"--train.output_dir={run_of_two}", "--train.resume=auto", f"--train.updates={updates}")
        assert run.code == 0 and (run_of_two / "model.safetensors").is_file()


def test_a_checkpoint_of_other_trained_parameters(cli, run_of_two, tmp_path):
    run = cli(f"--train.resume={checkpoint(run_of_two, 2)}", "--train.temporal_only=False")
    assert run.code == 2
    message = run.err[-1]
    assert re.search(
        r"update_00000002 is of another model or training than this one: \d+ of trained are missing", message
    )
    assert "  changed since: train.temporal_only: True -> False" in run.err


# --- numbers that are not finite ---


def test_a_loss_that_is_not_finite(cli, tmp_path):
    """After a learning rate that no network survives: the update, its clips, and what can be continued from."""
    flags = ["--train.optimizer.learning_rate=1e30", "--train.checkpoint_every=1", "--train.batch_size=2"]
    run = cli(*flags)
    assert run.code == 2
    match = re.fullmatch(
        r"the loss is not finite in update 2 with the clips (\S+), (\S+); the last good checkpoint: (\S+)\. Look at "
        r"these clips, try a smaller train.optimizer.learning_rate, or amp_level=O0 "
        r"\(--train.optimizer.learning_rate\)",
        run.error,
    )
    assert match, run.error
    assert Path(match[1]).is_file() and Path(match[2]).is_file() and match[1] != match[2]
    assert Path(match[3]) == checkpoint(tmp_path / "run", 1)
    assert names(tmp_path / "run/checkpoints") == {"update_00000001"}
    assert not (tmp_path / "run/model.safetensors").exists() and (tmp_path / "run/loss.png").is_file()


def test_pretrained_weights_that_overflow(cli, inputs, tmp_path):
    """In the first update, before there is a checkpoint."""
    values = load_file(inputs / "tiny.safetensors")
    values["network.conv_out.weight"] = np.full_like(values["network.conv_out.weight"], 3e38)
    path = write_checkpoint(tmp_path / "large.safetensors", values, TINY)
    run = cli(f"--train.pretrained={path}")
    assert run.code == 2 and names(tmp_path / "run/checkpoints") == set()
    assert re.match("the loss is not finite in update 1 with the clips .*: none was written yet. Look at", run.error)


def test_a_fault_of_the_program_keeps_its_traceback(cli, monkeypatch):
    """Only what the user can do something about is put in one line."""

    def fault(*_, **__):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(video_dataset, "read_table", fault)
    with pytest.raises(ZeroDivisionError):
        cli()
