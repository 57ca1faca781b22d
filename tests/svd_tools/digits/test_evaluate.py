"""The evaluation of a model of moving digits, from the command line to its files, with tiny random networks."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from device import DEVICE
from PIL import Image
from safetensors.numpy import load_file
from small_checkpoint import random_tensors, write_checkpoint
from small_model import SMALL, fill
from training_runs import TINY

import svd
from svd.data.moving_digits import MovingDigits
from svd.metrics.frechet import frechet_distance
from svd_tools.digits import evaluate
from svd_tools.digits.drawing import VideoMaker, contact_sheet, grid
from svd_tools.digits.evaluate import BUCKETS
from svd_tools.digits.judge import DigitJudge, judge_videos, load_judge, write_judge
from svd_tools.digits.scores import BEST_PSNR, Clips, psnr

SIZE, FRAMES, CLIPS = 32, 5, 4
SAMPLING = replace(TINY.sampling, num_frames=FRAMES, height=SIZE, width=SIZE, sampling_steps=1)
MODEL = replace(TINY, autoencoder=SMALL.autoencoder, sampling=SAMPLING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with model.safetensors and judge.safetensors."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_checkpoint(folder / "model.safetensors", random_tensors(MODEL), MODEL)
    write_judge(folder / "judge.safetensors", fill(DigitJudge(SIZE)), SIZE, {})
    return folder


def flags(folder: Path, *others: str) -> list[str]:
    model, judge = (f"{folder / name}.safetensors" for name in ("model", "judge"))
    few = [f"--clips={CLIPS}", "--control_pictures=1", "--batch_size=3", "--mode=1", f"--device_target={DEVICE}"]
    return [f"--SVD.checkpoint={model}", f"--judge={judge}", f"--out_dir={folder / 'out'}", *few, *others]


@pytest.fixture(scope="module")
def outcome(folder) -> Path:
    """What an evaluation of the image model alone has written."""
    assert evaluate.main(flags(folder, "--image_model", "--seed=5")) == 0
    return folder / "out"


def clips_of(seed: int) -> Clips:
    return Clips.of(MovingDigits(CLIPS, frames=FRAMES, size=SIZE, part="test", seed=seed))


def test_the_numbers_are_those_of_the_videos(outcome, folder, pipe):
    report = json.loads((outcome / "metrics.json").read_text())
    real, other, judge = clips_of(5), clips_of(6), load_judge(folder / "judge.safetensors", DEVICE, SIZE)
    videos = VideoMaker(pipe, MODEL.sampling, 4, 5, image_only=True)(real.pictures, real.buckets, np.arange(CLIPS), "")
    found = report["scores"]["generated"]
    assert found["psnr_mean"] == pytest.approx(psnr(videos[:, 0], real.pictures).mean(), abs=0.05)
    judged = [judge_videos(judge, x).features for x in (videos, real.videos, other.videos)]
    assert found["frechet"] == pytest.approx(frechet_distance(judged[0], judged[2]), rel=0.02)
    assert report["scores"]["real"]["frechet"] == pytest.approx(frechet_distance(judged[1], judged[2]), rel=1e-3)
    assert report["scores"]["still"]["psnr_median"] == pytest.approx(BEST_PSNR)


def test_the_report_says_what_it_is_about(outcome, folder):
    report = json.loads((outcome / "metrics.json").read_text())
    for name in ("model", "judge"):
        digest = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
        assert report["sha256"][{"model": "checkpoint"}.get(name, name)] == digest
    assert report["options"]["clips"] == CLIPS and report["options"]["image_model"] is True
    assert report["sampling"]["sampling_steps"] == 1 and report["versions"]["mindspore"]
    speeds = report["motion_control"]["speed_by_bucket"]["judge"]
    assert list(speeds) == [str(bucket) for bucket in BUCKETS]
    assert report["motion_control"]["part_of_fastest"]["judge"] == pytest.approx(speeds["255"] / 4)
    single = sum(len(MovingDigits(CLIPS, part="test", seed=5).load(index).digits) == 1 for index in range(CLIPS))
    assert sum(sum(row.values()) for row in report["confusion"].values()) == single
    assert all(len(curve) == FRAMES for curve in report["right_by_frame"]["real"].values())


def test_pictures_and_samples_are_written(outcome):
    files = {"metrics.json", "contact_sheet.png", "samples.gif", "generated"}
    assert {path.name for path in outcome.iterdir()} == files
    with Image.open(outcome / "contact_sheet.png") as sheet:
        assert sheet.size == (FRAMES * (SIZE + 2), 2 * CLIPS * (SIZE + 2))
        shown = np.asarray(sheet)
    np.testing.assert_array_equal(shown[1 : 1 + SIZE, 1 : 1 + SIZE], clips_of(5).videos[0, 0])
    assert imageio.mimread(outcome / "samples.gif")[0].shape[:2] == (SIZE, CLIPS * SIZE)


def test_the_same_command_draws_nothing_twice(outcome, folder, monkeypatch):
    """Only the batch that is missing or damaged is drawn, whatever the judge; with other settings everything."""
    drawn, batch = [], VideoMaker._batch

    def counted(self, pictures, *others):
        drawn.append(len(pictures))
        return batch(self, pictures, *others)

    monkeypatch.setattr(VideoMaker, "_batch", counted)
    report = (outcome / "metrics.json").read_text()
    (last,) = outcome.glob("generated/*/clips/000003.npz")
    last.unlink()  # as if stopped before: the last batch, of one clip
    assert evaluate.main(flags(folder, "--image_model", "--seed=5")) == 0
    assert drawn == [3] and (outcome / "metrics.json").read_text() == report
    last.write_bytes(last.read_bytes()[:-40])
    assert evaluate.main(flags(folder, "--image_model", "--seed=5")) == 0
    assert drawn == [3, 3] and (outcome / "metrics.json").read_text() == report
    other = folder / "other.safetensors"
    write_judge(other, fill(DigitJudge(SIZE), seed=1), SIZE, {})
    assert evaluate.main(flags(folder, "--image_model", "--seed=5", f"--judge={other}")) == 0
    assert drawn == [3, 3]
    found, first = json.loads((outcome / "metrics.json").read_text()), json.loads(report)
    assert found["scores"]["generated"]["frechet"] != first["scores"]["generated"]["frechet"]
    assert found["scores"]["generated"]["psnr_mean"] == first["scores"]["generated"]["psnr_mean"]
    assert evaluate.main(flags(folder, "--image_model", "--seed=5", "--SVD.fps=9", "--clips=2")) == 0
    assert len(drawn) > 3 and last.exists()


def test_the_sheet_has_each_real_clip_above_the_generated_one():
    real = np.arange(2 * 30, dtype=np.uint8).reshape(2, 30, 1, 1, 1) * np.ones((1, 1, 4, 6, 3), np.uint8)
    sheet = contact_sheet(real, real + np.uint8(100))
    assert sheet.shape == (4 * 6, 10 * 8, 3)  # every third frame
    assert sheet[2::6, 3::8, 0].tolist() == [
        [clip * 30 + added + frame for frame in range(0, 30, 3)] for clip in (0, 1) for added in (0, 100)
    ]


def test_the_grid_has_full_rows():
    videos = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1, 1) * np.ones((1, 2, 2, 2, 3), np.uint8)
    tiles = grid(videos)
    assert tiles.shape == (2, 2, 12, 3)
    assert tiles[1, 0, ::2, 0].tolist() == [0, 1, 2, 3, 4, 5]


SMALLER = replace(MODEL.sampling, height=8, width=8, sampling_steps=2)


@pytest.fixture
def pipe(folder):
    return svd.load_pipeline(MODEL, folder / "model.safetensors", DEVICE, mode=1)


@pytest.mark.filterwarnings("ignore:8 x 8 is not the size")
def test_a_video_is_that_of_the_pipeline_whatever_its_batch(pipe):
    rng, numbers, buckets = np.random.default_rng(0), np.array([4, 0, 9]), np.array([0.0, 100, 255])
    pictures = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    by_twos = VideoMaker(pipe, SMALLER, 2, seed=7)(pictures, buckets, numbers, "")
    assert by_twos.shape == (3, FRAMES, 8, 8, 3)
    for i, number in enumerate(numbers):
        rng = np.random.default_rng([7, number])
        noise, aug_noise = (
            rng.standard_normal((1, *shape), dtype=np.float32) for shape in ((FRAMES, 4, 4, 4), (3, 8, 8))
        )
        settings = {"motion_bucket_id": buckets[i], "height": 8, "width": 8, "sampling_steps": 2}
        expected = pipe(pictures[i], noise=noise, aug_noise=aug_noise, progress=False, **settings)
        np.testing.assert_allclose(by_twos[i].astype(int), expected.astype(int), atol=1)
    assert (np.abs(by_twos[0].astype(int) - by_twos[1]) > 20).any()


def test_fresh_noise_of_the_sampler_is_a_clip_s_own_too(pipe):
    settings, pictures = replace(SMALLER, churn=1.0), np.zeros((3, 8, 8, 3), np.uint8)
    numbers, buckets = np.array([1, 2, 1]), np.zeros(3)
    made = VideoMaker(pipe, settings, 3, seed=0)(pictures, buckets, numbers, "")
    alone = VideoMaker(pipe, settings, 1, seed=0)(pictures[1:2], buckets[1:2], numbers[1:2], "")
    np.testing.assert_allclose(made[0].astype(int), made[2].astype(int), atol=1)
    np.testing.assert_allclose(made[1].astype(int), alone[0].astype(int), atol=1)


def test_the_image_model_draws_frames_independently(pipe):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, FRAMES, 4, 4, 4), dtype=np.float32)
    other = noise.copy()
    other[:, -1] = rng.standard_normal((1, 4, 4, 4))
    picture, aug_noise = rng.random((1, 3, 8, 8), np.float32), np.zeros((1, 3, 8, 8), np.float32)
    pair = pipe.condition(picture, aug_noise, SMALLER, progress=False)

    def change(image_only: bool) -> np.ndarray:
        """How much the frames change by the noise of the last."""
        a, b = (pipe.sample(pair, start, SMALLER, None, False, image_only)[0] for start in (noise, other))
        return np.abs(a - b).max((1, 2, 3))

    assert change(False).min() > 1e-3
    assert change(True)[:-1].max() == 0 and change(True)[-1] > 1e-3


@pytest.mark.parametrize(
    "others, message",
    [
        (["--judge=nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--SVD.checkpoint=nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--SVD.width=64"], "digits move in a square: give the same --SVD.height and --SVD.width, not 32 and 64"),
        (["--SVD.height=40", "--SVD.width=40"], "judges frames of 32 pixels, not of 40"),
        (["--SVD.num_frames=4"], "--SVD.num_frames must be 5 or more"),
        (["--clips=1"], "--clips must be 2 or more"),
        (["--data.source=nowhere"], "nowhere"),
        (["--SVD.motion_bucket_id=3"], "motion_bucket_id"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(folder, capsys, others, message):
    assert evaluate.main([*flags(folder, *others), f"--out_dir={folder / 'none'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate.py: error: ") and message in line
    assert not (folder / "none").exists()


def test_a_judge_is_not_a_model(folder, capsys):
    judge = folder / "judge.safetensors"
    assert load_file(judge)
    assert evaluate.main(flags(folder, f"--SVD.checkpoint={judge}")) == 2
    assert "holds no configuration" in capsys.readouterr().err
