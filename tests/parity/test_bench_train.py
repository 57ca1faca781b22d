"""The benchmark of training runs, and checks that both sides compute the same loss."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_train.py"


def test_bench_train(tmp_path):
    command = [sys.executable, str(SCRIPT), "--size=tiny", "--repeats=1", "--profile"]
    run = subprocess.run([*command, f"--folder={tmp_path}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^\| mindspore \| .*^\| pytorch \| .*^A step takes [0-9.]+ times", run.stdout, re.M | re.S)
    assert re.search(r"^\| operator \| .*^\| \w+ \| [1-9].*^\| others \| ", run.stdout, re.M | re.S)
    assert not any(tmp_path.iterdir())
