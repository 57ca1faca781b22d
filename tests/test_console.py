"""Lines reach a terminal without steering it, and streams that go away do not end a program."""

import importlib
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from svd.console import Stream, first_few, log, one_line, printable

ROOT = Path(__file__).parents[1]
BATCH = (
    "import sys, time; from svd import cli; cli.begin('batch')\n"
    "from pathlib import Path\n"
    "def work(args):\n"
    "    for n in range(200):\n"
    "        print('x' * 1000); print('progress', file=sys.stderr)\n"
    "    Path(sys.argv[1]).touch()\n"
    "from jsonargparse import ArgumentParser\n"
    "sys.exit(cli.run(ArgumentParser(prog='batch'), work, []))\n"
)


def test_lines_go_to_standard_error(capsys):
    log("a line")
    assert capsys.readouterr() == ("", "a line\n")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain ü 夜 🦊\tand\n", "plain ü 夜 🦊\tand\n"),
        ("\x1b[2Jgone\x07\r", "\\x1b[2Jgone\\x07\\r"),
        ("right\u202eleft\x9b", "right\\u202eleft\\x9b"),
        ("caf\udce9", "caf\\udce9"),
    ],
)
def test_what_could_steer_a_terminal_is_written_out(text, shown):
    assert printable(text) == shown


def test_long_lists_are_cut():
    assert first_few([]) == "" and first_few(["a", 2, "c"]) == "a, 2, c"
    assert first_few(["a", "b", "c", "d"]) == "a, b, c, ..." and first_few("abcd", 1) == "a, ..."


def test_errors_in_one_line():
    assert one_line(ValueError("a\n  b \x1b[1m")) == "a b \\x1b[1m" and one_line(MemoryError()) == "MemoryError"
    assert len(one_line(ValueError("x" * 10**6))) < 2100


@pytest.mark.parametrize(
    "command, code",
    [
        ("{} | head -c 10", 0),
        ("{} 2>&1 | head -c 10", 0),
        ("{} > /dev/full", 2),
        ("{} 2> /dev/full", 0),
        ("{} >&- 2>&-", 0),
    ],
)
def test_the_work_goes_on_where_nobody_reads(tmp_path, command, code):
    done = tmp_path / "done"
    program = f'{sys.executable} -c "$BATCH" {done}'
    environment = os.environ | {"BATCH": BATCH, "PYTHONPATH": str(ROOT)}
    shell = ["bash", "-o", "pipefail", "-c", command.format(program)]
    ran = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=600)
    assert done.exists() and ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr and "Exception ignored" not in ran.stderr
    assert ("standard output could not be written (No space left on device)" in ran.stderr) == (code == 2)


def test_a_reader_that_stops_is_not_waited_for_for_ever():
    """What is written until it goes on is lost."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    with open(writing, "w", buffering=1) as file:
        stream = Stream(file, patience=0.1)
        thread = threading.Thread(
            target=lambda: [print("lost", file=stream, flush=True) for _ in range(99)], daemon=True
        )
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        os.set_blocking(reading, False)
        with suppress(BlockingIOError):
            while True:
                assert b"lost" not in os.read(reading, 1 << 20)
        print("taken", file=stream, flush=True)
        assert os.read(reading, 100) == b"taken\n"
    os.close(reading)


@pytest.mark.parametrize("program", ["image_to_video", "motion_bucket", "convert", "export"])
def test_names_that_programs_are_given(tmp_path, capsys, program):
    """They are told of in messages, where they must not steer the terminal either."""
    name, svd = f"{tmp_path}/\x1b]0;owned\x07\x9b2J", ROOT / "configs" / "svd.yaml"
    arguments = {
        "image_to_video": [f"--SVD.checkpoint={name}.safetensors", "--image=x.png"],
        "motion_bucket": [name, f"--out={tmp_path}/clips.csv"],
        "convert": [f"--pt_weights_file={name}", f"--config={svd}", f"--out_dir={tmp_path}"],
        "export": [f"--checkpoint={name}", f"--out_dir={tmp_path}"],
    }
    module = importlib.import_module(f"svd_tools.{program}")
    assert module.main(arguments[program]) == 2
    told = capsys.readouterr().err
    assert "\\x1b]0;owned\\x07\\x9b2J" in told and not any(c in told for c in "\x1b\x07\x9b")
