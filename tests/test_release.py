"""A release: what `python -m build` makes of the sources, used outside of them."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from device import DEVICE

ROOT = Path(__file__).parents[1]
NOT_SOURCES = (".git", ".venv", ".*_cache", "__pycache__", "build", "dist", "outputs", "*.egg-info")


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder with the archive and the wheel, which is built from the archive."""
    source = tmp_path_factory.mktemp("release") / "source"
    unwanted = shutil.ignore_patterns(*NOT_SOURCES)
    # models/ of the root is for what users convert; svd/models is a room
    shutil.copytree(ROOT, source, ignore=lambda *at: unwanted(*at) | ({"models"} if at[0] == str(ROOT) else set()))
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-m", "build", "--no-isolation"],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deprecat" not in (done.stdout + done.stderr).lower()
    return source / "dist"


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory) -> Path:
    """The folder that the wheel is installed to."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", "--target", folder]
    subprocess.run([*command, *dist.glob("*.whl")], check=True)
    return folder


@pytest.fixture
def command(installed, tmp_path):
    """Run a command of the release in an empty folder, with no other svd to be found."""

    def run(name: str, *arguments) -> subprocess.CompletedProcess:
        program = [installed / "bin" / name] if name != "python" else [sys.executable]
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        done = subprocess.run([*program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_archive(dist):
    """What a distributor needs: the tests, the scripts and the licence."""
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"LICENSE", "train.py", "tests/test_release.py", "tests/conftest.py", "scripts/test.sh", "docs/digits.md"}
    assert wanted <= names and not any(name.endswith(".pyc") for name in names)


def test_files_of_the_wheel(installed, command):
    assert {path.name for path in installed.iterdir() if "." not in path.name} == {
        "bin",
        "svd",
        "svd_tools",
    }
    for folder, pattern in (("configs", "**/*.yaml"), ("assets/digits", "*"), ("tests/golden", "*")):
        assert [p.relative_to(ROOT) for p in files(ROOT / folder, pattern)] == [
            p.relative_to(installed / "svd") for p in files(installed / "svd" / folder, pattern)
        ]
    native = "svd/operators/kernels"
    assert [p.name for p in files(ROOT / native, "*")] == [p.name for p in files(installed / native, "*")]
    assert Path(command("python", "-c", "import svd; print(svd.__file__)").stdout).parents[1] == installed


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file() and path.suffix != ".pyc")


def test_video_of_the_model_that_comes_with_it(command, tmp_path):
    shutil.copy(ROOT / "assets/three.png", tmp_path)
    options = ["--SVD.sampling_steps=1", "--SVD.num_frames=2", "--mode=1", "--format=gif", f"--device_target={DEVICE}"]
    done = command("svd-image-to-video", "--image=three.png", *options)
    assert done.stdout.splitlines()[0] == "outputs/three_seed0.gif"
    assert "using model.safetensors of moving digits" in done.stderr
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["three_seed0.gif", "three_seed0.yaml"]


def test_configurations_are_found_by_their_names_in_the_project(command):
    printed = command("svd-train", "--config=configs/svd_train.yaml", "--svd_config=configs/svd.yaml", "--print_config")
    written = yaml.safe_load((ROOT / "configs/svd_train.yaml").read_text())
    assert yaml.safe_load(printed.stdout)["train"]["updates"] == written["train"]["updates"]
    load = "from svd.config import load_config; print(load_config('configs/svd_xt.yaml').sampling.num_frames)"
    assert command("python", "-c", load).stdout == "25\n"


def test_the_command_of_all_programs(command):
    assert "image-to-video" in command("svd", "--help").stdout
    assert command("svd", "convert", "--help").stdout.startswith("usage: svd convert ")
    assert command("svd-convert", "--help").stdout.startswith("usage: svd-convert ")
    assert command("python", "-m", "svd", "train", "--help").stdout.startswith("usage: svd train ")


def test_a_device_can_be_checked(command, tmp_path):
    """With the golden values, which are in the wheel."""
    command("svd-check-device", "--checks", "conversion", "--mode=1", "--out=report", f"--device_target={DEVICE}")
    assert "| conversion, there and back |  | 0 | 0 | passed |" in (tmp_path / "report/report.md").read_text()
