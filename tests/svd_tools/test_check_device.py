"""The check of a device: its checks find faults, one that fails or crashes is a line of the report, nothing private."""

import getpass
import json
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from device import DEVICE
from mindspore import Tensor
from small_model import SMALL

import svd
from svd import load_pipeline
from svd_tools import check_device
from svd_tools.device_checks import environment, full_size, golden, report, worker
from svd_tools.device_checks.isolation import Found, run_group
from svd_tools.device_checks.outcome import (
    CHAIN,
    NETWORK,
    Outcome,
    Result,
    Settings,
    Skipped,
    limit_16_bits,
    relative_error,
)

ROOT = Path(__file__).parents[2]
FAULTY = """
    import os, signal, time
    from svd_tools.device_checks.outcome import Outcome, Skipped

    def broken():
        raise ValueError("no such thing in /home/somebody/secret/model.safetensors")

    def left_out():
        raise Skipped("there is one card")

    def checks(settings):
        return {
            "fine": lambda: Outcome(1e-6, 2e-5, "a note"),
            "wrong": lambda: Outcome(1e-4, 2e-5),
            "broken": broken,
            "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
            "hang": lambda: time.sleep(1000),
            "left out": left_out,
            "not a number": lambda: Outcome(float("nan"), 2e-5),
            "last": lambda: Outcome(note="1 s"),
        }
"""


