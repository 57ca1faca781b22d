"""Versions, devices and the processor: what is set before MindSpore is imported, and what users are told."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Tensor

from svd import runtime
from svd.runtime import RuntimeSetupError

ROOT = Path(__file__).parents[1]
VARIABLE = "ONEDNN_MAX_CPU_ISA"
CPUINFO = Path("/proc/cpuinfo")
INSTALLED = tuple(int(part) for part in ms.__version__.split(".")[:2])
HAS_AVX512 = CPUINFO.is_file() and "avx512f" in CPUINFO.read_text()


@pytest.fixture
def install(monkeypatch):
    """Pretend that packages are installed in other versions; None stands for not at all."""

    def pretend(**versions: str | None) -> None:
        def version(package: str) -> str:
            found = {"mindspore": "2.8.0", "numpy": "1.26.4", **versions}[package]
            if found is None:
                raise importlib.metadata.PackageNotFoundError(package)
            return found

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """A file that describes a processor with these flags, for a MindSpore that is not imported yet."""
    monkeypatch.setenv(VARIABLE, "restored afterwards")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delitem(sys.modules, "mindspore")

    def describe(flags: str) -> Path:
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\n")
        return path

    return describe


@pytest.fixture
def keep_mode():
    before = ms.get_context("mode")
    yield
    ms.set_context(mode=before)


def assert_one_sentence(error: RuntimeSetupError, *parts: str) -> None:
    """The message is one line and names these."""
    message = str(error)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Versions.


def test_the_installed_versions_fit():
    runtime.check_versions()


@pytest.mark.parametrize("mindspore", ["2.7.0", "2.7.1", "2.8.0", "2.9.0", "2.10.0", "2.10.1rc1"])
@pytest.mark.parametrize("numpy", ["1.25.2", "1.26.4"])
def test_supported_versions_pass(install, mindspore, numpy):
    install(mindspore=mindspore, numpy=numpy)
    runtime.check_versions()


@pytest.mark.parametrize(
    "versions, parts",
    [
        ({"mindspore": "2.6.0"}, ["MindSpore 2.6 is not supported", "pip install 'mindspore>=2.7,"]),
        ({"mindspore": "1.10.1"}, ["MindSpore 1.10 is not supported", "pip install"]),
        ({"mindspore": "2.11.0"}, ["MindSpore 2.11 is not supported", "pip install"]),
        ({"mindspore": "3.0.0"}, ["MindSpore 3.0 is not supported", "pip install"]),
        ({"mindspore": None}, ["MindSpore is not installed", "pip install 'mindspore>=2.7,"]),
        ({"numpy": "2.1.0"}, ["NumPy 2", "pip install 'numpy<2'"]),
    ],
)
def test_other_versions_are_refused_with_a_remedy(install, versions, parts):
    install(**versions)
    with pytest.raises(RuntimeSetupError) as caught:
        runtime.check_versions()
    assert_one_sentence(caught.value, *parts)
    with pytest.raises(RuntimeSetupError):
        runtime.setup("CPU")


# The slow convolution.


@pytest.mark.parametrize("version", ["2.7.1", "2.8.0", "2.9.0", "2.10.0", "2.11.0"])
@pytest.mark.parametrize("flags", ["avx2", "avx2 avx512f avx512bw"])
def test_convolutions_are_cured_where_version_and_processor_call_for_it(install, processor, capsys, version, flags):
    install(mindspore=version)
    expected = version in ("2.9.0", "2.10.0") and "avx512f" in flags
    assert runtime.avoid_slow_convolution(processor(flags)) == expected
    assert os.environ.get(VARIABLE) == ("AVX2" if expected else None)
    assert ("ONEDNN_MAX_CPU_ISA=AVX2" in capsys.readouterr().err) == expected


def test_the_cure_is_said_once(install, processor, capsys):
    install(mindspore="2.10.0")
    path = processor("avx512f")
    assert runtime.avoid_slow_convolution(path)
    assert not runtime.avoid_slow_convolution(path)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1


def test_what_the_user_has_set_is_kept(install, processor, monkeypatch, capsys):
    install(mindspore="2.10.0")
    monkeypatch.setenv(VARIABLE, "AVX512_CORE")
    assert not runtime.avoid_slow_convolution(processor("avx512f"))
    assert os.environ[VARIABLE] == "AVX512_CORE"
    assert capsys.readouterr().err == ""


def test_after_the_import_of_mindspore_there_is_a_warning_instead(install, processor, monkeypatch):
    install(mindspore="2.10.0")
    monkeypatch.setitem(sys.modules, "mindspore", ms)
    with pytest.warns(UserWarning, match="import svd first"):
        assert not runtime.avoid_slow_convolution(processor("avx512f"))
    assert VARIABLE not in os.environ


def test_without_a_description_of_the_processor_nothing_is_set(install, processor, tmp_path):
    install(mindspore="2.10.0")
    assert not runtime.avoid_slow_convolution(tmp_path / "missing")
    assert VARIABLE not in os.environ


def test_importing_svd_cures_this_machine_if_it_has_to():
    """In a process of its own: importing svd sets the variable where needed, before and without MindSpore."""
    code = f"import os, sys, svd; print(os.environ.get('{VARIABLE}'), 'mindspore' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    needed = (2, 9) <= INSTALLED <= (2, 10) and HAS_AVX512
    assert done.stdout.split() == ["AVX2" if needed else "None", "False"]
    assert ("svd: set ONEDNN_MAX_CPU_ISA" in done.stderr) == needed


# Devices.


@pytest.mark.parametrize("mode", [0, 1])
def test_auto_takes_the_best_device_that_is_there(keep_mode, mode):
    assert runtime.setup("auto", mode) == runtime.available_device() == ms.get_context("device_target")
    assert ms.get_context("mode") == mode


def test_setup_may_be_repeated_after_operators_have_run(keep_mode):
    device = runtime.setup("auto", 1)
    assert (Tensor(np.ones(2, np.float32)) + 1).asnumpy().tolist() == [2, 2]
    assert runtime.setup(device, 0) == runtime.setup("auto", 1) == device


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ({"device_target": "TPU"}, ["device_target", "Ascend, GPU, CPU", "TPU"]),
        ({"device_target": "cpu"}, ["device_target", "cpu"]),
        ({"mode": 7}, ["mode must be 0 (graph) or 1 (pynative)", "7"]),
    ],
)
def test_unknown_devices_and_modes_are_refused(keep_mode, arguments, parts):
    before = ms.get_context("mode")
    with pytest.raises(RuntimeSetupError) as caught:
        runtime.setup(**arguments)
    assert_one_sentence(caught.value, *parts)
    assert ms.get_context("mode") == before


@pytest.mark.parametrize("device, remedy", [("Ascend", "CANN"), ("GPU", "CUDA")])
def test_a_device_that_is_not_there_is_refused_with_a_remedy(device, remedy):
    if runtime.available_device() != "CPU":
        pytest.skip("there is an accelerator")
    with pytest.raises(RuntimeSetupError) as caught:
        runtime.setup(device)
    assert_one_sentence(caught.value, f"MindSpore cannot use {device}", remedy, "use the CPU")
    assert caught.value.setting == "device_target"
    assert runtime.setup("auto") == "CPU"


def test_a_device_that_cannot_be_changed_any_more(monkeypatch):
    def refuse(device: str) -> None:
        raise RuntimeError("The runtime has been initialized.\nCall stack: ...")

    monkeypatch.setattr(ms, "get_context", {"device_target": "Ascend"}.get)
    monkeypatch.setattr(ms, "set_device", refuse)
    with pytest.raises(RuntimeSetupError) as caught:
        runtime.setup("CPU")
    assert_one_sentence(caught.value, "The runtime has been initialized", "start a new process")


def test_free_memory_of_the_host():
    free = runtime.free_memory("CPU")
    assert 10**8 < free <= psutil.virtual_memory().total


def test_memory_of_an_accelerator(monkeypatch):
    """Free is what no tensor has, also where MindSpore's pool has reserved it; used is the most that tensors had."""

    class Properties:
        total_memory = 64 * 10**9

    monkeypatch.setattr(ms.hal, "get_device_properties", {0: Properties}.get)
    for name, gigabytes in {"memory_reserved": 31, "memory_allocated": 24, "max_memory_allocated": 29}.items():
        monkeypatch.setattr(ms.runtime, name, lambda n=gigabytes: n * 10**9)
    assert runtime.free_memory("Ascend") == 40 * 10**9
    assert runtime.peak_memory("Ascend") == 29 * 10**9


def test_describe_names_the_device_the_mode_and_versions():
    description = runtime.describe(0)
    assert description["device"] == ms.get_context("device_target")
    assert "graph" in description["mode"] and "pynative" in runtime.describe(1)["mode"]
    assert description["mindspore"] == ms.__version__
    assert description["numpy"] == np.__version__
