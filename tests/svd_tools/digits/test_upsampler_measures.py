"""Evaluation of upsamplers: what is compared with what, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_upsampler import SMALL_IMAGES, SMALL_UPSAMPLER, write_upsampler

from svd.data.moving_digits import MovingDigits
from svd_tools.digits.upsampler import main, scores


def test_scores():
    real = np.random.default_rng(0).integers(0, 200, (2, 3, 16, 16, 3), dtype=np.uint8)
    assert scores(real, real) == {"psnr": 100, "ssim": pytest.approx(1), "flicker": 0}
    brighter = scores(real + np.uint8(10), real)
    assert brighter["psnr"] == pytest.approx(20 * np.log10(25.5)) and brighter["flicker"] == 0
    flickering = real + np.array([0, 10, 0], np.uint8).reshape(1, 3, 1, 1, 1)
    assert scores(flickering, real)["flicker"] == 10


def run(folder: Path, config, *flags: str) -> int:
    config = replace(config, unet=replace(config.unet, channel_mult=[1, 1, 1, 1]))  # whose middle attends to few pixels
    checkpoint = write_upsampler(folder / "model.safetensors", config)
    own = [f"--checkpoint={checkpoint}", f"--out_dir={folder / 'out'}", "--mode=1", "--frames=5", "--clips=2"]
    return main([*own, "--sampling.sampling_steps=1", *flags])


@pytest.mark.parametrize("config", [SMALL_UPSAMPLER, SMALL_IMAGES], ids=["video", "images"])
def test_a_model_is_compared_with_cubic_interpolation_and_its_image_model(eager, config, tmp_path, capsys):
    assert run(tmp_path, config, "--tiled_clips=1") == 0
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    table = report["scores"]
    assert list(table) == ["bicubic", "image", *(["video"] if config.temporal else []), "real"]
    assert table["real"]["psnr"] == 100 and table["real"]["flicker"] == 0
    real = np.stack([MovingDigits(2, frames=5, part="test").load(index).frames for index in range(2)])
    small = [[cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA) for frame in clip] for clip in real]
    cubic = [[cv2.resize(frame, (64, 64), interpolation=cv2.INTER_CUBIC) for frame in clip] for clip in small]
    assert table["bicubic"]["psnr"] == pytest.approx(scores(np.array(cubic), real)["psnr"], abs=1e-6)
    assert table["bicubic"]["psnr"] > table["image"]["psnr"]  # of random weights
    if config.temporal:
        assert table["image"] != table["video"]
    assert report["tiled_against_whole"]["psnr"] > 0 and (tmp_path / "out/samples.gif").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--clips=1"], "--clips must be 2 or more"),
        (["--size=56"], "--size must be a multiple of 16"),
        (["--frames=4"], "--frames must be 5 or more"),
        (["--size=32"], "judges frames of 64 pixels, not of 32"),
        (["--sampling.noise_level=999"], "noise_level must be below 350"),
    ],
)
def test_what_is_refused(tmp_path, capsys, flags, message):
    assert run(tmp_path, replace(SMALL_UPSAMPLER), *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
