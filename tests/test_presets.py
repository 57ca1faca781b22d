"""Presets: what each sets, what overrides it, and what is refused, in the program and from Python."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from small_checkpoint import small_tensors, write_checkpoint
from small_model import SMALL, build_small_pipe

from svd import runtime
from svd.cli import options
from svd.cli.options import parse
from svd.config import ConfigError, ModelConfig, SamplingConfig
from svd.config.presets import PRESETS, with_preset
from svd_tools import image_to_video

NOISY = replace(SMALL, sampling=replace(SMALL.sampling, churn=1.0, sampler="heun", sampling_steps=50))
"""A model whose own settings do not go with the solvers of presets."""


def resolved(model: ModelConfig, *flags: str) -> tuple[SamplingConfig, dict]:
    """The sampling settings of a command line, and its options as a side file has them."""
    args = parse(image_to_video.build_parser("program"), [f"--SVD.{flag}" for flag in flags])
    return options.resolve_sampling(model, args.SVD), args.SVD.as_dict()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_and_the_models_own_settings(name):
    sampling, told = resolved(NOISY, f"preset={name}", "num_frames=5", "guidance=2")
    expected = {**vars(NOISY.sampling), **PRESETS[name], "num_frames": 5, "guidance": [2.0, 2.0]}
    assert sampling == SamplingConfig(**expected)
    assert told["preset"] is None and told["sampler"] == sampling.sampler, "the side file repeats it without the preset"
    assert (sampling == resolved(NOISY, "num_frames=5", "guidance=2")[0]) == (name == "reference")


def test_presets_need_fewer_evaluations_than_the_published_settings():
    steps = [resolved(ModelConfig(), f"preset={name}")[0].sampling_steps for name in ("fast", "balanced", "reference")]
    assert steps == sorted(steps) and steps[2] == 25
    assert all("heun" not in settings.values() for settings in PRESETS.values())


def test_what_is_given_overrides_a_preset_and_is_said(capsys):
    sampling, _ = resolved(NOISY, "preset=fast", "sampling_steps=12", "sampler=dpmpp_2m")
    assert (sampling.sampler, sampling.sampling_steps, sampling.churn) == ("dpmpp_2m", 12, 0.0)
    assert capsys.readouterr().err.splitlines() == ["preset fast, but sampling_steps 12 as given"]
    assert resolved(NOISY, "preset=fast")[0].sampling_steps == 8 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["preset=fast", "churn=2"], "churn is for the samplers euler and heun, got dpmpp_2m: give churn 0 with it"),
        (["preset=balanced", "renoise=1"], "renoise is for the samplers euler and heun, got unipc"),
        (
            ["preset=fast", "sampler=euler", "sampling_steps=9", "churn=0", "eta=1", "renoise=0", "renoise_part=0.5"],
            "preset fast is given, and each of its settings too",
        ),
    ],
)
def test_conflicts_are_refused(flags, what):
    with pytest.raises(ConfigError, match=what) as error:
        resolved(SMALL, *flags)
    assert "\n" not in str(error.value)


def test_a_distilled_model_has_its_own_steps():
    distilled = replace(SMALL, sampling=replace(SMALL.sampling, sampler="consistency", sampling_steps=4))
    for name in ("fast", "balanced"):
        with pytest.raises(ConfigError, match=f"the model is distilled, .*: preset {name} is for others"):
            resolved(distilled, f"preset={name}")
    assert resolved(distilled, "preset=reference")[0] == distilled.sampling
    with pytest.raises(ConfigError, match="preset must be one of fast, balanced, reference, got quick"):
        with_preset(SMALL, "quick", {})


def test_the_program_and_its_side_file(tmp_path, capsys):
    write_checkpoint(tmp_path / "small.safetensors", small_tensors())
    image = np.zeros((16, 24, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    common = [f"--SVD.checkpoint={tmp_path / 'small.safetensors'}", f"--image={tmp_path / 'a.png'}", "--mode=1"]
    common += [f"--output_dir={tmp_path}", "--format=png"]
    assert image_to_video.main([*common, "--SVD.preset=fast"]) == 0
    side = tmp_path / "a_seed0.yaml"
    told = yaml.safe_load(side.read_text())["SVD"]
    assert "preset" not in told and {name: told[name] for name in PRESETS["fast"]} == PRESETS["fast"]
    capsys.readouterr()
    assert image_to_video.main([f"--config={side}", "--SVD.preset=balanced"]) == 2
    assert "preset balanced is given, and each of its settings too" in capsys.readouterr().err
    assert image_to_video.main([*common, "--SVD.preset=quick"]) == 2
    assert "'fast', 'balanced', 'reference'" in capsys.readouterr().err


def test_from_python():
    runtime.setup("CPU", 1)
    pipe, image = build_small_pipe(), np.zeros((16, 24, 3), np.uint8)
    options = {"output": "latents", "progress": False, "seed": 2, "sigma_max": 20.0}
    expected = pipe(image, sampler="dpmpp_2m", sampling_steps=3, churn=0.0, **options)
    np.testing.assert_array_equal(pipe(image, preset="fast", sampling_steps=3, **options), expected)
    with pytest.raises(ConfigError, match="preset must be one of"):
        pipe(image, preset="quick", **options)
