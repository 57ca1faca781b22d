"""What happens around a training: terminals are closed, readers end, disks are away, and a job is started twice."""

import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from training_runs import (
    ROOT,
    assert_same,
    checkpoint,
    names,
    options,
    start_training,
    tensors,
    train_here,
)

from svd.console import Stream
from svd_tools import train

UPDATES = 6


def flags(inputs: Path, run: Path, *more: str) -> list[str]:
    return [*options(inputs, run), f"--train.updates={UPDATES}", "--train.checkpoint_every=9999", *more]


def begin(flags: list[str], stderr: int, ignore_hangup: bool = False, terminal: bool = False) -> subprocess.Popen:
    """Start train.py with its lines to this open file; with a terminal, which that is then, for its own."""

    def prepare() -> None:
        os.setsid()
        if terminal:
            fcntl.ioctl(stderr, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignore_hangup else signal.SIG_DFL)

    command = [sys.executable, str(ROOT / "train.py"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=stderr, stderr=stderr, stdin=stderr, env=environment, preexec_fn=prepare)


def read_until(file: int, text: str) -> None:
    """Read what a process writes until it has written this."""
    said, end = b"", time.monotonic() + 120
    while text.encode() not in said:
        assert select.select([file], [], [], end - time.monotonic())[0], said.decode(errors="replace")[-3000:]
        said += os.read(file, 4096)


def open_terminal() -> tuple[int, int]:
    """Both ends of a terminal of a usual size."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    return ours, theirs


def end(process: subprocess.Popen) -> int:
    try:
        return process.wait(120)
    finally:
        process.kill()


def test_a_terminal_that_is_closed_ends_the_run_with_a_checkpoint(inputs, tmp_path):
    """Until then, a second run in the same folder is told who has it, and changes nothing there."""
    ours, theirs = open_terminal()
    run = tmp_path / "run"
    process = begin(flags(inputs, run, "--train.updates=100000"), theirs, terminal=True)
    os.close(theirs)
    read_until(ours, " 2/100000 ")
    before = names(run)
    for resume in ("never", "auto"):
        outcome = train_here(*flags(inputs, run, f"--train.resume={resume}"))
        assert outcome.code == 2
        who = f"process {process.pid} on {socket.gethostname()}, since "
        assert outcome.error.startswith(f"{run} is in use by another run ({who}")
    assert names(run) == before and names(run / "checkpoints") == set()
    os.close(ours)
    assert end(process) == 129
    (last,) = names(run / "checkpoints")
    assert int(last[-8:]) >= 2 and not (run / "model.safetensors").exists()
    assert names(run) & {".lock"} == set()


def assert_finished(run: Path) -> None:
    assert (run / "model.safetensors").is_file() and (run / "loss.png").is_file()
    assert names(run / "checkpoints") == {f"update_{UPDATES:08d}"}


def test_a_run_under_nohup_goes_on_when_its_terminal_is_closed(inputs, tmp_path):
    """And writes its model."""
    ours, theirs = open_terminal()
    process = begin(flags(inputs, tmp_path / "run"), theirs, ignore_hangup=True, terminal=True)
    os.close(theirs)
    read_until(ours, f" 1/{UPDATES} ")
    os.close(ours)
    assert end(process) == 0
    assert_finished(tmp_path / "run")


@pytest.mark.parametrize("surroundings", ["a pipe", "a full disk"])
def test_a_run_needs_nobody_who_reads(inputs, tmp_path, surroundings):
    if surroundings == "a full disk":
        file, reader = os.open("/dev/full", os.O_RDWR), None
    else:
        ours, file = os.pipe()
        reader = threading.Thread(target=lambda: (read_until(ours, f" 1/{UPDATES} "), os.close(ours)), daemon=True)
        reader.start()
    with open(file, "w", buffering=1) as stream:
        out, err = Stream(stream), Stream(stream)  # as programs have them
        with redirect_stdout(out), redirect_stderr(err):
            code = train.main(flags(inputs, tmp_path / "run"))
    assert err.failure is not None
    assert code == 0 and (reader is None or not reader.is_alive())
    assert_finished(tmp_path / "run")


def test_videos_that_are_away_for_a_while(inputs, tmp_path):
    """Their folder is renamed and comes back; the weights are as if nothing had happened."""
    data = tmp_path / "data"
    shutil.copytree(inputs / "videos", data)
    more = [
        f"--train.dataset.init_args.metadata={tmp_path / 'videos.csv'}",
        f"--train.dataset.init_args.data_dir={data}",
    ]
    shutil.copy(inputs / "videos/videos.csv", tmp_path)
    more += ["--train.updates=10", "--train.workers=1"]
    child = start_training(tmp_path / "log", *flags(inputs, tmp_path / "run", *more))
    child.wait_for(" 1/10 ")
    data.rename(tmp_path / "away")
    child.wait_for("cannot be read now: ")
    time.sleep(0.5)
    (tmp_path / "away").rename(data)
    assert child.wait() == 0, child.said
    assert child.said.count("cannot be read now") == child.said.count("the data can be read again, after ") == 1
    assert not (tmp_path / "run/skipped_videos_0.csv").exists()
    assert train_here(*flags(inputs, tmp_path / "whole", *more, "--train.workers=0")).code == 0
    assert_same(tensors(checkpoint(tmp_path / "run", 10)), tensors(checkpoint(tmp_path / "whole", 10)))
