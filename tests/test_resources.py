"""The project's own files, from wherever a program is started."""

from pathlib import Path

import pytest

from svd import resources
from svd.config import ConfigError, load_config
from svd.resources import find_file, own_file

ROOT = Path(__file__).parents[1]


def test_files_of_a_clone_are_in_its_root():
    assert own_file("configs/svd.yaml") == ROOT / "configs/svd.yaml"
    assert own_file("assets/digits/model.safetensors").is_file()


def test_files_of_an_installation_are_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "svd")
    (tmp_path / "svd/configs").mkdir(parents=True)
    (tmp_path / "svd/configs/svd.yaml").touch()
    assert own_file("configs/svd.yaml") == tmp_path / "svd/configs/svd.yaml"


def test_the_users_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file("configs/svd.yaml") == ROOT / "configs/svd.yaml"
    assert load_config("configs/svd_xt.yaml").sampling.num_frames == 25
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/svd.yaml").touch()
    assert find_file("configs/svd.yaml") == "configs/svd.yaml"


@pytest.mark.parametrize("name", ["configs/other.yaml", "nowhere/svd.yaml", "{a: 1}", "x" * 5000, "a\0b"])
def test_what_is_not_there_stays_as_it_was_given(name):
    assert find_file(name) == name


def test_a_configuration_that_is_not_there_is_told_under_its_name():
    with pytest.raises(ConfigError, match="config configs/other.yaml is no file; the published models are in configs/"):
        load_config("configs/other.yaml")
