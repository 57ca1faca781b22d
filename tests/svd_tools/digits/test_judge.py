"""The judge of digits: what its outputs depend on, its file, and its training."""

import json
from pathlib import Path

import numpy as np
import pytest
from device import DEVICE
from mindspore import Tensor
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_model import fill

from svd.checkpoints.tensor_header import CheckpointError
from svd.data.moving_digits import MovingDigits
from svd.records import RecordError
from svd_tools.digits import lessons, train_judge
from svd_tools.digits.judge import (
    FORMAT,
    SURE,
    DigitJudge,
    Judgement,
    classes_present,
    judge_frames,
    judge_videos,
    load_judge,
    write_judge,
)
from svd_tools.digits.motion import brightness_centres

ROOT = Path(__file__).parents[3]
SIZE = 32


def random_videos(n: int, t: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, t, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def judge() -> DigitJudge:
    return fill(DigitJudge(SIZE))


def outputs(judge: DigitJudge, videos: np.ndarray) -> list[np.ndarray]:
    video = videos.transpose(0, 1, 4, 2, 3).astype(np.float32) / 127.5 - 1
    return [result.asnumpy() for result in judge(Tensor(video))]


def test_frames_are_seen_one_by_one_and_motion_in_their_order(mode, judge):
    videos, order = random_videos(2), [2, 0, 5, 3, 1, 4]
    maps, layout, features, clip = outputs(judge, videos)
    assert maps.shape == (2, 6, 10, 16) and layout.shape == (2, 6, 4) and features.shape == (2, 64)
    assert clip.shape == (2, 16)
    other_maps, other_layout, other_features, _ = outputs(judge, videos[:, order])
    np.testing.assert_allclose(other_maps, maps[:, order], atol=2e-5)
    np.testing.assert_allclose(other_layout, layout[:, order], atol=2e-5)
    assert np.abs(other_features - features).max() > 1e-3


def test_its_parameters_are_those_of_the_file_that_comes_with_the_project():
    published = load_file(ROOT / "assets/digits/judge.safetensors")
    judge = load_judge(ROOT / "assets/digits/judge.safetensors", DEVICE, 64, source=None)
    shapes = {parameter.name: tuple(parameter.shape) for parameter in judge.get_parameters()}
    assert shapes == {name.removeprefix("judge."): value.shape for name, value in published.items()}


def test_a_frame_alone_is_judged_as_in_a_clip(mode, judge):
    videos = random_videos(2)
    maps = outputs(judge, videos)[0].astype(np.float64)
    odds = np.exp(maps).sum(-1).reshape(12, 10)
    found = judge_frames(judge, videos.reshape(12, *videos.shape[2:]), batch_size=5)
    np.testing.assert_allclose(found, odds / (1 + odds), atol=1e-5)


def test_batches_and_what_fills_them_up_change_nothing(eager, judge):
    videos = random_videos(5)
    alone = [judge_videos(judge, videos[i : i + 1], batch_size=1) for i in range(5)]
    together = judge_videos(judge, videos, batch_size=3)
    for name in ("digits", "features", "speed"):
        expected = np.concatenate([getattr(result, name) for result in alone])
        np.testing.assert_allclose(getattr(together, name), expected, atol=1e-4)
    maps, _, features, clip = outputs(judge, videos)
    np.testing.assert_array_equal(together.digits, np.exp(maps).sum(-1) > 1)
    np.testing.assert_allclose(together.speed, clip[:, 10], atol=1e-4)
    with pytest.raises(ValueError, match="at least 5 frames, got 4"):
        judge_videos(judge, videos[:, :4])


def test_a_frame_shows_a_set_of_digits_and_no_others():
    digits = np.zeros((3, 2, 10), bool)
    digits[:, 1, 4] = digits[0, 1, 7] = True
    seen = Judgement(digits, np.zeros((3, 64)), np.zeros(3))
    wanted = classes_present([(7, 4), (4, 4), (4, 7)])
    assert seen.shows(wanted, frame=-1).tolist() == [True, True, False]
    assert seen.shows(wanted, frame=0).tolist() == [False, False, False]


def test_a_judge_is_written_and_read(eager, judge, tmp_path):
    path = tmp_path / "judge.safetensors"
    write_judge(path, judge, SIZE, {"seed": 3})
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["facts"]) == {"seed": 3}
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"float16"}  # noqa: SIM118
    read = {parameter.name: parameter.asnumpy() for parameter in load_judge(path, DEVICE, SIZE).get_parameters()}
    for parameter in judge.get_parameters():
        np.testing.assert_array_equal(read[parameter.name], parameter.asnumpy().astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("facts", ["[" * 9000, '{"a": 1' + "0" * 5000 + "}", "[]", "", None])
def test_damaged_metadata_are_told(judge, tmp_path, facts):
    metadata = {"format": FORMAT, "size": str(SIZE)} | ({} if facts is None else {"facts": facts})
    tensors = {f"judge.{p.name}": p.asnumpy() for p in judge.get_parameters()}
    save_file(tensors, tmp_path / "judge.safetensors", metadata)
    with pytest.raises(RecordError, match="judge.safetensors: its metadata.* (is no JSON|mapping)"):
        load_judge(tmp_path / "judge.safetensors", DEVICE, SIZE)


@pytest.mark.parametrize("widths", ["[12]", "[]", "[8000000]", "{}", "[8", "[8.0, 8, 8, 32]", "[8, 8, 8, 8]"])
def test_damaged_widths_are_told(judge, tmp_path, widths):
    tensors = {f"judge.{p.name}": p.asnumpy() for p in judge.get_parameters()}
    metadata = {"format": FORMAT, "size": str(SIZE), "facts": "{}", "widths": widths}
    save_file(tensors, tmp_path / "judge.safetensors", metadata)
    with pytest.raises(RecordError, match="judge.safetensors: its metadata"):
        load_judge(tmp_path / "judge.safetensors", DEVICE, SIZE)


def test_how_sure_it_is_has_to_be_a_number(judge, tmp_path):
    path = tmp_path / "judge.safetensors"
    write_judge(path, judge, SIZE, {SURE: 0.25})
    assert load_judge(path, DEVICE, SIZE).sure == 0.25
    write_judge(path, judge, SIZE, {SURE: []})
    with pytest.raises(RecordError, match="judge.safetensors: its metadata: .* has to be a number"):
        load_judge(path, DEVICE, SIZE)


def test_a_judge_of_other_widths(eager, tmp_path):
    """They are in its file."""
    judge = fill(DigitJudge(SIZE, (8, 8, 16, 32)))
    write_judge(tmp_path / "judge.safetensors", judge, SIZE, {})
    read = load_judge(tmp_path / "judge.safetensors", DEVICE, SIZE)
    assert read.widths == [8, 8, 16, 32]
    frames = random_videos(1)[0]
    np.testing.assert_allclose(judge_frames(read, frames), judge_frames(judge, frames), atol=1e-3)


def test_what_is_no_judge_of_such_frames_is_told(judge, golden_source, tmp_path):
    path = tmp_path / "judge.safetensors"
    write_judge(path, judge, SIZE, {})
    with pytest.raises(CheckpointError, match="judges frames of 32 pixels, not of 64: train one with .* --size=64"):
        load_judge(path, DEVICE, 64)
    write_judge(tmp_path / "mnist.safetensors", judge, SIZE, {"source": "mnist"})
    load_judge(tmp_path / "mnist.safetensors", DEVICE, SIZE, "data/mnist")
    write_judge(tmp_path / "both.safetensors", judge, SIZE, {"source": "mnist", "sklearn_too": True})
    for source in ("sklearn", "data/mnist"):
        load_judge(tmp_path / "both.safetensors", DEVICE, SIZE, source)
    with pytest.raises(CheckpointError, match="judges handwriting of mnist, not of sklearn: train .* --source=sklearn"):
        load_judge(tmp_path / "mnist.safetensors", DEVICE, SIZE)
    with pytest.raises(CheckpointError, match="is no judge of digits: train one with `svd digits train-judge`"):
        load_judge(golden_source, DEVICE, SIZE)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_judge(tmp_path / "none.safetensors", DEVICE, SIZE)


@pytest.mark.parametrize("seed", [12, 3])
def test_an_altered_clip_is_told_truly(seed):
    """One digit's centre of brightness goes where the alteration says: shaken with seed 12, smoothly with seed 3."""
    clip = MovingDigits(1, digits=[1], speed=[2.0, 2.0], direction=0).load(0)
    video, centres = lessons.altered(clip, np.random.default_rng(seed))
    again, _ = lessons.altered(clip, np.random.default_rng(seed))
    np.testing.assert_array_equal(video, again)
    assert video.shape == (14, 3, 64, 64) and video.min() >= -1 and video.max() <= 1
    found = brightness_centres(np.round((video.transpose(0, 2, 3, 1) + 1) * 127.5))
    offsets = found - centres[:, 0]
    assert np.ptp(offsets, axis=0).max() < 0.4 and np.abs(offsets).max() < 6
    assert np.abs(clip.centres[:, 0] - centres[:, 0]).max() > 1
    assert (np.abs(np.diff(centres[:, 0], 2, axis=0)).max() > 0.5) == (seed == 12)


def test_what_is_said_of_the_motion():
    """Two digits: one moves right by 2 and turns back once, one moves down by 2."""
    centres = np.zeros((6, 2, 2))
    centres[:, 0] = np.stack([20 + 2 * np.array([0, 1, 2, 3, 2, 1]), np.full(6, 30)], -1)
    centres[:, 1] = np.stack([np.full(6, 40), 20 + 2 * np.arange(6)], -1)
    np.testing.assert_allclose(lessons.motion(centres), [2, 1, 1, 0.2, 1, 0.5])
    np.testing.assert_allclose(lessons.layout(centres, 64)[0], [-0.25, -0.875, 1.25, 0.625])
    maps = lessons.digit_maps((3, 8), centres, 64).reshape(6, 10, 8, 8)
    assert maps.sum() == 12
    assert maps[3, 3, 3, 3] == 1 and maps[0, 3, 3, 2] == 1 and maps[5, 8, 3, 5] == 1  # [class, row, column]


def test_lessons_are_clips_and_pictures_of_more_handwriting():
    data = lessons.Lessons(40, part="train", size=SIZE)
    items = [data.load(index, None) for index in range(8)]
    assert [len(item.clips) for item in items] == [1, 7, 7, 7] * 2
    assert all(sum(len(clip.frames) for clip in item.clips) == 7 for item in items)
    pictures = {clip.path for item in items if len(item.clips) > 1 for clip in item.clips}
    assert len(pictures) == 6 * 7  # none is shown twice
    shown = [clip for item in items if len(item.clips) > 1 for clip in item.clips]
    scribbles = [clip for clip in shown if not clip.digits]
    assert len(scribbles) in (5, 6) and all(clip.frames.max() > 100 and not clip.centres.size for clip in scribbles)
    assert sum(len(clip.digits) == 1 for clip in shown) > len(shown) / 2, "most digits are alone"
    video, maps, places, motion, is_clip = lessons.JudgeTask(DigitJudge(SIZE), seed=0).inputs(items[:2], [0, 1])
    assert video.shape == (2, 7, 3, SIZE, SIZE) and places.shape == (2, 7, 4)
    present = np.repeat(classes_present([items[0].clips[0].digits]), 7, 0)
    np.testing.assert_array_equal(maps.asnumpy()[0].max(-1), present)
    np.testing.assert_array_equal(maps.asnumpy()[1].max(-1), classes_present([c.digits for c in items[1].clips]))
    assert is_clip.asnumpy().tolist() == [[1], [0]]
    assert motion.asnumpy()[0, 0] > 0 and not motion.asnumpy()[1].any()


def test_lessons_of_other_handwriting_show_scikit_learns_too(tmp_path):
    pictures, classes = np.full((3, 28, 28), 255), np.array([1, 1, 1])  # all white: no other digit is
    for name, array in (("train-images-idx3-ubyte", pictures), ("train-labels-idx1-ubyte", classes)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(header + array.astype(np.uint8).tobytes())
    data = lessons.Lessons(40, source=str(tmp_path), part="train", size=64)
    digits = [{digit for clip in data.load(index, None).clips for digit in clip.digits} for index in range(22)]
    assert [index for index in range(22) if digits[index] - {1}] == [3, 8, 14, 19]


def test_the_loss_is_that_of_its_parts(eager, judge):
    """Motion and digits of a clip count for clips alone."""
    data = lessons.Lessons(40, part="train", size=SIZE)
    inputs = lessons.JudgeTask(judge, seed=0).inputs([data.load(index, None) for index in range(2)], [0, 1])
    maps, layout, _, clip = (x.asnumpy().astype(np.float64) for x in judge(inputs[0]))
    where, places, motion = (x.asnumpy() for x in inputs[1:4])

    def entropy(logits: np.ndarray, present: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-logits))
        return -np.log(np.where(present == 1, p, 1 - p))

    expected = [
        -(where * (maps - np.log(np.exp(maps).sum(-1, keepdims=True)))).sum(-1).mean(),
        entropy(np.log(np.exp(maps).sum(-1)), where.max(-1)).mean(),
        entropy(clip[0, :10], where[0, 0].max(-1)).mean() / 2,
        np.mean((layout - places) ** 2),
        np.mean((clip[0, 10:] - motion[0]) ** 2) / 2,
    ]
    assert float(lessons.JudgeLoss(judge)(*inputs)) == pytest.approx(sum(expected), rel=1e-4)


def test_a_training_writes_a_judge_and_is_not_mixed_with_another(eager, tmp_path, capsys):
    out = tmp_path / "judge.safetensors"
    flags = [f"--out={out}", f"--size={SIZE}", "--updates=2", "--batch_size=2", "--test_clips=4", "--mode=1"]
    flags += ["--test_pictures=5", "--natural=0"]  # whose digits are larger than these frames
    assert train_judge.main(flags) == 0
    assert capsys.readouterr().out.splitlines() == [str(out)]
    with safe_open(out, framework="np") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["updates"] == 2 and facts["size"] == SIZE and facts["mindspore"]
    assert 0 <= facts["last frames of 1 right"] <= 1 and 0 <= facts["single digits right"] <= 1
    assert facts["mean error of the speed, pixels per frame"] > 0
    first = {name: value.tobytes() for name, value in load_file(out).items()}
    assert train_judge.main(flags) == 0  # nothing is left to train: the same judge again
    assert {name: value.tobytes() for name, value in load_file(out).items()} == first
    capsys.readouterr()
    assert train_judge.main([*flags, "--size=36"]) == 2
    assert "--size must be a multiple of 8, got 36" in capsys.readouterr().err
    assert train_judge.main([*flags, "--seed=1"]) == 2
    assert "is a run of other options" in capsys.readouterr().err
