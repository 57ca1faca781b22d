"""svd evaluate-decoder: what is measured, and what is refused."""

import json

import numpy as np
import pytest
from device import DEVICE

from svd.resources import DIGITS
from svd_tools.evaluate_decoder import differences, main

MODEL = DIGITS / "model.safetensors"
OPTIONS = ["--clips=3", "--data=MovingDigits", "--data.init_args.frames=5", "--data.init_args.part=test", "--mode=1"]
OPTIONS += [f"--device_target={DEVICE}"]


def test_a_table_of_decoders(eager, tmp_path, capsys):
    """Of the shipped model: its decoder gives digits back. What options.yaml repeats is the same."""
    assert main([*OPTIONS, f"--out_dir={tmp_path / 'a'}", f"--checkpoint={MODEL}"]) == 0
    assert "frechet_video_distance" in capsys.readouterr().out
    report = json.loads((tmp_path / "a/metrics.json").read_text())
    scores = report["scores"][str(MODEL)]
    assert scores.keys() == {"frechet_video_distance", "flicker", "error", "psnr"}
    assert scores["psnr"] > 20 and 0 < scores["flicker"] < 10 and 0 < scores["frechet_video_distance"] < 100
    assert main([f"--config={tmp_path / 'a/options.yaml'}", f"--out_dir={tmp_path / 'b'}"]) == 0
    assert json.loads((tmp_path / "b/metrics.json").read_text())["scores"] == report["scores"]


def test_differences_by_hand():
    """A video that is brighter throughout does not flicker; one that is brighter in every second frame does."""
    video = np.full((2, 5, 4, 4, 3), 100, np.uint8)
    brighter, blinking = video + 10, video.copy()
    blinking[:, ::2] += 10
    assert differences(brighter, video) == {"flicker": 0, "error": 10, "psnr": pytest.approx(20 * np.log10(25.5))}
    assert differences(blinking, video)["flicker"] == 10 and differences(blinking, video)["error"] == 6
    assert differences(video, video)["psnr"] > 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--checkpoint is missing"),
        ([f"--checkpoint={MODEL}", "--clips=1"], "--clips must be 2 or more"),
        ([f"--checkpoint={MODEL}", "--data.init_args.frames=4"], "frames must be 5 or more for the judge, got 4"),
        ([f"--checkpoint={MODEL}", "--data.init_args.size=80"], "judges frames of 64 pixels, not of 80"),
        ([f"--checkpoint={MODEL}", "--data.init_args.size=20"], "--data.init_args: size must be more than"),
        (["--checkpoint=nothing.safetensors"], "nothing.safetensors"),
        ([f"--checkpoint={DIGITS / 'judge.safetensors'}"], "judge.safetensors"),
    ],
)
def test_bad_input_is_one_line(eager, tmp_path, capsys, flags, message):
    assert main([*OPTIONS, f"--out_dir={tmp_path / 'out'}", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "out").exists()
