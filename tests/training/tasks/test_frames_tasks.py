"""Prediction and interpolation: which frames are given, which part of a clip is learned from, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_text_model import write_text_checkpoint
from text_training import TINY_VIDEO
from training_runs import assert_same, checkpoint, metrics, options, tensors, train_here
from training_videos import write_csv, write_training_videos

from svd.build_training import check_task
from svd.config import ConfigError, TemporalConfig, TextSamplingConfig, VideoLDMLayers, dump_config
from svd.data.latents_dataset import EncodedClip
from svd.seeds import Purpose, generator
from svd.training.config import LossConfig, TrainConfig
from svd.training.tasks import Plan, find_task
from svd.training.tasks.given_frames import GivenFramesObjective
from svd.training.tasks.interpolation import part
from svd_tools import encode_latents

LAYERS = VideoLDMLayers(frames=True, motion=True, rates=[2.0, 4.0])
MODEL = replace(
    TINY_VIDEO,
    temporal=TemporalConfig(video_ldm=LAYERS),
    sampling=TextSamplingConfig(num_frames=5, height=8, width=8, sampling_steps=2),
)
TEMPORAL = re.compile(r"\.(temporal|blend|frames_proj)\.|\.(vector_embedding|given_frames)\.")


def drawn(task: str, frames: int, **loss) -> np.ndarray:
    """The masks of many samples, [n t]."""
    plan = Plan(TrainConfig(None, task=task, loss=LossConfig(**loss)), MODEL, {}, {})
    mask, _ = find_task(task).draws(plan)
    return np.stack([mask(generator(0, sample, Purpose.GIVEN), frames) for sample in range(400)])


def test_first_frames_are_given_as_often_as_said():
    masks = drawn("prediction", 6, given_frames=[1, 1, 2])
    counts = np.bincount(masks.sum(1).astype(int), minlength=3) / len(masks)
    np.testing.assert_allclose(counts, [0.25, 0.25, 0.5], atol=0.06)
    assert (np.diff(masks, axis=1) <= 0).all()  # none after one that is not given
    assert set(drawn("prediction", 6).sum(1)) == {0, 1, 2}


def test_every_fourth_frame_is_given():
    masks = drawn("interpolation", 9, drop_concat=0.25)
    given = masks.any(1)
    assert abs(given.mean() - 0.75) < 0.06
    assert (masks[given] == [1, 0, 0, 0, 1, 0, 0, 0, 1]).all()


def test_all_frames_and_their_noise():
    """All of them as often as said; levels of the noise from 0 to the largest, independent of the batch."""
    shape = (3, 1, 2, 2)
    for share, most in ((0.0, 5), (0.25, 2), (1.0, 0)):
        task = SimpleNamespace(seed=0, config=LossConfig(all_frames=share, frames_noise=most))
        task.mask = lambda rng, frames: np.zeros(frames, np.float32)
        masks, levels, noises = zip(*(GivenFramesObjective._draw_given(task, n, shape) for n in range(400)))
        assert {tuple(mask) for mask in masks} <= {(0, 0, 0), (1, 1, 1)}
        assert abs(np.mean(masks) - share) < 0.06 and set(levels) == set(range(most + 1))
        assert len({noise.tobytes() for noise in noises}) == 400


def test_windows_of_every_rate():
    """A clip of 8 frames per second has every fourth frame for a rate of 2, and every second for one of 4."""
    clip = EncodedClip(8.0, 0.0, 0.0, "x", moments=np.arange(20).reshape(20, 1, 1, 1))
    starts = {}
    for sample in range(200):
        cut = part(clip, 5, [4, 2], generator(0, sample, Purpose.WINDOW))
        numbers = cut.moments.ravel()
        step = numbers[1] - numbers[0]
        assert len(numbers) == 5 and (np.diff(numbers) == step).all() and cut.fps == 8 / step
        starts.setdefault(int(step), set()).add(int(numbers[0]))
    assert starts == {4: set(range(4)), 2: set(range(12))}
    with pytest.raises(ConfigError, match="are every 4-th of 17, and clips have 16: give dataset.frames of as many"):
        part(replace(clip, moments=clip.moments[:16]), 5, [4, 2], generator(0, 0, Purpose.WINDOW))


@pytest.mark.parametrize(
    ("task", "model", "loss", "frames", "message"),
    [
        ("prediction", TINY_VIDEO, {}, 5, "is for models with temporal.video_ldm.frames: true"),
        ("prediction", MODEL, {}, 2, "loss.given_frames has 2 given frames, and clips are of 2"),
        ("prediction", MODEL, {"frames_noise": 1001}, 5, "loss.frames_noise must be at most 1000"),
        (
            "prediction",
            MODEL,
            {"drop_concat": 0.5},
            5,
            "loss.drop_concat is 0.5, but it is for the task image_to_video",
        ),
        ("interpolation", MODEL, {"given_frames": [1.0]}, 5, "given_frames is .* but it is for the task prediction"),
        ("interpolation", MODEL, {}, 4, "sampling.num_frames is 5, and clips have 4 frames"),
        (
            "interpolation",
            replace(MODEL, sampling=replace(MODEL.sampling, num_frames=8)),
            {},
            9,
            "sampling.num_frames of a model for interpolation must be 5, 9, 13, ..., got 8",
        ),
        ("text_to_video", MODEL, {"all_frames": 0.5}, 5, "it is for the task prediction or interpolation, not for"),
    ],
)
def test_what_is_refused(task, model, loss, frames, message):
    data = SimpleNamespace(captioned=True, frames=frames)
    with pytest.raises(ConfigError, match=message):
        check_task(TrainConfig(data, task=task, loss=LossConfig(**loss)), model)


@pytest.mark.parametrize("proportions", [[], [0.0], [-1.0, 2.0]])
def test_proportions_that_cannot_be(proportions):
    with pytest.raises(ConfigError, match="loss.given_frames are proportions"):
        LossConfig(given_frames=proportions)


# --- by the program ---


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Videos without captions, the tiny model, and their latents."""
    folder = tmp_path_factory.mktemp("frames")
    write_text_checkpoint(folder / "tiny.safetensors", MODEL)
    (folder / "tiny.yaml").write_text(dump_config(MODEL))
    (folder / "videos").mkdir()
    write_training_videos(folder / "videos", 3)
    write_csv(folder / "videos/videos.csv", [(f"video_{index}.mp4", 20, 10 * index) for index in range(3)])
    argv = flags(folder, folder / "run", "prediction")
    assert encode_latents.main([*argv, f"--out={folder / 'latents'}", "--passes=1"]) == 0
    return folder


