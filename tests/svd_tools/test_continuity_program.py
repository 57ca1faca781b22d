"""The program that measures videos, and the judge of digits that it may be given."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from device import DEVICE
from PIL import Image

from svd import runtime
from svd.data.moving_digits import MovingDigits
from svd.data.videos import write_video
from svd.metrics.continuity import SCORES, measure
from svd.resources import DIGITS
from svd_tools import continuity
from svd_tools.digits.identity import identity_judge
from svd_tools.digits.judge import load_judge


@pytest.fixture
def main(capsys):
    """main(*flags) -> (code, lines of standard output, lines of standard error)"""

    def run(*flags):
        code = continuity.main([str(flag) for flag in flags])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, of which the second is another picture from frame 6 on."""
    folder = tmp_path_factory.mktemp("videos")
    y, x = np.mgrid[:48, :100]
    scenes = [
        np.stack([128 + 90 * np.sin((x + 2 * y) / k), 128 + 90 * np.cos((x - y) / k), x + y], -1) for k in (5, 11)
    ]
    pans = [np.stack([scene[:, i : i + 64] for i in range(10)]).astype(np.uint8) for scene in scenes]
    write_video(folder / "pan.mp4", pans[0], 8)
    (folder / "below").mkdir()
    write_video(folder / "below" / "cut.mp4", np.concatenate([pans[0][:6], pans[1][:6]]), 8)
    (folder / "notes.txt").write_text("no video")
    return folder


def test_a_folder_of_videos(main, folder, tmp_path):
    code, printed, _ = main("--videos", folder, "--out_dir", tmp_path, "--seams", 6)
    names = ("continuity.json", "curves.csv", "drift.png", "continuity.yaml")
    assert code == 0 and printed[-4:] == [str(tmp_path / name) for name in names]
    report = json.loads((tmp_path / "continuity.json").read_text())
    pan, cut = (report["each"][str(folder / name)] for name in ("pan.mp4", "below/cut.mp4"))
    assert (pan["cuts_at"], cut["cuts_at"], report["together"]["cuts"]) == ([], [6], 1)
    assert 0.5 < pan["seam_jump"] < 1.5 < cut["seam_jump"] == report["together"]["seam_jump"]
    assert report["together"]["identity_last_quarter"] is None and report["meaning"] == SCORES
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert len(curves) == 22 and curves["identity"].isna().all() and curves["step"].isna().sum() == 2
    assert curves["motion"][curves["video"] == str(folder / "pan.mp4")].mean() == pytest.approx(1, abs=0.2)
    with Image.open(tmp_path / "drift.png") as plotted:
        assert plotted.size[0] == 1200
    before = (tmp_path / "curves.csv").read_bytes()
    assert main(f"--config={tmp_path / 'continuity.yaml'}")[0] == 0
    assert (tmp_path / "curves.csv").read_bytes() == before
    assert yaml.safe_load((tmp_path / "continuity.yaml").read_text())["seams"] == [6]


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ((), "--videos is missing: a video, a folder of videos, or several of both"),
        (("--videos", "nowhere.mp4"), "nowhere.mp4: no such file or folder; check the path"),
        (("--videos", "{folder}/notes.txt"), "notes.txt: a text file, not a video"),
        (("--videos", "{tmp}"), "no videos in it or below; they are known by"),
        (("--videos", "{folder}/pan.mp4", "--seams", "10"), "has no frames before and after seam 10: seams are 1 to 9"),
        (("--videos", "{folder}/pan.mp4", "--judge", "nowhere.safetensors"), "nowhere.safetensors does not exist"),
        (
            ("--videos", "{folder}/pan.mp4", "--judge", str(DIGITS / "judge.safetensors")),
            "judges frames of 64 x 64, not of 48 x 64",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_used(main, folder, tmp_path, flags, what):
    code, printed, errors = main(
        *(flag.format(folder=folder, tmp=tmp_path) for flag in flags), "--out_dir", tmp_path / "o"
    )
    assert code == 2 and printed == [] and what in errors[-1] and errors[-1].startswith("continuity.py: error: ")
    assert not (tmp_path / "o").exists()


def test_the_judge_of_digits(eager):
    """A digit that is another one from frame 20 on."""
    runtime.setup(DEVICE, 1)
    judge = identity_judge(load_judge(DIGITS / "judge.safetensors", DEVICE, 64))
    data = MovingDigits(24, frames=20, size=64, fps=7, part="test", seed=0)
    clips = [clip for clip in map(data.load, range(24)) if len(clip.digits) == 1]
    other = next(clip for clip in clips if clip.digits != clips[0].digits)
    identity = measure(np.concatenate([clips[0].frames, other.frames]), judge=judge).identity
    assert set(identity) <= {0, 1} and identity[:20].mean() > 0.8 and identity[20:].mean() < 0.2
    blank = np.zeros((6, 64, 64, 3), np.uint8)
    assert not measure(blank, judge=judge).identity.any(), "nothing is there"
