"""The command line: what is written, whose settings hold, what is said, and one line for whatever is wrong.

Most runs are in this process, with the small random model, whose pipeline is kept from run to run; the golden model
runs in a process of its own, as a user starts it.
"""

import ast
import errno
import inspect
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file
from small_checkpoint import damaged, small_tensors, write_checkpoint
from small_model import SMALL

from svd import build, runtime
from svd.cli.options import parse
from svd.config import SamplingConfig, dump_config, load_config
from svd.data import videos
from svd.data.images import load_image
from svd.pipelines.progress import Bars
from svd_tools import image_to_video

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "image_to_video.py"
HEIGHT, WIDTH, FRAMES = 16, 24, 3


@dataclass
class Outcome:
    """What a run left behind."""

    code: int
    out: list[str]
    err: list[str]

    @property
    def error(self) -> str:
        """The only line of standard error, progress aside."""
        lines = [line for line in self.err if not line.startswith("loaded ")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("image_to_video.py: error: ")
        return lines[0].removeprefix("image_to_video.py: error: ")


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A folder with the small model as small.safetensors and small.yaml."""
    folder = tmp_path_factory.mktemp("small")
    write_checkpoint(folder / "small.safetensors", small_tensors())
    (folder / "small.yaml").write_text(dump_config(SMALL))
    return folder


@pytest.fixture(scope="session")
def kept() -> dict:
    """Pipelines by what they were loaded with, so that every graph is compiled once."""
    return {}


@pytest.fixture
def kept_pipelines(monkeypatch, kept):
    """`load_pipeline` as it is, but a pipeline that was loaded before is not loaded again."""
    load_pipeline = build.load_pipeline

    def load(config, checkpoint, device_target, mode, amp_level, **others):
        runtime.setup(device_target, mode)
        networks = replace(config, sampling=SMALL.sampling, trained_range=SMALL.trained_range)
        key = (str(checkpoint), mode, amp_level, *others.values(), dump_config(networks))
        if key not in kept:
            kept[key] = load_pipeline(config, checkpoint, device_target, mode, amp_level, **others)
        pipe = copy(kept[key])
        pipe.config, pipe.bars = config, Bars()
        return pipe

    monkeypatch.setattr(build, "load_pipeline", load)


@pytest.fixture
def image(tmp_path) -> Path:
    """A PNG of the video's size."""
    path = tmp_path / "photo.png"
    Image.fromarray(random_pixels()).save(path)
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def cli(kept_pipelines, capsys, small, image, out):
    """cli(*flags) runs the script with the small model, the image and a folder to write to; what is given replaces
    these."""

    def run(*flags, checkpoint=small / "small.safetensors", images=(image,)) -> Outcome:
        argv = [str(flag) for flag in flags]
        argv += [f"--SVD.checkpoint={checkpoint}"] if checkpoint is not None else []
        argv += ["--image", *map(str, images)] if images else []
        argv += [] if any(flag.startswith("--output_dir") for flag in argv) else [f"--output_dir={out}"]
        code = image_to_video.main(argv)
        captured = capsys.readouterr()
        return Outcome(code, captured.out.splitlines(), re.split("[\r\n]+", captured.err.strip("\r\n")))

    return run


def random_pixels(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def read_frames(folder: Path) -> np.ndarray:
    """uint8 [t h w 3] of a folder that --format png wrote."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def read_options(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


# --- as a user starts it ---


@pytest.fixture(scope="module")
def golden_run(golden_checkpoint, golden_config, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The fixed command in a process and a folder of its own, with the reference's noise."""
    folder, golden = tmp_path_factory.mktemp("run"), golden_config.parent
    command = (
        f"{SCRIPT} --mode=0 --SVD.config={golden_config} --SVD.checkpoint={golden_checkpoint} --SVD.num_frames=3 "
        f"--SVD.fps=7 --image={golden / 'image.png'} --noise={golden / 'noise.npz'} --format mp4 gif png"
    )
    run = subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=folder, capture_output=True, text=True, timeout=600
    )
    return folder, run


def test_the_fixed_command_writes_what_it_says(golden_run):
    folder, run = golden_run
    assert run.returncode == 0, run.stderr
    names = ["image_seed0.mp4", "image_seed0.gif", "image_seed0_frames", "image_seed0.yaml"]
    assert run.stdout.splitlines() == [f"outputs/{name}" for name in names]
    assert files(folder / "outputs") == set(names) and files(folder) == {"outputs"}
    assert len(files(folder / "outputs/image_seed0_frames")) == 3
    for name in names[:2]:
        assert len(imageio.mimread(folder / "outputs" / name)) == 3
    for stage in ("encoding", "sampling", "decoding"):
        assert f"{stage}: compiling the graph ..." in run.stderr
    assert "sampling: 100%" in run.stderr and "decoding 3 of 3 frames at a time" in run.stderr
    assert "warning" not in run.stderr.lower()


def test_the_golden_video_comes_out_of_the_command_line(golden_run, golden):
    """Rounding the frames to 8 bits moves them by a quarter of a grey level on the mean. The image is rounded too
    before it is encoded: that may add as much, and at single pixels more, but no structure."""
    folder, _ = golden_run
    frames = read_frames(folder / "outputs/image_seed0_frames")
    expected = (np.clip(golden["video"].transpose(0, 2, 3, 1), 0, 1) * 255).astype(np.float64)
    difference = np.abs(frames - expected)
    assert difference.mean() < 0.5 and difference.max() < 3, (difference.mean(), difference.max())
    assert psnr(frames, expected) > 50
    assert expected.std() > 10


def test_the_golden_checkpoint_is_in_half_precision(golden_checkpoint):
    """So that the test above shows an fp16 checkpoint at work on a CPU; test_checkpoint.py shows that it is exact."""
    assert {str(tensor.dtype) for tensor in load_file(golden_checkpoint).values()} == {"float16"}


def test_an_error_in_a_process_is_one_line_and_exit_code_2(tmp_path):
    """Told before MindSpore is imported, and without a word of it."""
    command = [sys.executable, SCRIPT, "--SVD.checkpoint=nowhere.safetensors", "--image=nowhere.png"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 2 and run.stdout == "" and files(tmp_path) == set()
    assert re.fullmatch(r"image_to_video.py: error: checkpoint nowhere.safetensors does not exist: .*\n", run.stderr)


def test_help_in_a_process_explains_every_setting(tmp_path):
    """The sentences are those under the fields of SamplingConfig."""
    run = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0 and run.stderr == ""
    text = " ".join(run.stdout.split())
    body = ast.parse(inspect.getsource(SamplingConfig)).body[0].body
    sentences = {
        field.target.id: " ".join(note.value.value.split())
        for field, note in zip(body, body[1:])
        if isinstance(field, ast.AnnAssign)
    }
    assert sentences.keys() == vars(SamplingConfig()).keys()
    for name, sentence in sentences.items():
        assert f"--SVD.{name} " in text and sentence in text, name
    assert "function" not in text and "<class" not in text, "types are named as a user would"


# --- what is written ---


def test_formats(cli, out):
    assert cli().code == 0
    assert files(out) == {"photo_seed0.mp4", "photo_seed0.gif", "photo_seed0.yaml"}, "the default"
    for suffix, name in (("mp4", ".mp4"), ("gif", ".gif"), ("png", "_frames")):
        run = cli("--format", suffix, f"--output_dir={out / suffix}")
        assert run.code == 0
        assert run.out == [f"{out / suffix}/photo_seed0{name}", f"{out / suffix}/photo_seed0.yaml"]
        assert files(out / suffix) == {f"photo_seed0{name}", "photo_seed0.yaml"}
    frames = read_frames(out / "png/photo_seed0_frames")
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    for suffix, least in (("mp4", 20), ("gif", 15)):
        shown = np.stack(imageio.mimread(out / suffix / f"photo_seed0.{suffix}"))[..., :3]
        assert shown.shape == frames.shape and psnr(shown, frames) > least


def test_nothing_is_overwritten(cli, out):
    for seed in (1, 1, 2):
        assert cli("--format", "gif", f"--seed={seed}").code == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(first) == {f"photo_seed{stem}.{kind}" for stem in ("1", "1_1", "2") for kind in ("gif", "yaml")}
    assert cli("--format", "gif", "--seed=1").code == 0
    assert files(out) - set(first) == {"photo_seed1_2.gif", "photo_seed1_2.yaml"}
    for name, content in first.items():
        assert (out / name).read_bytes() == content


def test_several_images_and_a_folder(cli, out, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for index, name in enumerate(["b.jpg", "a.png", "notes.txt"]):
        path = folder / name
        path.write_text("no image") if name == "notes.txt" else Image.fromarray(random_pixels(seed=index)).save(path)
    Image.fromarray(random_pixels(seed=9)).save(tmp_path / "single.png")
    run = cli("--format", "png", images=[tmp_path / "single.png", folder])
    assert run.code == 0
    names = [f"{stem}_seed0" for stem in ("single", "a", "b")]
    assert run.out == [f"{out}/{name}{suffix}" for name in names for suffix in ("_frames", ".yaml")]
    videos = [read_frames(out / f"{name}_frames") for name in names]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert (videos[first] != videos[second]).mean() > 0.1
    assert read_options(out / "b_seed0.yaml")["image"] == [str(folder / "b.jpg")]
    assert sum("compiling" in line for line in run.err) == 3, "once for all images"


def test_images_of_the_same_name_in_two_folders(cli, out, tmp_path):
    paths = [tmp_path / name / "photo.png" for name in ("first", "second")]
    for index, path in enumerate(paths):
        path.parent.mkdir()
        Image.fromarray(random_pixels(seed=index)).save(path)
    assert cli("--format", "gif", images=paths).code == 0
    options = {name: read_options(out / name)["image"] for name in ("photo_seed0.yaml", "photo_seed0_1.yaml")}
    assert options == {"photo_seed0.yaml": [str(paths[0])], "photo_seed0_1.yaml": [str(paths[1])]}


def test_last_images(cli, out, tmp_path):
    """One for all images, or one for each, in their order; the names say both."""
    paths = [tmp_path / f"{name}.png" for name in "abcd"]
    for index, path in enumerate(paths):
        Image.fromarray(random_pixels(seed=index)).save(path)
    a, b, c, d = paths
    assert cli("--format", "png", "--last_image", c, images=[a, b]).code == 0
    videos = {name: read_frames(out / f"{name}_seed0_frames") for name in ("a_to_c", "b_to_c")}
    options = read_options(out / "b_to_c_seed0.yaml")
    assert (options["image"], options["last_image"]) == ([str(b)], [str(c)])
    assert re.search("^# last image sha256: .+$", (out / "b_to_c_seed0.yaml").read_text(), re.MULTILINE)
    assert cli("--SVD.fusion=linear", "--format", "png", "--last_image", d, c, images=[a, b]).code == 0
    assert files(out) >= {"a_to_d_seed0_frames", "b_to_c_seed0_1_frames"}
    assert (read_frames(out / "b_to_c_seed0_1_frames") != videos["b_to_c"]).mean() > 0.1
    assert image_to_video.main([f"--config={out / 'b_to_c_seed0.yaml'}"]) == 0
    np.testing.assert_array_equal(read_frames(out / "b_to_c_seed0_2_frames"), videos["b_to_c"])


def test_last_images_that_do_not_fit(cli, out, image, tmp_path):
    run = cli("--last_image", image, image, images=[image])
    assert run.error == "--last_image takes one image, or as many as --image (1), got 2"
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:30])
    run = cli("--last_image", tmp_path / "broken.png")
    assert run.code == 2 and "broken.png" in run.error and not out.exists()


def test_more_frames_than_are_seen_at_once(cli, out):
    assert cli("--format", "png", "--SVD.num_frames=7", "--SVD.window=3", "--mode=1").code == 0
    assert len(files(out / "photo_seed0_frames")) == 7


# --- whose settings hold ---


def test_the_side_file_repeats_the_run_bit_for_bit(cli, out, small, capsys, tmp_path):
    flags = ["--seed=5", "--SVD.fps=9", "--SVD.sampling_steps=3", "--SVD.churn=1.5", "--SVD.guidance=[1.2,2]"]
    assert cli("--format", "png", *flags, f"--SVD.config={small / 'small.yaml'}").code == 0
    side = out / "photo_seed5.yaml"
    assert image_to_video.main([f"--config={side}"]) == 0
    again = read_frames(out / "photo_seed5_1_frames")
    np.testing.assert_array_equal(again, read_frames(out / "photo_seed5_frames"))
    assert read_options(out / "photo_seed5_1.yaml") == read_options(side)
    assert cli("--format", "png", "--seed=5").code == 0
    assert (read_frames(out / "photo_seed5_2_frames") != again).mean() > 0.1, "the flags did something"
    assert image_to_video.main([f"--config={side}", "--seed=6", "--SVD.fps=8"]) == 0
    options = read_options(out / "photo_seed6.yaml")
    assert (options["seed"], options["SVD"]["fps"], options["SVD"]["churn"]) == (6, 8, 1.5)


def test_the_side_file_says_all_that_the_video_depends_on(cli, out, small, image):
    assert cli("--format", "gif", "--seed=3", "--SVD.fps=9").code == 0
    text = (out / "photo_seed3.yaml").read_text()
    options = yaml.safe_load(text)
    others = ("checkpoint", "amp_level", "lora_scale")
    stated = {name: value for name, value in options["SVD"].items() if name not in others}
    assert SamplingConfig(**stated) == replace(SMALL.sampling, fps=9)
    assert {name for name, value in vars(SMALL.sampling).items() if value is not None} == stated.keys()
    assert options["seed"] == 3 and options["image"] == [str(image)] and options["resize"] == "crop"
    for fact in (
        "svd",
        "device",
        "mode",
        "python",
        "mindspore",
        "numpy",
        "image sha256",
        "checkpoint bytes",
        "command",
    ):
        assert re.search(f"^# {fact}: .+$", text, re.MULTILINE), fact


def test_the_models_config_goes_before_the_defaults_and_a_flag_before_both(cli, out, small, tmp_path):
    """The defaults are 7 frames per second and 25 steps; the checkpoint's own config has 2 steps."""
    config = tmp_path / "model.yaml"
    config.write_text(f"base: {small / 'small.yaml'}\nsampling: {{fps: 9, sampling_steps: 3}}\n")
    cases = {
        "checkpoint": ([], (7, 2)),
        "config": ([f"--SVD.config={config}"], (9, 3)),
        "flag": ([f"--SVD.config={config}", "--SVD.fps=7"], (7, 3)),
        "flag before": (["--SVD.fps=12", f"--SVD.config={config}", "--SVD.sampling_steps=2"], (12, 2)),
    }
    for name, (flags, (fps, steps)) in cases.items():
        run = cli("--format", "mp4", *flags, f"--output_dir={out / name}")
        assert run.code == 0
        assert any(f"{steps}/{steps}" in line for line in run.err if line.startswith("sampling")), name
        options = read_options(out / name / "photo_seed0.yaml")["SVD"]
        assert (options["fps"], options["sampling_steps"]) == (fps, steps)
        assert imageio.get_reader(out / name / "photo_seed0.mp4").get_meta_data()["fps"] == fps


def test_a_printed_config_is_a_config(capsys, tmp_path):
    """It states what was given, and leaves the rest to the model: 25 frames, not the 14 of the default."""
    model = f"--SVD.config={ROOT / 'configs/svd_xt.yaml'}"
    flags = [model, "--SVD.checkpoint=c", "--SVD.fps=9", "--image", "a.png", "b.png", "--format", "gif"]
    with pytest.raises(SystemExit) as exit:
        image_to_video.main([*flags, "--SVD.guidance=[1,4]", "--print_config"])
    assert exit.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert read_options(path)["image"] == ["a.png", "b.png"] and read_options(path)["format"] == ["gif"]
    args = parse(image_to_video.build_parser("program"), [f"--config={path}"])
    _, sampling = image_to_video.resolve(args)
    assert args.image == ["a.png", "b.png"] and args.format == ["gif"]
    assert sampling == replace(load_config(ROOT / "configs/svd_xt.yaml").sampling, fps=9, guidance=[1.0, 4.0])


def test_the_same_seed_gives_the_same_video_and_another_another(cli, out):
    for seed in (4, 4, 5):
        assert cli("--format", "png", f"--seed={seed}").code == 0
    first, second, other = (read_frames(out / f"photo_seed{stem}_frames") for stem in ("4", "4_1", "5"))
    np.testing.assert_array_equal(first, second)
    assert (first != other).mean() > 0.1


def test_noise_given_replaces_the_seeds(cli, out, tmp_path):
    generator = np.random.default_rng(8)
    noise = generator.standard_normal((1, FRAMES, 4, 8, 12), dtype=np.float32)
    aug_noise = generator.standard_normal((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    np.savez(tmp_path / "both.npz", noise=noise, aug_noise=aug_noise)
    np.savez(tmp_path / "one.npz", noise=noise)
    assert cli("--format", "png", "--seed=8").code == 0
    for seed, name in ((1, "both"), (8, "one")):
        assert cli("--format", "png", f"--seed={seed}", f"--noise={tmp_path / name}.npz").code == 0
    expected = read_frames(out / "photo_seed8_frames")
    for stem in ("photo_seed1", "photo_seed8_1"):
        np.testing.assert_array_equal(read_frames(out / f"{stem}_frames"), expected)


def test_one_number_of_guidance_is_both_its_ends(cli, out):
    for number, flag in enumerate(("2.5", "[2.5,2.5]")):
        assert cli("--format", "png", f"--SVD.guidance={flag}", f"--seed={number}").code == 0
        assert read_options(out / f"photo_seed{number}.yaml")["SVD"]["guidance"] == [2.5, 2.5]


# --- images of every kind ---


def test_images_of_other_modes_and_turned_ones(cli, out, tmp_path):
    """Each gives the video of the upright RGB image that a user sees."""
    pixels = random_pixels()
    alpha = random_pixels(seed=1)[..., :1]
    exif = Image.new("RGB", (1, 1)).getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    kinds = {
        "rgba.png": (Image.fromarray(np.concatenate([pixels, alpha], -1)), {}),
        "grey.png": (Image.fromarray(pixels[..., 0]), {}),
        "palette.gif": (Image.fromarray(pixels).quantize(16), {}),
        "turned.png": (Image.fromarray(np.rot90(pixels)), {"exif": exif}),
    }
    for name, (image, options) in kinds.items():
        image.save(tmp_path / name, **options)
        load_image(tmp_path / name).save(tmp_path / f"{name}.rgb.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "turned.png.rgb.png")), pixels)
    assert (
        cli("--format", "png", images=[tmp_path / f"{name}{end}" for name in kinds for end in ("", ".rgb.png")]).code
        == 0
    )
    for name in kinds:
        video = read_frames(out / f"{Path(name).stem}_seed0_frames")
        assert video.shape == (FRAMES, HEIGHT, WIDTH, 3)
        np.testing.assert_array_equal(video, read_frames(out / f"{name}.rgb_seed0_frames"))


@pytest.fixture
def tall(tmp_path) -> Path:
    """An image of 60 x 40, which is 3:2, while the model's videos are 2:3."""
    path = tmp_path / "tall.png"
    Image.fromarray(random_pixels(60, 40)).save(path)
    return path


def test_crop_and_pad_keep_the_models_size(cli, out, tall):
    videos = []
    for resize in ("crop", "pad"):
        run = cli("--format", "png", f"--resize={resize}", f"--output_dir={out / resize}", images=[tall])
        assert run.code == 0 and not any("warning" in line for line in run.err)
        videos.append(read_frames(out / resize / "tall_seed0_frames"))
    assert videos[0].shape == videos[1].shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert (videos[0] != videos[1]).mean() > 0.1


@pytest.mark.filterwarnings("always::UserWarning")
def test_fit_gives_the_video_the_images_shape(cli, out, tall):
    """Of about the model's area, and the same as asking for that size."""
    warning = "warning: 24 x 16 is not the size that the model was trained on: 16 x 24"
    fit = cli("--format", "png", "--mode=1", "--resize=fit", images=[tall])
    asked = cli("--format", "png", "--mode=1", "--SVD.height=24", "--SVD.width=16", images=[tall])
    for run in (fit, asked):
        assert run.code == 0 and warning in run.err
    frames = read_frames(out / "tall_seed0_frames")
    assert frames.shape == (FRAMES, 24, 16, 3)
    np.testing.assert_array_equal(frames, read_frames(out / "tall_seed0_1_frames"))


# --- many images ---


@pytest.fixture
def album(tmp_path) -> Path:
    """A folder of two images, one that is cut, one whose end is missing, and a text that is called an image."""
    folder = tmp_path / "album"
    folder.mkdir()
    for index, name in enumerate(["a.png", "b.jpg", "c.png", "e.png"]):
        Image.fromarray(random_pixels(64, 64, seed=index)).save(folder / name)
    for name, cut in (("b.jpg", 800), ("c.png", 100)):
        (folder / name).write_bytes((folder / name).read_bytes()[:-cut])
    (folder / "d.png").write_text("no image")
    return folder


def test_images_that_fail_do_not_end_the_others(cli, out, album):
    """What a short look tells is said before anything is loaded, the rest when its turn comes; and again at the end."""
    run = cli("--format", "png", images=[album])
    assert run.code == 2
    assert run.out == [f"{out}/{name}_seed0{end}" for name in ("a", "e") for end in ("_frames", ".yaml")]
    said = {name: [line for line in run.err if f"{name}: " in line] for name in ("b.jpg", "c.png", "d.png")}
    loaded = next(number for number, line in enumerate(run.err) if line.startswith("loaded"))
    for name, (line,) in said.items():
        assert line.startswith(f"warning: {album / name}: ")
        assert (run.err.index(line) < loaded) == (name != "b.jpg")
    assert "not an image" in said["d.png"][0] and "damaged" in said["b.jpg"][0] and "damaged" in said["c.png"][0]
    assert run.err[-1] == (
        f"image_to_video.py: error: 2 images could not be used ({album / 'c.png'}, {album / 'b.jpg'}); "
        "the videos of all others are written"
    )


def test_what_is_no_image_is_passed_over_in_a_folder_and_refused_by_name(cli, out, album):
    for name in ("b.jpg", "c.png"):
        (album / name).unlink()
    assert cli("--format", "gif", images=[album]).code == 0
    run = cli("--format", "gif", images=[album, album / "d.png"])
    assert run.code == 2 and "d.png: not an image" in run.error
    for name in ("a.png", "e.png"):
        (album / name).unlink()
    (album / "c.png").write_text("no image either")
    assert cli("--format", "gif", images=[album]).err[-1].endswith("none of these 2 images can be used")


def test_images_are_decoded_when_their_turn_comes(cli, out, tmp_path, monkeypatch):
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for index, path in enumerate(paths):
        Image.fromarray(random_pixels(seed=index)).save(path)
    written = {}

    def load(path):
        written[path.name] = {name for name in files(out) if name.endswith(".yaml")}
        return load_image(path)

    monkeypatch.setattr(image_to_video, "load_image", load)
    assert cli("--format", "gif", images=paths).code == 0
    assert written == {"a.png": set(), "b.png": {"a_seed0.yaml"}, "c.png": {"a_seed0.yaml", "b_seed0.yaml"}}


# --- names ---

NAMES = {
    "long": "a castle, masterpiece, best quality, " * 6 + "a castle, a moat, a drawbridge",
    "wide": "夜景のお城と花火" * 10,
    "latin": b"caf\xe9".decode(errors="surrogateescape"),
    "lines": "two\nlines: [1, 2]\n# and a comment",
    "signs": "100% sure - yes! #1 {x} [y] 'q' \"z\" & co",
    "emoji": "emoji 🦊 夜景",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_of_any_kind(kept_pipelines, small, out, tmp_path, kind):
    """The video in all formats, and a side file that repeats it."""
    image, folder = tmp_path / f"{NAMES[kind][:250]}.png", tmp_path / NAMES["latin"]
    Image.fromarray(random_pixels()).save(image)
    outputs = folder if kind == "latin" else out
    flags = ["--format", "png", "gif", "mp4", f"--output_dir={outputs}"]
    argv = [f"--SVD.checkpoint={small / 'small.safetensors'}", f"--image={image}", *flags]
    with open(os.devnull, "w", errors="surrogateescape") as sink, redirect_stdout(sink):  # as the programs have it
        assert image_to_video.main(argv) == 0
        names = files(outputs)
        assert len(names) == 4 and all(len(os.fsencode(name)) <= 255 for name in names)
        assert {name.rsplit("_seed0")[-1] for name in names} == {".mp4", ".gif", "_frames", ".yaml"}
        (side,) = outputs.glob("*.yaml")
        assert image_to_video.main([f"--config={side}"]) == 0
    first, again = sorted(outputs.glob("*_frames"))
    np.testing.assert_array_equal(read_frames(first), read_frames(again))
    assert len(files(outputs)) == 8
    if kind not in ("long", "wide"):
        assert side.name == f"{NAMES[kind]}_seed0.yaml"


def test_long_names_that_begin_alike_stay_apart(cli, out, tmp_path):
    paths = [tmp_path / f"{'x' * 240}{end}.png" for end in "ab"]
    for index, path in enumerate(paths):
        Image.fromarray(random_pixels(seed=index)).save(path)
    assert cli("--format", "png", images=paths).code == 0
    videos = [read_frames(path) for path in sorted(out.glob("*_frames"))]
    assert len(videos) == 2 and (videos[0] != videos[1]).mean() > 0.1


def test_output_that_nobody_takes_ends_nothing(tmp_path):
    """A full disk behind `>`, and a closed standard error: all videos are written, and the exit code tells."""
    write_checkpoint(tmp_path / "small.safetensors", small_tensors())
    for name in "ab":
        Image.fromarray(random_pixels()).save(tmp_path / f"{name}.png")
    command = [sys.executable, SCRIPT, "--mode=1", "--format=gif", "--SVD.checkpoint=small.safetensors", "--image"]
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *map(str, command), "a.png", "b.png"],
            cwd=tmp_path, stdout=full, timeout=600,
        )  # fmt: skip
    assert run.returncode == 2
    assert files(tmp_path / "outputs") == {f"{name}_seed0.{kind}" for name in "ab" for kind in ("gif", "yaml")}


# --- what is said ---


def test_progress_tells_of_loading_compiling_steps_and_chunks(cli, small):
    run = cli("--format", "gif")
    assert run.err[0].startswith(f"loaded {small / 'small.safetensors'} in ")
    stages = [line.split(":")[0] for line in run.err if "compiling the graph" in line]
    assert stages == ["encoding", "sampling", "decoding"]
    assert any(re.match(r"sampling: 100%.* 2/2 .*(s/step|step/s)", line) for line in run.err), "time per step"
    assert any(line.startswith("decoding 3 of 3 frames at a time: about ") for line in run.err)
    assert re.fullmatch(r".*photo.png: 3 frames in \d+\.\d s", run.err[-1])


def test_pynative_mode_compiles_nothing_and_gives_the_same_video(cli, out):
    graph, pynative = (cli("--format", "png", f"--mode={mode}", f"--output_dir={out / str(mode)}") for mode in (0, 1))
    assert graph.code == pynative.code == 0
    said = [sum("compiling the graph" in line for line in run.err) for run in (graph, pynative)]
    assert said == [3, 0]
    videos = [read_frames(out / str(mode) / "photo_seed0_frames").astype(int) for mode in (0, 1)]
    assert np.abs(videos[0] - videos[1]).max() <= 1
    assert "# mode: 1 (pynative)" in (out / "1/photo_seed0.yaml").read_text()


def test_a_memory_limit_chooses_the_chunk(cli):
    run = cli("--format", "gif", "--mode=1", "--SVD.decode_memory_gb=1e-6")
    assert run.code == 0
    assert any(line.startswith("decoding 1 of 3 frames at a time") for line in run.err)


def test_values_outside_of_the_training_warn_with_the_range(cli):
    run = cli("--format", "gif", "--SVD.fps=40", "--SVD.motion_bucket_id=300", "--SVD.noise_aug_strength=0.5")
    assert run.code == 0
    outside = "is outside of what the model was trained on"
    assert [line for line in run.err if line.startswith("warning")] == [
        f"warning: fps 40 {outside}: 6 to 31",
        f"warning: motion_bucket_id 300 {outside}: 0 to 255",
        f"warning: noise_aug_strength 0.5 {outside}: 0.011 to 0.223",
    ]


def test_svd_xt_1_1_warns_at_all_but_one_value(cli, small, tmp_path):
    published = yaml.safe_load((ROOT / "configs/svd_xt_1_1.yaml").read_text())["trained_range"]
    config = tmp_path / "single.yaml"
    config.write_text(yaml.safe_dump({"base": str(small / "small.yaml"), "trained_range": published}))
    quiet = cli("--format", "gif", f"--SVD.config={config}")
    assert quiet.code == 0 and not any("warning" in line for line in quiet.err)
    run = cli("--format", "gif", f"--SVD.config={config}", "--SVD.fps=8")
    assert "warning: fps 8 is outside of what the model was trained on: 7 only" in run.err


def test_half_precision_on_a_cpu_is_near_to_full(cli, out):
    for level in ("O0", "O2"):
        flags = ["--mode=1", "--SVD.sampling_steps=1", f"--SVD.amp_level={level}"]
        assert cli("--format", "png", *flags, f"--output_dir={out / level}").code == 0
    full, half = (read_frames(out / level / "photo_seed0_frames") for level in ("O0", "O2"))
    assert 0 < np.abs(full.astype(int) - half).mean() < 1 and psnr(full, half) > 40


# --- bad input ---


def bad_png(tmp_path: Path, image: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.png"
    whole = image.read_bytes()
    if kind == "text":
        path.write_text("a text file")
    elif kind == "single":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "corrupt":
        path.write_bytes(whole[:100] + bytes(20) + whole[120:])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("missing", "no such file or folder; check the path"),
        ("text", "not an image, or damaged at its start; give a PNG or JPEG file"),
        ("single", "1x1: too small; at least 16 pixels on each side"),
        ("truncated", "damaged .*; give a complete image file"),
        ("corrupt", "damaged .*; give a complete image file"),
        ("empty", "not an image, or damaged at its start; give a PNG or JPEG file"),
        ("folder", "no images in this folder; give one with .*.jpeg, .*.png"),
    ],
)
def test_a_bad_image(cli, out, tmp_path, image, kind, what):
    path = bad_png(tmp_path, image, kind)
    run = cli(images=[image, path])
    assert run.code == 2 and run.out == [] and not out.exists()
    assert re.match(f"{re.escape(str(path))}: {what}", run.error)


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ("--nonsense=3", "unrecognized arguments: --nonsense=3"),
        ("--SVD.frames=3", "unrecognized arguments: --SVD.frames=3"),
        ("--SVD.num_frames=many", '"SVD.num_frames".*Got value: many'),
        ("--SVD.fps=7.5", '"SVD.fps".*Got value: 7.5'),
        ("--SVD.sigma_max=inf", '"SVD.sigma_max".*Got value: inf'),
        ("--SVD.guidance=much", '"SVD.guidance".*Given value: much'),
        ("--SVD.sampler=ddim", "\"SVD.sampler\".*'euler', 'heun', 'dpmpp_2m'.*Got value: ddim"),
        ("--seed=x", '"seed".*x'),
        ("--seed=-1", '"seed".*-1'),
        ("--mode=2", '"mode".*0, 1.*Got value: 2'),
        ("--resize=stretch", "--resize: invalid choice: 'stretch' .*crop.*pad.*fit"),
        ("--format avi", "--format: invalid choice: 'avi' .*mp4.*gif.*png"),
        ("--device_target=TPU", "--device_target: invalid choice: 'TPU' .*auto.*Ascend.*GPU.*CPU"),
        ("--SVD.amp_level=O1", "--SVD.amp_level: invalid choice: 'O1' .*auto.*O0.*O2"),
        ("--SVD.num_frames=0", r"num_frames must be at least 2 \(a video\), got 0"),
        ("--SVD.num_frames=1", r"num_frames must be at least 2 \(a video\), got 1"),
        ("--SVD.num_frames=-5", r"num_frames must be at least 2 \(a video\), got -5"),
        ("--SVD.height=18", "height and width must be multiples of 4, got 18 x 24"),
        ("--SVD.width=-24", "width must be positive, got -24"),
        ("--SVD.sampling_steps=-3", "sampling_steps must be positive, got -3"),
        ("--SVD.fps=0", "fps must be positive, got 0"),
        ("--SVD.guidance=[1,2,3]", "guidance takes two numbers, the smallest and the largest scale"),
        ("--SVD.churn=1 --SVD.sampler=dpmpp_2m", "churn is for the samplers euler and heun, got dpmpp_2m"),
        ("--SVD.guidance=1e30", r"guidance must be at most 1000, got 1e\+30"),
        ("--SVD.motion_bucket_id=1e300", r"motion_bucket_id must be at most 10000, got 1e\+300"),
        ("--SVD.fps=1000000", "fps must be at most 1000, got 1000000"),
        ("--SVD.churn=nan", '"SVD.churn".*nan'),
        (f"--SVD.fps={'9' * 400}", "fps must be (positive, got 9|at most 1000, got a number of 400 digits)"),
        (f"--seed={2**64}", r"--seed must be below 2\^64"),
        (
            "--SVD.decode_chunk_size=2 --SVD.decode_overlap=2",
            "decode_overlap 2 must be smaller than decode_chunk_size 2",
        ),
        ("--SVD.decode_chunk_size=2 --SVD.decode_memory_gb=1", "decode_memory_gb is what .* chosen from: give one"),
        ("--SVD.window=3 --SVD.window_overlap=2", r"window_overlap 2 must be smaller than what window 3 has beside"),
        ("--SVD.renoise=1 --SVD.sampler=dpmpp_2m", "renoise is for the samplers euler and heun, got dpmpp_2m"),
        ("--SVD.fusion=linear", r"fusion is for videos between two images: give .* \(--SVD.fusion\)"),
        ("--SVD.reversal=a.safetensors", r"reversal is for videos between two images: give .* \(--SVD.reversal\)"),
        (
            "--last_image a.png --SVD.num_frames=6 --SVD.window=3",
            r"a video between two images is drawn at once: .* \(--SVD.window\)",
        ),
        ("--last_image nowhere.png", "nowhere.png: no such file or folder; check the path"),
        ("--SVD.lora_scale=0.5", "--SVD.lora_scale is for the adapters of --SVD.lora, and none are given"),
        ("--compile_cache=kept --mode=1", "--compile_cache keeps compiled graphs, and --mode=1 compiles none"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
    ],
    ids=str,
)
def test_a_bad_flag(cli, out, flags, what):
    """Told before anything is loaded."""
    run = cli(*flags.split())
    assert run.code == 2 and run.out == [] and not out.exists()
    assert re.search(what, run.error), run.error
    assert not any(line.startswith("loaded") for line in run.err)


def test_no_image_and_no_checkpoint(cli, out):
    no_weights = "--SVD.checkpoint is missing: the weights, as svd_tools/convert.py writes them"
    for flags, arguments, what in (
        ([], {"images": ()}, "--image is missing: an image file, a folder, or several of both"),
        (["--SVD.config=configs/svd.yaml"], {"checkpoint": None}, no_weights),
        ([], {"checkpoint": ""}, no_weights),
    ):
        run = cli(*flags, **arguments)
        assert run.code == 2 and run.error == what and not out.exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sampling: {num_frame: 3}", "sampling.num_frame: .*; known here: num_frames, height, width, fps, "),
        ("samplin: {}", "samplin: .*; known here: unet, autoencoder, image_encoder, preconditioning, sampling"),
        ("sampling: {fps: fast}", "sampling.fps: Value 'fast' of type 'str' could not be converted to Integer"),
        ("sampling: {num_frames: 1}", "num_frames must be at least 2"),
        ("trained_range: {fps: [3]}", "trained_range.fps takes two numbers"),
        ("unet: {model_channels: 48}", "unet: the 48 channels of a level are not a multiple of 32"),
        ("a: [1\nb: {", "is not valid YAML"),
        ("- a", "is not a mapping of names to values"),
        ("base: nowhere.yaml", "nowhere.yaml is no file; the published models are in configs/"),
        (None, "is no file; the published models are in configs/"),
    ],
    ids=str,
)
def test_a_bad_config(cli, out, tmp_path, text, what):
    path = tmp_path / "model.yaml"
    if text is not None:
        path.write_text(text)
    run = cli(f"--SVD.config={path}")
    assert run.code == 2 and run.out == [] and not out.exists()
    assert run.error.startswith(f"config {tmp_path}") and re.search(what, run.error), run.error


