"""Consistency distillation from end to end: what is trained and written, from what, in both modes, and resumed."""

import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from training_runs import (
    TINY,
    assert_same,
    checkpoint,
    metrics,
    names,
    options,
    start_training,
    tensors,
    train_here,
    write_inputs,
)

from svd.config import SamplingConfig, parse_config
from svd.diffusion.preconditioning import PRECONDITIONINGS
from svd.training.tasks.consistency import level_coefficients
from svd_tools import encode_latents, image_to_video

TEMPORAL = (".temporal.", ".frame_embedding.", ".blend.")
UPDATES = 4
IN_THE_FOURTH_UPDATE = """
from svd.training.tasks.consistency import ConsistencyObjective
inputs, calls = ConsistencyObjective.inputs, []
def killing(*arguments):
    calls.append(None)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return inputs(*arguments)
ConsistencyObjective.inputs = killing
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def flags(inputs: Path, run: Path, *more: str) -> list[str]:
    return [
        *options(inputs, run),
        "--train.task=consistency",
        "--train.consistency.levels=8",
        "--train.consistency.skip=2",
        "--train.optimizer.ema_decay=0.5",
        "--train.optimizer.eps=1e-3",  # what has no gradient but rounding stays
        f"--train.updates={UPDATES}",
        "--train.checkpoint_every=2",
        *more,
    ]


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("consistency") / "run"
    outcome = train_here(*flags(inputs, run))
    assert outcome.code == 0, outcome.err
    assert outcome.err[-1] == f"python image_to_video.py --SVD.checkpoint={run / 'model.safetensors'} --image=IMAGE"
    return run


def test_temporal_layers_alone_are_trained(inputs, run):
    before, after = load_file(inputs / "tiny.safetensors"), load_file(run / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("network.") and any(t in name for t in TEMPORAL)}
    assert_same({name: after[name] for name in changed}, load_file(checkpoint(run, UPDATES) / "ema.safetensors"))


def test_the_model_is_sampled_as_it_was_distilled(inputs, run, tmp_path, capsys):
    with safe_open(run / "model.safetensors", "np") as file:
        config = parse_config(file.metadata()["config"])
    assert config.different_networks(TINY) == []
    own = {"sampler": "consistency", "consistency_levels": 8, "sampling_steps": 4, "guidance": [1.0, 1.0]}
    assert config.sampling == SamplingConfig(**{**vars(TINY.sampling), **own})
    command = [f"--SVD.checkpoint={run / 'model.safetensors'}", f"--image={inputs / 'photo.png'}", "--mode=1"]
    assert image_to_video.main([*command, f"--output_dir={tmp_path}", "--format=png"]) == 0, capsys.readouterr().err
    again = train_here(*flags(inputs, tmp_path / "again", f"--train.pretrained={run / 'model.safetensors'}")[1:])
    assert again.code == 2 and "the model is a distilled one" in again.error


def test_killed_and_resumed_it_ends_with_the_same_weights(inputs, run, tmp_path):
    """The teacher is the pretrained model again, the target the average of the checkpoint."""
    child = start_training(tmp_path / "log", *flags(inputs, tmp_path / "run"), patch=IN_THE_FOURTH_UPDATE)
    assert child.wait() == -signal.SIGKILL
    assert names(tmp_path / "run/checkpoints") == {"update_00000002"}
    outcome = train_here(*flags(inputs, tmp_path / "run", "--train.resume=auto"))
    assert outcome.code == 0, outcome.err
    assert_same(tensors(checkpoint(tmp_path / "run", UPDATES)), tensors(checkpoint(run, UPDATES)))
    assert list(metrics(tmp_path / "run")["loss"]) == list(metrics(run)["loss"])


def test_the_compiled_target_follows_the_average(inputs, run, tmp_path):
    """The step that changes the weights and their average is one graph, the target another."""
    outcome = train_here(*flags(inputs, tmp_path / "run", "--environment.mode=0"))
    assert outcome.code == 0, outcome.err
    np.testing.assert_allclose(metrics(tmp_path / "run")["loss"], metrics(run)["loss"], rtol=1e-4)
    ema, expected = (load_file(checkpoint(path, UPDATES) / "ema.safetensors") for path in (tmp_path / "run", run))
    moved = load_file(inputs / "tiny.safetensors")
    for name, value in expected.items():
        assert np.abs(ema[name] - value).max() <= 0.02 * np.abs(value - moved[name]).max() + 1e-6, name


def test_without_an_average_the_student_is_its_own_target(inputs, run, tmp_path):
    outcome = train_here(*flags(inputs, tmp_path / "run", "--train.optimizer.ema_decay=0"))
    assert outcome.code == 0, outcome.err
    losses, expected = metrics(tmp_path / "run")["loss"], metrics(run)["loss"]
    assert losses[0] == expected[0] and losses[3] != expected[3], "at first all three are the same"


def test_accumulated_it_is_a_larger_batch(inputs, tmp_path):
    found = []
    for name, sizes in (("batch", (2, 1)), ("accumulated", (1, 2))):
        more = [f"--train.batch_size={sizes[0]}", f"--train.gradient_accumulation={sizes[1]}"]
        outcome = train_here(*flags(inputs, tmp_path / name, *more))
        assert outcome.code == 0, outcome.err
        found.append(metrics(tmp_path / name)["loss"])
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_adapters_from_cached_latents(inputs, tmp_path):
    """The latents are those of image_to_video; the base's sampling settings are told as flags."""
    latents, run = tmp_path / "latents", tmp_path / "run"
    assert encode_latents.main([*options(inputs, latents), f"--out={latents}", "--passes=1"]) == 0
    more = ["--train.dataset=LatentsDataset", f"--train.dataset.init_args.folder={latents}", "--train.lora.rank=2"]
    command = [flag for flag in flags(inputs, run) if "dataset" not in flag]
    outcome = train_here(*command, *more)
    assert outcome.code == 0, outcome.err
    for told in ("sampler=consistency", "consistency_levels=8", "sampling_steps=4", "guidance=[1.0,1.0]"):
        assert f" --SVD.{told} " in outcome.err[-1]
    adapters = load_file(run / "lora.safetensors")
    assert all(value.any() for name, value in adapters.items() if name.endswith("lora_up"))
    lora = [f"--SVD.lora={run / 'lora.safetensors'}", f"--SVD.checkpoint={inputs / 'tiny.safetensors'}"]
    sampled = outcome.err[-1].split(str(run / "lora.safetensors"))[1].replace("--image=IMAGE", "").split()
    image = [f"--image={inputs / 'photo.png'}", "--mode=1", f"--output_dir={tmp_path}"]
    assert image_to_video.main([*lora, *sampled, *image]) == 0


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_the_boundary_condition(name):
    """At a level of 0 the denoised is the input, whatever the network says, which gets finite numbers."""
    sigma = np.array([0.0, 0.002, 5.0])
    rows = level_coefficients(PRECONDITIONINGS[name], sigma, 0.002)
    np.testing.assert_array_equal(rows[:3, 0], [1, 0, 1])
    np.testing.assert_array_equal(rows[:, 1:], PRECONDITIONINGS[name].coefficients(sigma[1:]))
    assert rows[3, 0] == rows[3, 1]


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("levels=1", "consistency.levels must be at least 2, got 1"),
        ("skip=9", "consistency.skip must be 1 to the 8 levels, got 9"),
        ("guidance_last=[3,2]", r"consistency.guidance_last takes two scales, the smaller first, got [3.0, 2.0]"),
        ("huber=0", "consistency.huber must be positive, got 0"),
        ("weighting=-1", "consistency.weighting must be 0 to 4, got -1"),
    ],
)
def test_settings_that_cannot_be(inputs, tmp_path, flag, what):
    outcome = train_here(*flags(inputs, tmp_path / "run", f"--train.consistency.{flag}"))
    assert outcome.code == 2 and what in outcome.error and not (tmp_path / "run").exists()


def test_previews_have_no_more_steps_than_there_are_levels(inputs, tmp_path):
    outcome = train_here(*flags(inputs, tmp_path / "run", f"--train.preview.images=[{inputs / 'photo.png'}]"))
    assert (
        outcome.code == 2 and "train.preview.sampling_steps must be at most train.consistency.levels 8" in outcome.error
    )
