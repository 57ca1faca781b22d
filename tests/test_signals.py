"""Signals end programs at any moment: one line, the exit code of the signal, nothing half-written, no process left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from svd.signals import deferred

ROOT = Path(__file__).parents[1]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def start(script: str, *arguments, **options) -> subprocess.Popen:
    """A program whose script prints `ready` when it may be signalled."""
    script = f"from svd import cli\ncli.begin('program', 'a hint')\n{script}"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes, **options)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(60)",
        "while True: pass",
        "threading.Lock().acquire() and threading.Event().wait()",
        "ends = multiprocessing.Pipe(); ends[0].recv()",
        "subprocess.run(['sleep', '60'])",
    ],
)
def test_a_signal_ends_a_program_at_once(tmp_path, number, work):
    script = (
        "import sys, time, threading, subprocess, multiprocessing; from svd.files import free_name, atomic_write\n"
        "from pathlib import Path; folder = Path(sys.argv[1])\n"
        "with free_name(folder, 'video', ['.yaml', '.mp4']), atomic_write(folder / 'video.mp4') as aside:\n"
        "    (folder / 'finished.mp4').touch(); aside.write_text('half'); print('ready', flush=True)\n"
        f"    {work}\n"
    )
    process = start(script, tmp_path)
    time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    try:
        out, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == CODES[number] and out == ""
    assert errors.startswith("program: ") and errors.endswith("; a hint\n") and len(errors.splitlines()) == 1
    assert os.listdir(tmp_path) == ["finished.mp4"]
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_stream_that_nobody_reads_holds_no_program():
    """As after Ctrl-S: the program waits for its own line to be taken, and the line about the signal would, too."""
    script = "import sys\nfrom svd import signals\nsignals.LONGEST_PRINT = 0.2\nprint('ready', flush=True)\n"
    process = start(f"{script}while True: print('x' * 4096, file=sys.stderr)\n")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(20) == 143
    finally:
        process.kill()
        process.communicate()


def test_signals_reach_a_program_that_computes_whoever_else_would_handle_them():
    """MindSpore would turn SIGINT into SIGTERM, and keeps the interpreter's lock for a second and more."""
    script = (
        "import ctypes, signal, time; from svd.signals import deferred\n"
        "with deferred():\n"
        "    ctypes.CDLL(None).signal(signal.SIGINT, 1)\n"  # another handler, for all that Python knows
        "    print('ready', flush=True); ctypes.PyDLL(None).usleep(500_000); time.sleep(60)\n"
    )
    process = start(script)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_what_was_to_be_ignored_stays_ignored():
    script = "import time; print('ready', flush=True); time.sleep(0.5); print('done')"
    process = start(script, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20)[0] == "done\n" and process.returncode == 0


def test_work_that_ends_by_itself_is_let_end_but_for_a_second_interrupt():
    script = (
        "import time; from svd.signals import deferred\n"
        "with deferred() as signals:\n"
        "    print('ready', flush=True)\n"
        "    while not signals: time.sleep(0.01)\n"
        "    print('noted', signals, flush=True)\n"
        "    if signals[0] == 2: time.sleep(60)\n"
    )
    process = start(script)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "noted [15]\n" and process.returncode == 0
    process = start(script)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "noted [2]\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_deferred_within_another_program():
    """Where no thread watches, as in a notebook, handlers note the signals, and are put back."""
    before = signal.getsignal(signal.SIGTERM)
    with deferred() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signals == [signal.SIGTERM, signal.SIGINT] and signal.getsignal(signal.SIGTERM) == before