def flags(inputs: Path, run: Path, task: str, *more: str) -> list[str]:
    """Of clips of 17 frames, 8 per second: every fourth one for the lowest rate."""
    clips = ["--train.dataset.init_args.frames=17", "--train.dataset.init_args.step=1"]
    return [*options(inputs, run), f"--train.task={task}", *clips, "--train.updates=3", *more]


def of_latents(argv: list[str], inputs: Path) -> list[str]:
    return [
        *(flag for flag in argv if "dataset" not in flag),
        "--train.dataset=LatentsDataset",
        f"--train.dataset.init_args.folder={inputs / 'latents'}",
    ]


@pytest.mark.parametrize(("task", "more"), [("prediction", []), ("interpolation", ["--train.temporal_only=False"])])
def test_training(inputs, tmp_path, task, more):
    """From latents the losses are those from videos; a stopped training goes on; what is frozen stays."""
    argv = flags(inputs, tmp_path / "run", task, *more)
    outcome = train_here(*of_latents(argv, inputs))
    assert outcome.code == 0, outcome.err
    program = "svd long-video --model.prediction=" if task == "prediction" else "svd interpolate --model.checkpoint="
    assert outcome.err[-1].startswith(program)
    before, after = (load_file(path) for path in (inputs / "tiny.safetensors", tmp_path / "run/model.safetensors"))
    for name, value in before.items():
        learned = name.startswith("network.") and (bool(more) or TEMPORAL.search(name) is not None)
        assert (value.tobytes() != after[name].tobytes()) == learned, name

    outcome = train_here(*flags(inputs, tmp_path / "videos", task, *more))
    assert outcome.code == 0, outcome.err
    curves = [metrics(tmp_path / run)["loss"] for run in ("run", "videos")]
    np.testing.assert_allclose(*curves, rtol=3e-3)

    stopped = of_latents(flags(inputs, tmp_path / "stopped", task, *more), inputs)
    assert train_here(*stopped, "--train.updates=2").code == 0
    assert train_here(*stopped, "--train.resume=auto").code == 0
    assert_same(tensors(checkpoint(tmp_path / "stopped", 3)), tensors(checkpoint(tmp_path / "run", 3)))