def test_a_bad_file_of_options(cli, out, tmp_path):
    path = tmp_path / "options.yaml"
    for text, what in (("nonsense: 3", "nonsense"), ("a: [1\nb: {", "parsing"), ("SVD: {num_frames: x}", "num_frames")):
        path.write_text(text)
        run = cli(f"--config={path}")
        assert run.code == 2 and what in run.error and not out.exists()


NAME = "network.time_embedding.linear_1.weight"


def bad_checkpoint(tmp_path: Path, kind: str) -> Path:
    path, tensors = tmp_path / f"{kind}.safetensors", small_tensors()
    if kind in ("nan", "inf"):
        write_checkpoint(path, damaged(NAME, float(kind)))
    elif kind == "incomplete":
        write_checkpoint(path, {name: value for name, value in tensors.items() if name != NAME})
    elif kind == "truncated":
        whole = write_checkpoint(path, tensors).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        path = path.with_suffix(".ckpt")
        path.write_bytes(b"\x80\x02}q\x00.")
    elif kind == "unnamed":
        write_checkpoint(path, tensors, config=None)
    return path


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("missing", "does not exist: check the path"),
        ("truncated", "is not a complete safetensors file .*: copy it again"),
        ("text", "is not a complete safetensors file .*: copy it again"),
        ("folder", "has to be converted first: python svd_tools/convert.py --pt_weights_file .* --config CONFIG"),
        ("pickle", "has to be converted first: python svd_tools/convert.py --pt_weights_file .* --config CONFIG"),
        ("nan", rf"{NAME} holds values that are not finite \(NaN or infinity\)"),
        ("inf", rf"{NAME} holds values that are not finite \(NaN or infinity\)"),
        ("incomplete", rf"is of another model than the configuration: 1 names missing \({NAME}\)"),
        ("unnamed", r"holds no configuration: say which \(--SVD.config\)$"),
    ],
)
def test_a_bad_checkpoint(cli, out, tmp_path, kind, what):
    path = bad_checkpoint(tmp_path, kind)
    run = cli(checkpoint=path)
    assert run.code == 2 and run.out == [] and not out.exists()
    assert str(path) in run.error and re.search(what, run.error), run.error


