"""What holds for every program, however it is started: `--help` at once, and signals answered at any moment."""

import json
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


# One process has what all programs import, and each of them runs in a copy of it.
HELP = """
import json, os, runpy, sys
import jsonargparse, numpy, omegaconf, PIL.Image

folder, *programs = sys.argv[1:]
for number, program in enumerate(programs):
    if os.fork() == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_CREAT | os.O_WRONLY), stream)
        words, code = [*program.split(), "--help"], None
        sys.path[0] = os.path.dirname(words[0])
        try:
            if words[0] == "-m":
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = words
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        imported = sorted({module.split(".")[0] for module in sys.modules})
        with open(f"{folder}/{number}.json", "w") as file:
            json.dump([code, imported], file)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def helps(tmp_path_factory) -> dict[str, tuple[str, str, int, set[str]]]:
    """Of each program's --help: what it prints, also as errors, its code, and the packages that are imported then."""
    folder = tmp_path_factory.mktemp("helps")
    errors = start("-c", HELP, folder, *PROGRAMS).communicate(timeout=600)[1]
    found = {}
    for number, program in enumerate(PROGRAMS):
        assert (folder / f"{number}.json").exists(), f"{program} had no end: {errors}"
        code, imported = json.loads((folder / f"{number}.json").read_text())
        out, err = ((folder / f"{number}.{name}").read_text() for name in ("out", "err"))
        found[program] = out, err, code, set(imported)
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_waits_for_nothing_heavy(helps, program):
    out, errors, code, imported = helps[program]
    assert code == 0 and not errors and out.startswith(f"usage: {PROGRAMS[program]} ")
    assert "svd" in imported and not imported & set(HEAVY)


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
        errors = process.communicate(timeout=600)[1]
        told = errors.count(f"{PROGRAMS[program]}: {'interrupted' if number == signal.SIGINT else 'terminated'}")
        assert (process.returncode, told) in ((CODES[number], 1), (0, 0)), errors[-1000:]
        assert "Traceback" not in errors and "Fatal" not in errors


@pytest.mark.parametrize(
    "moment, number",
    [
        ("compiling the graph", signal.SIGTERM),
        ("the first step done", signal.SIGINT),  # MindSpore's own handler is there by now
        ("decoding: compiling the graph", signal.SIGINT),
    ],
)
def test_a_signal_while_a_video_is_made(inputs, tmp_path, moment, number):
    steps = 1000 if moment == "the first step done" else 1
    model = [f"--SVD.checkpoint={inputs / 'tiny.safetensors'}", f"--image={inputs / 'photo.png'}"]
    options = [f"--output_dir={tmp_path}", "--mode=0", f"--SVD.sampling_steps={steps}"]
    process = start("image_to_video.py", *model, *options, stdout=subprocess.PIPE)
    for line in process.stderr:
        if moment in line:
            break
    time.sleep(0.3)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=20)
    assert process.returncode == CODES[number] and printed == "" and os.listdir(tmp_path) == []
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert errors.splitlines()[-1] == f"image_to_video.py: {word}" and "Traceback" not in errors
