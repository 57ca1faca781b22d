"""One run at a time in a folder, and the lock goes with the process, however it ends."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from svd.training.lock import NAME, LockedError, locked

ROOT = Path(__file__).parents[2]


def hold(folder: Path) -> subprocess.Popen:
    """A process that has the folder, until it is told to end."""
    code = (
        "import sys; from pathlib import Path; from svd.training.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('has it', flush=True); input()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, folder], env=environment, **pipes)
    assert process.stdout.readline() == "has it\n"
    return process


@pytest.mark.parametrize("end", ["by itself", signal.SIGTERM, signal.SIGKILL])
def test_the_second_is_told_who_has_it(tmp_path, end):
    process = hold(tmp_path / "run")
    with pytest.raises(LockedError) as error, locked(tmp_path / "run"):
        pass
    who = f"process {process.pid} on {socket.gethostname()}, since 20"
    assert str(error.value).startswith(f"{tmp_path / 'run'} is in use by another run ({who}")
    assert str(error.value).endswith("): wait for its end, or choose another folder")
    if end == "by itself":
        process.communicate("\n")
    else:
        process.send_signal(end)
        process.communicate()
    with locked(tmp_path / "run"):
        (tmp_path / "run/result").touch()
    assert os.listdir(tmp_path / "run") == ["result"]


def test_a_folder_into_which_nothing_came_is_gone(tmp_path):
    with locked(tmp_path / "run"):
        assert os.listdir(tmp_path / "run") == [NAME]
    assert os.listdir(tmp_path) == []


def test_a_disk_without_locks(tmp_path, monkeypatch, capsys):
    """It is said, and the work goes on."""

    def flock(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "run"):
        (tmp_path / "run/result").touch()
    assert "is on a disk without locks (Operation not supported): start no second run there" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": 3}', "\0" * 100])
def test_a_lock_that_does_not_say_whose_it_is(tmp_path, text):
    process = hold(tmp_path)
    (tmp_path / NAME).write_text(text)
    with pytest.raises(LockedError, match="in use by another run \\(it has not said which\\)"), locked(tmp_path):
        pass
    process.communicate("\n")


def test_something_else_in_the_place_of_the_lock(tmp_path):
    """A link leads nowhere else, and a named pipe is not waited for."""
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / NAME).symlink_to(target)
    with pytest.raises(OSError), locked(tmp_path / "a"):
        pass
    assert target.read_text() == "precious"
