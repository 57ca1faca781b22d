"""scripts/setup_gpu.sh, with packages and a Python that only look like the real ones."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/setup_gpu.sh"
SETUP = """
echo "$1" > wanted
mkdir -p .venv/bin
[ -e .venv/bin/activate ] || echo 'export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"' > .venv/bin/activate
"""
PYTHON = """#!/bin/sh
case "$2" in
*sysconfig*) echo {packages} ;;
*) "$CUDA_HOME/bin/nvcc" --version && [ -e "$CUDA_HOME/lib64/libcudnn.so.8" ] && [ "$DRIVER" = there ] || exit 1 ;;
esac
"""


@pytest.fixture
def project(tmp_path) -> Path:
    for package, library in (("cuda_runtime", "libcudart.so.11.0"), ("cudnn", "libcudnn.so.8")):
        folder = tmp_path / f"site/nvidia/{package}/lib"
        folder.mkdir(parents=True)
        (folder / library).write_text(library)
    project = tmp_path / "my project"
    (project / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, project / "scripts")
    (project / "scripts/setup.sh").write_text(SETUP)
    (project / ".venv/bin").mkdir(parents=True)
    python = project / ".venv/bin/python"
    python.write_text(PYTHON.format(packages=tmp_path / "site"))
    python.chmod(0o755)
    return project


def run(project: Path, *arguments: str, driver: str = "there") -> subprocess.CompletedProcess:
    environment = {**os.environ, "DRIVER": driver, "LD_LIBRARY_PATH": "/opt/before"}
    command = ["bash", project / "scripts/setup_gpu.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=project.parent)


def test_mindspore_is_shown_what_it_looks_for(project):
    done = run(project, "test,parity")
    assert done.returncode == 0, done.stderr
    assert (project / "wanted").read_text() == "gpu,test,parity\n"
    cuda = project / ".venv/cuda"
    told = subprocess.run([cuda / "bin/nvcc", "--version"], capture_output=True, text=True).stdout
    assert "release 11.6," in told
    assert (cuda / "lib64/libcudnn.so.8").read_text() == "libcudnn.so.8"
    assert (cuda / "lib64/libcudart.so.11.6.55").read_text() == "libcudart.so.11.0"


def test_the_environment_is_activated_with_it_once(project):
    assert run(project).returncode == run(project).returncode == 0
    show = 'source .venv/bin/activate; echo "$CUDA_HOME:$LD_LIBRARY_PATH"'
    environment = {**os.environ, "LD_LIBRARY_PATH": "/opt/before"}
    shown = subprocess.run(["bash", "-c", show], env=environment, capture_output=True, text=True, cwd=project).stdout
    cuda = project / ".venv/cuda"
    assert shown == f"{cuda}:{cuda}/lib64:/opt/before\n"


def test_without_a_gpu_it_says_so(project):
    done = run(project, driver="missing")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "MindSpore cannot use a GPU here" in done.stderr and "nvidia-smi" in done.stderr
