"""What holds for every program, however it is started: `--help` at once, and signals answered at any moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svd.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
FILES = ["image_to_video.py", "train.py", *sorted(f"svd_tools/{path.name}" for path in ROOT.glob("svd_tools/[!_]*.py"))]
PROGRAMS = {path: Path(path).name for path in FILES} | {f"-m svd {name}": f"svd {name}" for name in COMMANDS}
"""What starts each, and what it calls itself."""
HEAVY = ("mindspore", "matplotlib", "sklearn", "torch")
"""What takes a second or more to import."""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def start(*command, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_waits_for_nothing_heavy(program):
    process = start("-X", "importtime", *program.split(), "--help", stdout=subprocess.PIPE)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and out.startswith(f"usage: {PROGRAMS[program]} ")
    imported = {line.split("|")[-1].strip().split(".")[0] for line in errors.splitlines() if "|" in line}
    assert "jsonargparse" in imported and not imported & set(HEAVY)


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("program", ["image_to_video.py", "train.py", "-m svd encode-latents"])
def test_a_signal_while_modules_are_imported(program, number):
    for seconds in (0.2, 0.5, 0.8):
        # Python tells of each import; the first that comes after the signals are answered
        process = start("-v", *program.split(), "--help", stdout=subprocess.DEVNULL)
        for line in process.stderr:
            if line.startswith("import 'jsonargparse"):
                break
        time.sleep(seconds / 10)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        told = errors.count(f"{PROGRAMS[program]}: {'interrupted' if number == signal.SIGINT else 'terminated'}")
        assert (process.returncode, told) in ((CODES[number], 1), (0, 0)), errors[-1000:]
        assert "Traceback" not in errors and "Fatal" not in errors


@pytest.mark.parametrize(
    "moment, number, mode",
    [
        ("compiling the graph", signal.SIGINT, 0),
        ("compiling the graph", signal.SIGTERM, 0),
        ("the first step done", signal.SIGINT, 0),  # MindSpore's own handler is there by now
        ("decoding: ", signal.SIGINT, 0),  # in pynative mode it may be over before the signal comes
    ],
)
def test_a_signal_while_a_video_is_made(tmp_path, moment, number, mode):
    options = [f"--output_dir={tmp_path}", f"--mode={mode}", "--SVD.sampling_steps=2"]
    process = start("image_to_video.py", "--image=assets/three.png", *options, stdout=subprocess.PIPE)
    for line in process.stderr:
        if moment in line:
            break
    time.sleep(0.3)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=20)
    assert process.returncode == CODES[number] and printed == "" and os.listdir(tmp_path) == []
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert errors.splitlines()[-1] == f"image_to_video.py: {word}" and "Traceback" not in errors