LIMITS = (4, 60)
"""Seconds for a check that hangs: the second where a machine that is busy did not begin within the first."""


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Make a group of checks of this source, and run it."""

    def run(source: str, time_limit: float = 60, name: str = "checks"):
        (tmp_path / "faulty").mkdir(exist_ok=True)
        (tmp_path / f"faulty/{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        told = []
        found = run_group(Settings("CPU", 1, f"faulty.{name}"), time_limit, lambda *event: told.append(event))
        return found.results, told

    return run


def test_checks_that_fail_crash_or_hang_do_not_keep_the_others(group):
    for time_limit in LIMITS:
        results, told = group(FAULTY, time_limit)
        if [result.check for result in results if "the time limit" in result.error] == ["hang"]:
            break
    verdicts = {result.check: result.verdict for result in results}
    assert verdicts == {
        **dict.fromkeys(("fine", "last"), "passed"),
        **dict.fromkeys(("wrong", "broken", "crash", "hang", "not a number"), "failed"),
        "left out": "skipped",
    }
    found = {result.check: result for result in results}
    assert (found["fine"].difference, found["fine"].limit, found["fine"].note) == (1e-6, 2e-5, "a note")
    assert "ValueError: no such thing" in found["broken"].error and "somebody" not in found["broken"].error
    assert found["crash"].error.startswith("ended by SIGSEGV")
    assert found["hang"].error.startswith(f"ended after {time_limit} s, the time limit")
    assert [name for name, result in told if result is None] == list(verdicts), "progress: what begins"
    assert [result for _, result in told if result is not None] == results


@pytest.mark.parametrize(
    "source, error",
    [
        ("def checks(settings):\n    raise KeyError('weights')", "KeyError: 'weights'"),
        ("import os\ndef checks(settings):\n    os.abort()", "ended by SIGABRT"),
        ("import nowhere", "No module named 'nowhere'"),
    ],
)
def test_a_group_that_cannot_be_prepared_is_told_once(group, source, error):
    (result,), _ = group(source)
    assert (result.check, result.verdict) == ("preparation", "failed")
    assert error in result.error


def test_a_group_that_cannot_be_done_here(group):
    source = """
        from svd_tools.device_checks.outcome import Skipped

        def checks(settings):
            raise Skipped("too little memory")
    """
    (result,), _ = group(source)
    assert (result.verdict, result.note) == ("skipped", "too little memory")


def test_a_process_that_ends_leaves_none_behind(group):
    source = """
        import subprocess, sys
        from svd_tools.device_checks.outcome import Outcome

        def start():
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            print("child", child.pid, flush=True)
            child.wait()

        def checks(settings):
            return {"start": start}
    """
    for time_limit in LIMITS:
        (result,), _ = group(source, time_limit)
        if "child" in result.error:
            break
    pid = int(result.error.split("child ")[1].split()[0])
    status = Path(f"/proc/{pid}/stat")
    assert not status.exists() or status.read_text().split(")")[1].split()[0] == "Z"


# What is checked.


def test_limits():
    assert limit_16_bits("float16", 12) == pytest.approx(2 * 6 / 2048)
    assert limit_16_bits("bfloat16", 12) == pytest.approx(8 * limit_16_bits("float16", 12))
    assert limit_16_bits("float16", 12, chain=True) == pytest.approx(3 * limit_16_bits("float16", 12))
    assert relative_error(np.array([1.0, np.nan]), np.ones(2)) == np.inf
    with pytest.raises(ValueError, match=r"shape \[2\] instead of \[3\]"):
        relative_error(np.ones(2), np.ones(3))


@pytest.mark.parametrize("amp_level", ["O0", "O2"])
def test_a_fault_in_a_network_is_found(eager, golden_config, golden_checkpoint, amp_level):
    """Of a kind of layer: blends of space and time the other way round, convolutions without their biases."""
    pipe = load_pipeline(golden_config, golden_checkpoint, DEVICE, 1, amp_level)
    values = golden.values()
    for name, fault in (("UNet", _turn_blends), ("temporal decoder", _leave_biases_out)):
        comparison = golden.COMPARISONS[name]
        assert worker.run(SETTINGS, name, lambda c=comparison: golden.compare(pipe, values, c)).verdict == "passed"
        fault(pipe)
        assert worker.run(SETTINGS, name, lambda c=comparison: golden.compare(pipe, values, c)).verdict == "failed"


SETTINGS = Settings(DEVICE, 1, "golden", "float32")


def _turn_blends(pipe) -> None:
    for parameter in pipe.denoiser.network.get_parameters():
        if parameter.name.endswith("mix_factor"):
            parameter.set_data(-parameter)


def _leave_biases_out(pipe) -> None:
    for parameter in pipe.autoencoder.decoder.get_parameters():
        if parameter.name.endswith("conv2.bias"):
            parameter.set_data(parameter * 0)


def test_networks_of_full_size(eager, monkeypatch):
    """With a small model in their place: each network is called at each size, as far as memory and time allow."""
    monkeypatch.setattr(full_size, "load_config", lambda path: SMALL)
    monkeypatch.setattr(full_size, "CALLS", 1)
    image = SMALL.image_encoder.image_size
    for prefix, sizes in {
        "network": [(2, 16, 16), (3, 16, 24)],
        "conditioner.image_encoder": [(1, image, image)],
        "autoencoder.encoder": [(1, 16, 16)],
        "autoencoder.decoder": [(2, 16, 16)],
    }.items():
        monkeypatch.setitem(full_size.SIZES, prefix, sizes)
        checks = full_size.checks(Settings(DEVICE, 1, "full_size", prefix))
        assert len(checks) == len(sizes)
        for check in checks.values():
            outcome = check()
            assert outcome.difference is None and outcome.memory > 0 and outcome.note.startswith("first call ")


def test_what_would_not_fit_is_left_out(eager, monkeypatch):
    monkeypatch.setattr(full_size, "load_config", lambda path: SMALL)
    monkeypatch.setattr(full_size, "CALLS", 1)
    network = full_size.Network("autoencoder.encoder", DEVICE)
    network.check((1, 16, 16))
    network.largest.memory = network.base + 10**6
    monkeypatch.setattr(full_size, "_free_memory", lambda device: 10**7)
    with pytest.raises(Skipped, match="would take about 0.0 GB, and 0.0 GB are free"):
        network.check((1, 64, 64))
    with pytest.raises(Skipped, match="its weights take"):
        monkeypatch.setattr(full_size, "_free_memory", lambda device: 10**5)
        full_size.Network("autoencoder.encoder", DEVICE)
    with pytest.raises(Skipped, match="after one that failed"):
        full_size.checks(Settings(DEVICE, 1, "full_size", "network", done=("UNet, 2 x 128 x 128",)))


# The report.


def test_nothing_private_is_in_a_report(monkeypatch):
    monkeypatch.setenv("USER", "jane.doe")
    monkeypatch.setattr(platform, "node", lambda: "gpu-box-17")
    root = Path(svd.__file__).parents[1]
    text = "/home/jane.doe/models/x.safetensors on gpu-box-17, and/or 3 / 4 by jane.doe"
    found = environment.redacted(f'File "{root}/svd/build.py", line 3\n{text}')
    assert 'File "<project>/svd/build.py", line 3' in found
    assert found.endswith(".../x.safetensors on <name>, and/or 3 / 4 by <name>")


def test_versions_of_cann_are_read_where_its_installers_write_them(tmp_path, monkeypatch):
    for variable in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(variable, raising=False)
    assert environment.cann_version(tmp_path) == ""
    toolkit = tmp_path / "ascend-toolkit/latest/aarch64-linux"
    toolkit.mkdir(parents=True)
    (toolkit / "ascend_toolkit_install.info").write_text("package_name=Ascend-cann-toolkit\nversion=8.2.RC1\n")
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver/version.info").write_text("Version=25.0.rc1\nascendhal_version=7.35.23\n")
    assert environment.cann_version(tmp_path) == "toolkit 8.2.RC1, driver 25.0.rc1"


def test_report(tmp_path):
    made = report.Report(
        {"device": "GPU", "card": "A | B"},
        {"quick": True},
        [
            Result("golden", "UNet", "float32", "passed", 1.23e-6, NETWORK, 2.5, 3 * 10**9, "fast"),
            Result("golden", "decoder", "float16", "failed", None, None, 1.0, error="Traceback\n```"),
            Result("full_size", "UNet", "", "skipped", note="too large"),
        ],
    )
    made.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "**1 passed, 1 failed, 1 skipped; not all were done**" in text
    assert "| UNet | float32 | 1.2e-06 | 2.0e-05 | passed | 2.5 | 3.00 GB | fast |" in text
    assert "| card | A \\| B |" in text and "## Failed: decoder, float16\n\n```\nTraceback\n'''\n```" in text
    assert json.loads((tmp_path / "report.json").read_text())["results"][2]["note"] == "too large"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_codes_and_reports_of_the_program(tmp_path, monkeypatch, capsys):
    """1 where something failed, 0 where nothing did, 2 where the report cannot be written."""

    def found(settings, time_limit, tell) -> Found:
        results = [Result(settings.group, settings.group, settings.precision, verdict[settings.group])]
        tell("", results[0])
        return Found(results, {"device": "CPU"} if settings.group == "environment" else {})

    monkeypatch.setattr(check_device, "run_group", found)
    verdict = dict.fromkeys(("environment", *check_device.GROUPS), "passed")
    arguments = [f"--out={tmp_path}", "--quick"]
    assert check_device.main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.md'}\n"
    verdict["conversion"] = "failed"
    assert check_device.main(arguments) == 1
    assert check_device.main([*arguments, "--checks", "golden"]) == 0
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["complete"] and [r["precision"] for r in kept["results"]] == ["", "float32", "float16", "bfloat16"]
    assert kept["results"][-1]["verdict"] == "skipped"
    (tmp_path / "file").touch()
    assert check_device.main([f"--out={tmp_path / 'file'}"]) == 2
    assert "is a file; choose another folder" in capsys.readouterr().err


def test_the_quick_check_of_this_device(tmp_path):
    """The program as a user runs it, all of it but what --quick leaves out."""
    command = [sys.executable, ROOT / "svd_tools/check_device.py", "--quick", "--mode=1", f"--out={tmp_path}"]
    done = subprocess.run(
        [*command, f"--device_target={DEVICE}"], cwd=tmp_path, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'report.md'}\n"
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["complete"] and kept["facts"]["mindspore"] == ms.__version__ and kept["facts"]["device"] == DEVICE
    results = {(result["group"], result["check"], result["precision"]): result for result in kept["results"]}
    for name, comparison in golden.COMPARISONS.items():
        result = results["golden", name, "float32"]
        assert result["verdict"] == "passed" and result["difference"] <= result["limit"] <= CHAIN
        assert result["limit"] == (CHAIN if comparison.chain else NETWORK)
    assert results["golden", "UNet", "float16"]["limit"] > 1e-3
    assert results["training", "first training step", "float32"]["verdict"] == "passed"
    assert results["conversion", "conversion, there and back", ""]["difference"] == 0
    assert results["collective", "sum over the cards", ""]["verdict"] == ("passed" if DEVICE == "CPU" else "skipped")
    text = (tmp_path / "report.md").read_text()
    assert str(ROOT) not in text and platform.node() not in text and f"/{getpass.getuser()}/" not in text


def test_a_product_on_the_device(eager):
    """The check of whether the device computes at all; a device that rounds to ten bits fails it."""
    assert environment.product().difference <= NETWORK
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mindspore.ops.matmul",
            lambda a, b: Tensor(np.matmul(a.asnumpy().astype(np.float16), b.asnumpy().astype(np.float16))),
        )
        outcome: Outcome = environment.product()
        assert outcome.difference > outcome.limit
