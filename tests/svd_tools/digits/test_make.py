"""Videos of moving digits: files that training reads, and that nothing is made twice."""

import os

import imageio.v3 as imageio
import numpy as np
import pytest

from svd.data.moving_digits import MovingDigits
from svd.data.video_dataset import VideoDataset
from svd_tools.digits.make import main
from svd_tools.jobs.motion_score import score_video


def test_videos_show_the_clips_and_score_by_their_speed(tmp_path):
    assert main(["--out_dir", str(tmp_path), "--clips", "4", "--frames", "21", "--digits", "1", "--seed", "5"]) == 0
    paths = sorted(tmp_path.glob("*.mp4"))
    assert [path.name for path in paths] == [f"clip_{i:06d}.mp4" for i in range(4)]
    data = MovingDigits(4, 21, [1], seed=5)
    for index, path in enumerate(paths):
        error = imageio.imread(path).astype(float) - data.load(index).frames
        assert error.shape == (21, 64, 64, 3) and np.sqrt((error**2).mean()) < 4, "but for compression they are equal"
        assert imageio.immeta(path)["fps"] == 7
    speeds = [data.load(index).speed for index in range(4)]
    scores = [score_video(str(path))["score"] for path in paths]
    assert np.argsort(scores).tolist() == np.argsort(speeds).tolist()


def test_the_table_says_what_they_show(tmp_path):
    """Training reads it as it is, with captions."""
    command = ["--out_dir", str(tmp_path), "--clips", "3", "--frames", "2", "--looks", "inverted", "thick"]
    assert main(command) == 0
    dataset, data = VideoDataset(str(tmp_path / "videos.csv"), frames=2, height=64, width=64), MovingDigits(3, 2)
    for index in range(3):
        clip, drawn = dataset.load(index, np.random.default_rng(0)), data.load(index)
        assert clip.caption == drawn.caption and clip.motion_bucket_id == pytest.approx(drawn.motion_bucket_id, 1e-5)
        assert clip.fps == 7
    assert dataset.captioned


def test_the_same_command_continues(tmp_path):
    command = ["--out_dir", str(tmp_path), "--frames", "2", "--clips"]
    assert main([*command, "1"]) == 0
    first = tmp_path / "clip_000000.mp4"
    first.write_bytes(b"kept")
    assert main([*command, "2"]) == 0
    assert first.read_bytes() == b"kept" and (tmp_path / "clip_000001.mp4").stat().st_size > 100


def test_videos_of_other_settings_are_not_mixed(tmp_path, capsys):
    """Nor are those of a longer run, whose rest would be trained on, or of nobody knows what."""
    command = ["--out_dir", str(tmp_path), "--frames", "2", "--clips", "2"]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for flags, what in (
        (["--seed", "1"], "seed is 0 there and 1 here"),
        (["--varied", "0.5"], "varied is 0.0 there and 0.5 here"),
        (["--speed", "1", "2"], "speed is [0.0, 4.0] there and [1.0, 2.0] here"),
        (["--clips", "1"], "2 are there, and --clips is 1"),
    ):
        assert main([*command, *flags]) == 2
        assert f"has other videos: {what}; choose another folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "settings.json").unlink()
    assert main(command) == 2 and "no settings.json says how they were made" in capsys.readouterr().err


def test_the_published_clips(tmp_path):
    videos = np.zeros((20, 3, 64, 64), np.uint8)
    videos[:, 1, 20:30, 20:30] = 255
    np.save(tmp_path / "mnist_test_seq.npy", videos)
    source = ["--source", str(tmp_path / "mnist_test_seq.npy"), "--frames", "5", "--clips", "2"]
    assert main(["--out_dir", str(tmp_path / "out"), *source]) == 0
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 2
    frames = imageio.imread(tmp_path / "out/clip_000001.mp4")
    assert frames.shape == (5, 64, 64, 3) and abs(frames.astype(int) - videos[:5, 1, ..., None]).max() < 40


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--source", "nowhere"], "nowhere: no file train-images-idx3-ubyte"),
        (["--source", "nowhere.npy"], "nowhere.npy: not a NumPy array"),
        (["--speed", "3", "1"], "speed must be the slowest and fastest"),
        (["--direction", "0"], "take a digit further than to the edge"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, capsys, arguments, what):
    assert main(["--out_dir", str(tmp_path / "out"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("make_digits.py: error: ") and what in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["empty", "zip", "text", "objects", "cut", "pipe", "folder"])
def test_files_that_are_no_array(tmp_path, capsys, kind):
    path = tmp_path / "a.npy"
    if kind == "zip":
        np.savez(tmp_path / "a.npz", np.zeros(3))
        (tmp_path / "a.npz").rename(path)
    elif kind == "objects":
        np.save(path, np.array([{}, print]), allow_pickle=True)
    elif kind == "cut":
        np.save(path, np.zeros((20, 3, 64, 64), np.uint8))
        os.truncate(path, 9000)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"some text" if kind == "text" else b"")
    assert main(["--out_dir", str(tmp_path / "out"), "--source", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: not a NumPy array (" in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[" * 9000 + "]" * 9000, "[1]", '{"seed": %s}' % ("9" * 400)])
def test_settings_of_another_kind(tmp_path, capsys, content):
    (tmp_path / "settings.json").write_text(content)
    (tmp_path / "clip_000000.mp4").touch()
    assert main(["--out_dir", str(tmp_path), "--clips", "1"]) == 2
    assert "has other videos" in capsys.readouterr().err


def test_an_array_that_is_no_clips(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    assert main(["--out_dir", str(tmp_path / "out"), "--source", str(tmp_path / "a.npy")]) == 2
    assert "float64 [3, 4] is not uint8 [frames clips height width]" in capsys.readouterr().err
