"""The model of moving digits that comes with the project, and what is said of it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import yaml
from device import DEVICE
from PIL import Image

from scripts.make_photographs import PICTURES as PHOTOGRAPHS
from svd.build import load_pipeline
from svd.checkpoints.model_file import Checkpoint
from svd.config import load_config
from svd_tools import image_to_video
from svd_tools.digits.judge import judge_frames, load_judge
from svd_tools.digits.picture import prepare

ROOT = Path(__file__).parents[3]
ASSETS = ROOT / "assets"
FILES = [ASSETS / "digits" / name for name in ("model.safetensors", "judge.safetensors")]


def says_all_of(settings: Any, config: Any) -> bool:
    """Whether all that a configuration states is so in the settings of a run, where classes have their modules."""
    if isinstance(config, dict):
        return all(says_all_of(settings[key], value) for key, value in config.items())
    return settings == config or str(settings).endswith(f".{config}")


def test_the_weights_are_those_that_were_trained():
    provenance = json.loads((ASSETS / "digits/provenance.json").read_text())
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES}
    assert provenance["sha256"] == sums
    assert sum(path.stat().st_size for path in FILES) <= 25e6
    found, stated = Checkpoint(FILES[0]).config, load_config(ASSETS / "digits/model.yaml")
    measured = replace(stated.autoencoder, scale_factor=found.autoencoder.scale_factor)  # at the end of the first stage
    assert found == replace(stated, autoencoder=measured)
    for name, facts in provenance["stages"].items():
        config = yaml.safe_load((ASSETS / f"digits/{name}.yaml").read_text())["train"]
        assert says_all_of(facts["settings"]["train"], config), name


def test_the_numbers_are_those_of_the_weights():
    measured = json.loads((ROOT / "docs/digits_metrics.json").read_text())
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES]
    report = measured["video model"]
    assert report["sha256"] == dict(zip(("checkpoint", "judge"), sums)) and report["options"]["clips"] >= 256
    assert {other["sha256"]["judge"] for other in measured.values()} == {sums[1]}
    video, image = (measured[f"{name} model"]["scores"]["generated"] for name in ("video", "image"))
    assert video["psnr_mean"] > 22 and video["bucket_correlation_centres"] > 0.8
    assert video["frechet"] < image["frechet"] / 5


def test_a_picture_becomes_a_video_without_any_option(tmp_path, capsys):
    """One that is harder than the digits of its training."""
    path = ASSETS / "drawing.png"
    command = [f"--image={path}", f"--output_dir={tmp_path}", "--mode=1", "--format=mp4", f"--device_target={DEVICE}"]
    command += ["--SVD.sampler=dpmpp_2m", "--SVD.churn=0", "--SVD.sampling_steps=8"]
    assert image_to_video.main(command) == 0
    told = capsys.readouterr()
    assert "no --SVD.checkpoint was given: using model.safetensors of moving digits" in told.err
    assert "prepare: digits" in Path(told.out.split()[1]).read_text(), "the side file repeats it with the same weights"
    frames = imageio.imread(told.out.split()[0]).astype(np.float64)
    assert frames.shape == (14, 64, 64, 3)
    wanted = np.asarray(Image.open(path).convert("RGB"), np.float64)
    error = ((frames[0] - wanted) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 16, "the first frame is the picture"
    light = frames.sum((1, 2, 3)) / wanted.sum()
    assert (light > 0.6).all() and (light < 1.5).all(), "what is drawn stays"


def test_another_way_to_resize_is_for_pictures_that_stay_as_they_are(tmp_path, capsys):
    assert image_to_video.main([f"--image={ASSETS / 'drawing.png'}", f"--output_dir={tmp_path}", "--resize=pad"]) == 2
    assert "--resize=pad is for images that are not made anew: add --prepare=none" in capsys.readouterr().err


def test_photographs_keep_their_digits_in_the_video():
    """In the last frame, as the judge sees it."""
    if "whole_unet" not in json.loads((ASSETS / "digits/provenance.json").read_text())["stages"]:
        pytest.skip("the weights are of the recipe before, which did not learn from such digits")
    pipe = load_pipeline(None, FILES[0], DEVICE, 1)
    judge = load_judge(FILES[1], DEVICE, 64, source=None)
    paths = sorted((ASSETS / "photographs").glob("*.jpg"))
    pictures = np.stack([np.asarray(prepare(Image.open(path), 64, 64).image) for path in paths])
    videos = pipe(pictures, sampler="dpmpp_2m", churn=0, sampling_steps=8, progress=False)
    seen = judge_frames(judge, videos[:, -1]).argmax(-1)
    assert (seen == [PHOTOGRAPHS[path.stem][0] for path in paths]).sum() >= 4, "of five"
