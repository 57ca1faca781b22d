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
import time
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
    ours, theirs = open_terminal()
    process = begin(flags(inputs, tmp_path / "run", "--train.updates=100000"), theirs, terminal=True)
    os.close(theirs)
    read_until(ours, " 2/100000 ")
    os.close(ours)
    assert end(process) == 129
    (last,) = names(tmp_path / "run/checkpoints")
    assert int(last[-8:]) >= 2 and not (tmp_path / "run/model.safetensors").exists()


@pytest.mark.parametrize("surroundings", ["a terminal, with nohup", "a pipe", "a full disk"])
def test_a_run_needs_nobody_who_reads(inputs, tmp_path, surroundings):
    """It goes on, and writes its model."""
    if surroundings == "a full disk":
        file = os.open("/dev/full", os.O_RDWR)
        process = begin(flags(inputs, tmp_path / "run"), file)
        os.close(file)
    else:
        terminal = surroundings != "a pipe"
        ours, theirs = open_terminal() if terminal else os.pipe()
        process = begin(flags(inputs, tmp_path / "run"), theirs, ignore_hangup=True, terminal=terminal)
        os.close(theirs)
        read_until(ours, f" 1/{UPDATES} ")
        os.close(ours)
    assert end(process) == 0
    assert (tmp_path / "run/model.safetensors").is_file() and (tmp_path / "run/loss.png").is_file()
    assert names(tmp_path / "run/checkpoints") == {f"update_{UPDATES:08d}"}


def test_a_second_run_in_the_same_folder_is_told_who_has_it(inputs, tmp_path):
    """And changes nothing there."""
    run = tmp_path / "run"
    child = start_training(tmp_path / "log", *flags(inputs, run, "--train.updates=100000"))
    child.wait_for(" 1/100000 ")
    before = names(run)
    for resume in ("never", "auto"):
        outcome = train_here(*flags(inputs, run, f"--train.resume={resume}"))
        assert outcome.code == 2
        who = f"process {child.process.pid} on {socket.gethostname()}, since "
        assert outcome.error.startswith(f"{run} is in use by another run ({who}")
    assert names(run) == before and names(run / "checkpoints") == set()
    child.process.send_signal(signal.SIGTERM)
    assert child.wait() == 143
    assert len(names(run / "checkpoints")) == 1 and names(run) & {".lock"} == set()


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
    assert train_here(*flags(inputs, tmp_path / "whole", *more)).code == 0
    assert_same(tensors(checkpoint(tmp_path / "run", 10)), tensors(checkpoint(tmp_path / "whole", 10)))
