"""`svd digits long`: the measures of models whose results are known."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from device import DEVICE

from svd.config import AutoencoderConfig, TextSamplingConfig, VideoLDMLayers
from svd.resources import DIGITS
from svd_tools.digits import long, long_measures
from svd_tools.digits.judge import load_judge
from svd_tools.digits.long_measures import LongMeasures, decibels


class Autoencoder:
    """Latents are pixels in [-1, 1]."""

    decoder = SimpleNamespace(temporal=False)

    def encode(self, video: np.ndarray):
        return SimpleNamespace(asnumpy=lambda: video)

    def decode(self, latents: np.ndarray, tile_size=None) -> np.ndarray:
        return latents


def pipe(frames: int):
    config = SimpleNamespace(
        sampling=TextSamplingConfig(num_frames=frames, height=64, width=64, fps=28),
        own_layers=VideoLDMLayers(frames=True, rates=[7.0, 28.0]),
        autoencoder=AutoencoderConfig(),
    )
    return SimpleNamespace(config=config, autoencoder=Autoencoder())


class Sampler:
    """Cross-fades between given frames, and repeats the last; the more guidance, the more grey; after `KEPT` windows,
    what is continued is black.
    """

    KEPT = 4

    def __init__(self, pipe, settings, guidance=1.0, noise=0):
        self.pipe, self.settings, self.guidance = pipe, settings, guidance

    def __call__(self, latents, mask, seed, prompt, fps, motion) -> np.ndarray:
        given = np.flatnonzero(mask)
        places = np.interp(np.arange(len(latents)), given, np.arange(len(given)))
        before = np.floor(places).astype(int)
        after = np.minimum(before + 1, len(given) - 1)
        share = (places - before).reshape(-1, 1, 1, 1)
        made = (1 - share) * latents[given[before]] + share * latents[given[after]]
        black = len(given) == 1 and seed[-1] >= self.KEPT
        made = np.where(mask.reshape(-1, 1, 1, 1) > 0, latents, made / self.guidance)
        return (np.full_like(made, -1) if black else made).astype(np.float32)


@pytest.fixture
def measures(eager, monkeypatch, tmp_path) -> LongMeasures:
    for module in ("svd.pipelines.long_video", "svd_tools.digits.long_measures"):
        monkeypatch.setattr(f"{module}.FramesSampler", Sampler)
    argv = ["--prediction=p", "--interpolation=i", f"--out_dir={tmp_path}", "--clips=4", "--pictures=2", "--seconds=20"]
    args = long.build_parser("long").parse_args([*argv, "--scales", "1", "4"])
    judge = load_judge(DIGITS / "judge.safetensors", DEVICE, 64)
    return LongMeasures(pipe(5), pipe(5), judge, args)


def test_frames_that_are_given_come_back(measures):
    result = measures.given()
    assert result == {"psnr_given": decibels(0), "psnr_autoencoder": decibels(0)}


def test_a_cross_fade_is_as_good_as_a_cross_fade(measures):
    result = measures.between()
    assert result.keys() == {"7", "28"} and 0 < result["7"]["share_of_bounces"] < 1
    for rate in result.values():
        for part in (rate["all"], rate["straight"]):
            assert abs(part["model"] - part["cross_fade"]) < 0.5  # but for rounding to 8 bits
            assert part["autoencoder"] > part["cross_fade"] > part["repeated"]
    assert result["28"]["all"]["repeated"] > result["7"]["all"]["repeated"] + 3  # four times as far apart


def test_predictions_that_are_the_clips_are_as_far_away_as_these(measures, monkeypatch):
    """With a scale of 1; others are grey."""
    monkeypatch.setattr(Sampler, "__call__", lambda self, latents, *_: latents / self.guidance)
    result = measures.guidance()
    assert result["1"] == result["real"] and abs(result["4"] - result["1"]) > 0.1


def test_what_lasts(measures):
    result = measures.identity()
    assert result["two_frames_last_quarter"] > 0.4 and result["restarted_last_quarter"] == 0
    curves = result["curves"]
    assert len(curves["seconds"]) == len(curves["restarted"]) == 20
    assert curves["restarted"][0] == curves["two_frames"][0] > 0.4


def test_seams(measures):
    """Of a picture that stays, none."""
    measures.args.seconds = 3
    result = measures.seams()
    assert result["largest_at_seams"] == 0 and result["last_quarter"] in (0.0, 1.0)


def test_memory(measures, monkeypatch):
    """That of the program alone, however large this process is."""
    commands, peak = [], long_measures.peak_memory

    def measured(argv: list[str]) -> int:
        commands.append(argv)
        return peak([sys.executable, "-c", f"x = b'x' * {10**8 * len(commands)}"])

    monkeypatch.setattr(long_measures, "peak_memory", measured)
    result = measures.memory()
    assert [argv[-3] for argv in commands] == [f"--seconds={frames / 28}" for frames in (300, 3000)]
    more = result["frames_3000"] - result["frames_300"]
    assert result["frames_300"] < 2e8 and 0.7e8 < more < 1.3e8  # allocators round up
    assert result["ratio"] == result["frames_3000"] / result["frames_300"]
    with pytest.raises(subprocess.CalledProcessError):
        peak([sys.executable, "-c", "raise SystemExit(2)"])


def test_measures_are_kept(tmp_path):
    facts, made = {"made of": {"seed": 0}}, iter(range(9))
    results = [long.kept(tmp_path / "x.json", facts | {"svd": v}, lambda: {"n": next(made)}) for v in "aabb"]
    assert results == [{"n": 0}, {"n": 0}, {"n": 1}, {"n": 1}]
    (tmp_path / "x.json").write_text("{")
    assert long.kept(tmp_path / "x.json", facts, lambda: {"n": 5}) == {"n": 5}
    assert json.loads((tmp_path / "x.json").read_text())["result"] == {"n": 5}


def test_one_clip_has_no_covariance(capsys):
    assert long.main(["--prediction=p", "--interpolation=i", "--clips=1"]) == 2
    assert "--clips must be 2 or more, got 1" in capsys.readouterr().err