def test_a_checkpoint_of_another_model(cli, out, small, tmp_path):
    config = tmp_path / "wide.yaml"
    config.write_text(f"base: {small / 'small.yaml'}\nunet: {{model_channels: 64}}\n")
    run = cli(f"--SVD.config={config}")
    assert run.code == 2 and not out.exists()
    assert re.search(r"another model than the configuration: \d+ of another shape \(network.time_embedding.linear_1."
                     r"weight \[128, 32\] instead of \[256, 64\], ", run.error)  # fmt: skip


@pytest.mark.parametrize("with_config", [False, True])
def test_a_checkpoint_as_published_is_to_be_converted(cli, out, golden_source, golden_config, with_config):
    """Told with the command that does it."""
    flags = [f"--SVD.config={golden_config}"] if with_config else []
    run = cli(*flags, checkpoint=golden_source)
    assert run.code == 2 and not out.exists()
    assert run.error == (
        f"{golden_source} has to be converted first: python svd_tools/convert.py --pt_weights_file {golden_source} "
        "--config CONFIG --out_dir DIR"
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing.npz", r"cannot be read as an .npz file \(.*No such file.*\): write one with numpy.savez\("),
        ("folder.npz", r"cannot be read as an .npz file \(.*directory.*\): write one with numpy.savez\("),
        ("text.npz", r"cannot be read as an .npz file \(.*\): write one with numpy.savez\("),
        ("array.npy", r"cannot be read as an .npz file \(.*\): write one with numpy.savez\("),
        ("truncated.npz", r"cannot be read as an .npz file \(.*\): write one with numpy.savez\("),
        ("objects.npz", r"noise holds values of type object; write one with numpy.savez\("),
        ("other.npz", "holds neither `noise` nor `aug_noise`: write one with numpy.savez"),
        ("shape.npz", r"noise must be of shape \[1, 3, 4, 8, 12\], got \[3, 4, 8, 12\]"),
    ],
)
def test_bad_noise(cli, out, tmp_path, name, what):
    path = tmp_path / name
    if name == "folder.npz":
        path.mkdir()
    elif name == "text.npz":
        path.write_text("no zip")
    elif name == "array.npy":
        np.save(path, np.zeros(3))
    elif name == "objects.npz":
        np.savez(path, noise=np.array([{}], dtype=object))
    elif name == "other.npz":
        np.savez(path, sound=np.zeros(3))
    elif name != "missing.npz":
        np.savez(path, noise=np.zeros((3, 4, 8, 12)))
    if name == "truncated.npz":
        path.write_bytes(path.read_bytes()[:200])
    run = cli(f"--noise={path}")
    assert run.code == 2 and run.out == [] and not out.exists()
    assert re.search(what, run.error), run.error
    assert not any(line.startswith("loaded") for line in run.err)


