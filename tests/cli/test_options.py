"""Options from a file, of both programs: whatever is in it, they are used or refused in one line, at once."""

import os

import jsonargparse
import pytest
from jsonargparse import ArgumentError
from test_yaml_files import REFUSED

from svd.cli import options
from svd.errors import UserError
from svd_tools import image_to_video, train

SECTIONS = {
    image_to_video: ["SVD"],
    train: [
        "environment",
        "train",
        "train.consistency",
        "train.dataset",
        "train.loss",
        "train.lora",
        "train.optimizer",
        "train.preview",
    ],
}
PROGRAMS = pytest.mark.parametrize("program", SECTIONS, ids=lambda program: program.__name__)


def refusal(program, path) -> str:
    with pytest.raises((UserError, ArgumentError)) as error:
        options.parse(program.build_parser("program"), [f"--config={path}"])
    return " ".join(str(error.value).split())


@PROGRAMS
def test_yaml_that_may_not_be_loaded(program, tmp_path):
    path = tmp_path / "options.yaml"
    for text, what in REFUSED.values():
        path.write_text(text)
        said = refusal(program, path)
        assert said.startswith(f"--config {path} is no YAML that can be used: "), what


@PROGRAMS
@pytest.mark.parametrize(("value", "shown"), [("[1, 2]", "[1, 2]"), ("word", "'word'"), ("5", "5")])
def test_something_else_in_the_place_of_a_section(program, tmp_path, value, shown):
    path = tmp_path / "options.yaml"
    for section in SECTIONS[program]:
        *outer, last = section.split(".")
        indents = "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(outer))
        path.write_text(f"{indents}{'  ' * len(outer)}{last}: {value}\n")
        said = refusal(program, path)
        assert said == f"--config {path}: {section} is {shown}; it takes names and values, or is left out"


@PROGRAMS
def test_roots_and_files_that_are_no_options(program, tmp_path):
    path = tmp_path / "options.yaml"
    for text in ("", "- a", "word", "5"):
        path.write_text(text)
        assert refusal(program, path) == f"--config {path} is not a mapping of options to values"
    path.write_text("config: options.yaml")
    assert "loop" in refusal(program, path)
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "no ordinary file" in refusal(program, tmp_path / "pipe.yaml")
    assert "nowhere.yaml" in refusal(program, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("image: 5", "image is 5; it takes a list, or is left out"),
        ("image: photo.png", "image is 'photo.png'; it takes a list"),
        ("image: {a: 1}", "image is {'a': 1}; it takes a list"),
        ("format: mp4", "format is 'mp4'; it takes a list"),
        ("image: [null]", '"image"'),
        ("image: [[a]]", '"image"'),
        ("output_dir: 5", '"output_dir"'),
        ("seed: 1e400", '"seed"'),
        ("seed: '[[[[[['", '"seed"'),
        ("SVD: {fps: .nan}", '"SVD.fps"'),
        ("SVD: {guidance: {a: 1}}", '"SVD.guidance"'),
    ],
)
def test_values_of_another_form(tmp_path, text, what):
    (tmp_path / "options.yaml").write_text(text)
    assert what in refusal(image_to_video, tmp_path / "options.yaml")


def test_options_in_a_file_and_on_the_command_line(tmp_path):
    (tmp_path / "options.yaml").write_text("seed: 5\nimage: [a.png, b.png]\nSVD: {fps: 9, guidance: 3}\n")
    args = options.parse(image_to_video.build_parser("program"), [f"--config={tmp_path / 'options.yaml'}", "--seed=6"])
    assert (args.seed, args.image, args.SVD.fps, args.SVD.guidance) == (6, ["a.png", "b.png"], 9, 3.0)
    args = options.parse(image_to_video.build_parser("program"), ["--config={seed: 7}"])
    assert args.seed == 7


@PROGRAMS
def test_a_file_of_sections_that_are_all_empty(program, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("".join(f"{section.split('.')[0]}:\n" for section in SECTIONS[program][:1]))
    parser = program.build_parser("program")
    assert options.parse(parser, [f"--config={path}"]) == options.parse(parser, [])


def test_yaml_is_bounded_once():
    image_to_video.build_parser("program")
    loader = jsonargparse.get_loader("yaml")
    train.build_parser("program")
    assert jsonargparse.get_loader("yaml") is loader


@PROGRAMS
def test_every_flag_is_explained(program):
    """By a sentence or more of its own; those of a section, and what jsonargparse adds, aside."""
    sections = {f"--{section}" for section in SECTIONS[program]} - {"--train.dataset"}
    theirs = sections | {"--help", "--print_config", "--train.dataset.help"}
    helps = {action.option_strings[-1]: action.help or "" for action in program.build_parser("program")._actions}
    helps = {flag: help for flag, help in helps.items() if flag not in theirs}
    assert len(helps) > 30
    unclear = [flag for flag, help in helps.items() if not help.endswith(".") or len(help.split()) < 3]
    assert unclear == []
    assert len(set(helps.values())) == len(helps), "each has its own"


@pytest.mark.parametrize("mode", [0, 1])
def test_files_that_name_no_compile_cache_are_still_read(mode):
    """As versions wrote them that had none by default."""
    parser = options.new_parser("program", "What it does.", "File of these options.")
    options.add_device(parser)
    options.add_compile_cache(parser)
    options.check_compile_cache(parser.parse_args(["--compile_cache=null", f"--mode={mode}"]))
