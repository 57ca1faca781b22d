"""Damaged and hostile files are refused in one line, quickly and in little memory, by every reader."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
COUNT = 20
"""Inputs for each reader; the seed makes them the same everywhere, as far as encoders do."""


def test_spoilt_inputs(tmp_path):
    command = [sys.executable, HERE / "hostile_input.py", tmp_path, "7", str(COUNT)]
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])  # a program's own folder has a folder of the name svd_tools
    environment = {**os.environ, "PYTHONPATH": paths}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    rows = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert ran.returncode == 0, f"{rows[-1:]}: {ran.stderr[-2000:]}"
    rows = [row for row in rows if "reader" in row]
    assert len(rows) >= 300
    whole = {row["reader"]: row["outcome"] for row in rows if row["number"] < 0}
    assert set(whole.values()) == {"read"}, whole  # the inputs are right before they are spoilt
    wrong = [row for row in rows if row["outcome"] not in ("read", "refused")]
    assert wrong == []
    refused = {row["reader"] for row in rows if row["outcome"] == "refused"}
    assert refused >= set(whole) - {"metrics"}, "every reader looks at what it reads"
    assert max(row["peak_gb"] for row in rows) < 1.5
