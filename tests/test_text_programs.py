"""`svd text-to-image` and `svd text-to-video`: what is written, whose settings hold, one line for whatever is wrong.

All in this process and in pynative mode, with small random models, which are kept from run to run.
"""

import re
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import yaml
from PIL import Image
from small_checkpoint import small_tensors, write_checkpoint
from small_text_model import SMALL_IMAGE, SMALL_VIDEO, write_text_checkpoint

from svd import build
from svd.cli.options import parse
from svd.config import MotionModules, TemporalConfig, TextSamplingConfig
from svd.pipelines.progress import Bars
from svd_tools import image_to_video, text_to_image, text_to_video

PROGRAMS = {"image": text_to_image, "video": text_to_video}


@dataclass
class Outcome:
    """What a run left behind."""

    code: int
    out: list[str]
    err: list[str]

    @property
    def error(self) -> str:
        """The last line of standard error."""
        assert self.code == 2 and not self.out and ": error: " in self.err[-1], self
        return self.err[-1].split(": error: ")[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of small models by name."""
    folder = tmp_path_factory.mktemp("models")
    motion = replace(SMALL_VIDEO, temporal=TemporalConfig(motion_modules=MotionModules(heads=2, max_frames=4)))
    return {
        "image": write_text_checkpoint(folder / "image.safetensors", SMALL_IMAGE),
        "video": write_text_checkpoint(folder / "video.safetensors", SMALL_VIDEO),
        "motion": write_text_checkpoint(folder / "motion.safetensors", motion),
        "no tokenizer": write_text_checkpoint(folder / "bare.safetensors", SMALL_IMAGE, metadata={}),
        "svd": write_checkpoint(folder / "svd.safetensors", small_tensors()),
    }


@pytest.fixture(scope="module")
def kept() -> dict:
    return {}


@pytest.fixture
def cli(eager, models, kept, monkeypatch, capsys, tmp_path):
    """cli(kind, *flags) runs the program of a kind with its small model, a prompt and a folder to write to; what is
    given replaces these."""
    load_pipeline = build.load_pipeline

    def load(config, checkpoint, *args, **options):
        key = (checkpoint, *(str(options.get(name)) for name in ("lora", "lora_scale", "spatial", "decoder")))
        if key not in kept:
            kept[key] = load_pipeline(config, checkpoint, *args, **options)
        pipe = copy(kept[key])
        pipe.config, pipe.bars = config, Bars()
        return pipe

    monkeypatch.setattr(build, "load_pipeline", load)

    def run(kind: str, *flags: str, model: str = "") -> Outcome:
        defaults = {"--mode": "1", "--model.checkpoint": models[model or kind], "--output_dir": tmp_path / "out"}
        defaults |= {} if any(flag.startswith(("--prompt", "--config")) for flag in flags) else {"--prompt": "a cat"}
        argv = [f"{flag}={value}" for flag, value in defaults.items() if not any(f.startswith(flag) for f in flags)]
        code = PROGRAMS[kind].main([*argv, *flags])
        captured = capsys.readouterr()
        return Outcome(code, captured.out.splitlines(), re.split("[\r\n]+", captured.err.strip("\r\n")))

    return run


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


# --- results ---


def test_an_image(cli, tmp_path):
    result = cli("image")
    assert result.code == 0, result.err
    assert result.out == [f"{tmp_path}/out/a-cat_seed0{ending}" for ending in (".png", ".yaml")]
    assert pixels(result.out[0]).shape == (16, 24, 3)
    assert Path(result.out[1]).read_text().startswith("# Repeat this image with: python text_to_image.py --config")


def test_a_video(cli, tmp_path):
    result = cli("video", "--format", "mp4", "gif", "png", "--sampling.num_frames=4", "--sampling.fps=5")
    assert result.code == 0, result.err
    assert result.out == [f"{tmp_path}/out/a-cat_seed0{ending}" for ending in (".mp4", ".gif", "_frames", ".yaml")]
    assert len(imageio.mimread(result.out[0])) == 4 and len(list(Path(result.out[2]).iterdir())) == 4


PROMPTS = ["null", "12", "true", "[a, b]", "a: b", "x - y", "{}", "#", "日本 👩‍👧", "é\nnew line\ttab", "../../x"]
PROMPTS += ["a" * 300]


def test_prompts_of_any_form_are_written_and_repeated(cli, tmp_path):
    """An image for each prompt; what is beside it repeats it bit for bit, whatever the prompt looks like in YAML."""
    result = cli("image", "--sampling.sampling_steps=1", "--sampling.guidance=1", "--prompt", *PROMPTS)
    assert result.code == 0, result.err
    assert {str(Path(path).parent) for path in result.out} == {f"{tmp_path}/out"}
    sides = result.out[1::2]
    assert [yaml.safe_load(Path(side).read_text())["prompt"] for side in sides] == [[prompt] for prompt in PROMPTS]
    for side in (sides[0], sides[3], sides[9]):
        again = cli("image", f"--config={side}", f"--output_dir={tmp_path}/again")
        np.testing.assert_array_equal(pixels(again.out[0]), pixels(side.removesuffix(".yaml") + ".png"))


def test_the_side_file_says_all_settings(cli):
    given = ("--negative_prompt=the dog", "--seed=7", "--sampling.guidance=3", "--sampling.spacing=trailing")
    side = yaml.safe_load(Path(cli("video", *given).out[-1]).read_text())
    assert TextSamplingConfig(**side["sampling"]) == replace(SMALL_VIDEO.sampling, guidance=3.0, spacing="trailing")
    assert side["negative_prompt"] == "the dog" and side["seed"] == 7 and side["model"]["amp_level"] == "auto"


def test_options_change_the_result(cli):
    images = [
        pixels(cli("image", *given).out[0])
        for given in ((), ("--negative_prompt=slow",), ("--seed=1",), ("--sampling.spacing=trailing",))
    ]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])


def test_prompts_from_a_file(cli, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\r\n  the dog  \n".encode())
    result = cli("image", f"--prompt_file={path}")
    assert [Path(name).name for name in result.out[::2]] == ["a-cat_seed0.png", "the-dog_seed0.png"]
    assert "prompt_file" not in yaml.safe_load(Path(result.out[1]).read_text())


def test_a_longer_video_than_there_are_positions_for(cli):
    refused = cli("video", "--sampling.num_frames=6", model="motion").error
    assert refused == (
        "the temporal layers have positions for 4 frames: give a window of at most 4, and a video of 6 frames is made "
        "of overlapping windows (--sampling.window)"
    )
    result = cli("video", "--sampling.num_frames=6", "--sampling.window=4", "--format=png", model="motion")
    assert len(list(Path(result.out[0]).iterdir())) == 6


def test_a_prompt_of_ten_thousand_words_is_cut(cli):
    result = cli("image", "--prompt=" + "cat " * 10_000)
    assert result.code == 0
    assert sum("warning: a prompt of 10000 tokens is cut after 10" in line for line in result.err) == 1


# --- what is refused ---


@pytest.mark.parametrize(
    "kind, flags, message",
    [
        ("image", ["--prompt="], "--prompt is empty: say what is to be seen"),
        ("image", ["--prompt", "a", " "], "--prompt is empty: say what is to be seen"),
        ("image", ["--prompt=a \udcff"], "--prompt is not UTF-8: character 3 stands for another byte"),
        ("image", ["--negative_prompt=\udcc3"], "--negative_prompt is not UTF-8"),
        ("image", ["--prompt=a", "--prompt_file=b"], "--prompt and --prompt_file are both given"),
        ("image", ["--prompt_file=nowhere.txt"], "--prompt_file nowhere.txt cannot be read: No such file"),
        ("image", ["--model.checkpoint="], "--model.checkpoint is missing: the weights"),
        ("image", ["--seed=18446744073709551616"], r"--seed must be below 2\^64"),
        ("image", ["--sampling.num_frames=2"], "num_frames"),
        ("image", ["--sampling.guidance=-1"], r"guidance must not be negative, got -1\.0"),
        ("image", ["--sampling.guidance=1", "--negative_prompt=b"], r"negative_prompt acts .* \(--sampling.guidance\)"),
        ("image", ["--sampling.sampling_steps=2000"], r"at most 1000, .* got 2000 \(--sampling.sampling_steps\)"),
        ("image", ["--sampling.height=10"], "height and width must be multiples of 4, got 10 x 24"),
        ("image", ["--compile_cache=x"], "--compile_cache keeps compiled graphs, and --mode=1 compiles none"),
        ("image", ["--model.config=configs/svd.yaml"], "config configs/svd.yaml is of a model that turns images into"),
        ("video", ["--sampling.window_overlap=2"], "window_overlap 2 must be smaller than window None"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(cli, kind, flags, message):
    assert re.search(message, cli(kind, *flags).error)


@pytest.mark.parametrize(
    "kind, model, message",
    [
        ("image", "svd", "is of a model that turns images into videos, not of one that turns text into images"),
        ("image", "video", "is of a model that turns text into videos, not of one that turns text into images"),
        ("video", "image", "is of a model that turns text into images, not of one that turns text into videos"),
        ("image", "no tokenizer", "the checkpoint has no tokenizer, which turns prompts into tokens: convert it again"),
    ],
)
def test_checkpoints_of_other_models(cli, kind, model, message):
    assert message in cli(kind, model=model).error


def test_a_model_of_text_is_not_given_images(models, capsys):
    code = image_to_video.main([f"--SVD.checkpoint={models['image']}", "--image=x.png"])
    error = capsys.readouterr().err
    assert code == 2 and error.endswith("turns text into images, not of one that turns images into videos\n")


def test_a_file_that_is_not_utf_8_or_has_no_prompts(cli, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"one\ntwo \xff\n")
    assert cli("image", f"--prompt_file={path}").error.endswith("is not UTF-8: line 2 has a byte that is no character")
    path.write_text("\n \n")
    assert cli("image", f"--prompt_file={path}").error.endswith("has 0 prompts; 1 to 10000 are taken")
    path.write_text("cat " * 2**22 + "dog")
    assert cli("image", f"--prompt_file={path}").error.endswith("has more than 16 MB")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_options_of_the_kind_alone(kind):
    """An image has no frames."""
    parser = PROGRAMS[kind].build_parser("program")
    args = parse(parser, ["--prompt=a"])
    assert ("num_frames" in args.sampling) == ("format" in args) == (kind == "video")
