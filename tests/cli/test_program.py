"""What all programs share: an error says the flag by which this program is given the setting that it is about."""

import importlib
import pickle

import pytest
from jsonargparse import ArgumentParser

from svd import cli
from svd.errors import NumericalError, UserError
from svd.files import FileError
from svd_tools.image_to_video import build_parser

FLAGS = {
    "svd_tools.image_to_video": {
        "amp_level": "--SVD.amp_level",
        "svd_config": "--SVD.config",
        "device_target": "--device_target",
        "lora": "--SVD.lora",
    },
    "svd_tools.train": {
        "amp_level": "--environment.amp_level",
        "svd_config": "--svd_config",
        "device_target": "--environment.device_target",
        "train.lora.rank": "--train.lora.rank",
        "rank": "--train.lora.rank",
        "decode_chunk_size": "",
        "lora": "",
    },
    "svd_tools.convert": {"out_dir": "--out_dir", "amp_level": ""},
}


@pytest.mark.parametrize("program", FLAGS)
def test_the_flag_of_a_setting(program):
    parser = importlib.import_module(program).build_parser("program")
    assert {setting: cli.flag_of(setting, parser) for setting in FLAGS[program]} == FLAGS[program]


def test_a_setting_that_several_flags_end_with_has_none():
    parser = ArgumentParser()
    for name in ("--a.seed", "--b.seed", "--a.size"):
        parser.add_argument(name, type=int)
    assert (cli.flag_of("seed", parser), cli.flag_of("a.seed", parser), cli.flag_of("size", parser)) == (
        "", "--a.seed", "--a.size"
    )  # fmt: skip


@pytest.mark.parametrize("kind", [UserError, NumericalError, FileError])
def test_errors_are_said_in_one_line_with_the_flag(kind, capsys):
    def work(args):
        raise kind("amp_level bf16 is\nfor Ascend", setting="amp_level")

    assert cli.run(build_parser("program"), work, []) == 2
    assert capsys.readouterr().err == "program: error: amp_level bf16 is for Ascend (--SVD.amp_level)\n"
    assert cli.run(ArgumentParser(prog="program"), work, []) == 2
    assert capsys.readouterr().err == "program: error: amp_level bf16 is for Ascend\n"


def test_errors_cross_processes_with_their_setting():
    error = pickle.loads(pickle.dumps(FileError("full", setting="out")))
    assert (str(error), error.setting) == ("full", "out")