@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_a_device_that_is_not_here(cli, out, device):
    run = cli(f"--device_target={device}")
    assert run.code == 2 and not out.exists()
    assert re.match(rf"MindSpore cannot use {device} .*: .*, or use the CPU \(--device_target\)$", run.error)
    assert cli("--format", "gif", "--device_target=CPU").code == 0, "and the process goes on"


# --- a disk that refuses ---


def test_a_folder_to_write_to_that_is_a_file(cli, tmp_path):
    """Told before anything is loaded, and nothing of the file is lost."""
    path = tmp_path / "file"
    path.write_text("precious")
    for folder in (path, path / "below"):
        run = cli(f"--output_dir={folder}")
        assert run.code == 2
        assert run.error == f"--output_dir {folder}: {path} is a file; choose another folder"
    assert path.read_text() == "precious"


def test_a_folder_that_may_not_be_written_to(cli, out, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs the tests may write anywhere
    run = cli()
    assert run.code == 2 and not out.exists()
    assert run.error == f"--output_dir {out}: {out.parent} may not be written to; choose another folder"


@pytest.mark.parametrize("writer", ["_write_mp4", "_write_gif"])
def test_no_space_left_for_a_video(cli, out, monkeypatch, writer):
    """The formats written before it are kept."""

    def full(path, frames, fps):
        path.write_bytes(b"half a video")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(videos, writer, full)
    run = cli("--format", "png", "gif", "mp4")
    assert run.code == 2 and run.out == []
    assert files(out) == {"photo_seed0_frames"} | ({"photo_seed0.gif"} if writer == "_write_mp4" else set())
    assert run.err[-1] == (
        f"image_to_video.py: error: --output_dir {out}: [Errno 28] No space left on device; make room there, or choose "
        "another folder"
    )


def test_no_space_left_for_the_side_file(cli, out, monkeypatch):
    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    run = cli("--format", "png", "gif")
    assert run.code == 2 and files(out) == {"photo_seed0_frames", "photo_seed0.gif"}
    assert run.err[-1].startswith(f"image_to_video.py: error: --output_dir {out}: [Errno 28] No space left on device")


def test_a_run_that_fails_leaves_earlier_videos_alone(cli, out, monkeypatch):
    assert cli("--format", "gif").code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(path, frames, fps):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(videos, "_write_gif", full)
    assert cli("--format", "gif").code == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def broken_pipeline(error: BaseException):
    def pipeline(*_, **__):
        raise error

    return lambda *_, **__: pipeline


def test_values_that_are_not_finite_are_told_of_with_the_remedy(cli, out, kept_pipelines, monkeypatch):
    """A network that overflows, as float16 may."""
    load = build.load_pipeline

    def load_overflowing(*arguments, **others):
        pipe = load(*arguments, **others)
        pipe.denoiser = copy(pipe.denoiser)
        pipe.denoiser.bind = lambda conditioning, image_only, reuse: lambda x, sigma: x * float("nan")
        return pipe

    monkeypatch.setattr(build, "load_pipeline", load_overflowing)
    run = cli()
    assert run.code == 2 and run.out == [] and not out.exists()
    assert run.err[-1] == (
        "image_to_video.py: error: the network returned values that are not finite: try amp_level O0 (--SVD.amp_level)"
    )


def test_an_interruption_is_said_and_leaves_nothing(cli, out, monkeypatch):
    monkeypatch.setattr(build, "load_pipeline", broken_pipeline(KeyboardInterrupt()))
    run = cli()
    assert run.code == 130 and run.out == [] and not out.exists()
    assert run.err[-1] == "image_to_video.py: interrupted"


def test_a_fault_of_the_program_keeps_its_traceback(cli, monkeypatch):
    """Only what the user can do something about is put in one line."""
    monkeypatch.setattr(build, "load_pipeline", broken_pipeline(ZeroDivisionError("a fault")))
    with pytest.raises(ZeroDivisionError):
        cli()


def test_the_six_published_configs_are_what_the_command_line_takes(cli, image):
    """Read and merged with the flags, up to the weights, which are not here."""
    for path in sorted((ROOT / "configs").glob("svd*.yaml")):
        if path.stem == "svd_train":
            continue
        argv = [f"--SVD.config={path}", "--SVD.checkpoint=weights.safetensors", f"--image={image}", "--SVD.fps=8"]
        args = parse(image_to_video.build_parser("program"), argv)
        model, sampling = image_to_video.resolve(args)
        assert model == load_config(path)
        assert sampling == replace(model.sampling, fps=8)
        assert args.SVD.num_frames == model.sampling.num_frames
