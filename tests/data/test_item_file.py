"""What a file is at fault for itself, and what its surroundings are."""

import errno
import os
import threading

import pytest

from svd.data import item_file
from svd.data.dataset import BadItem, Unavailable
from svd.data.item_file import open_item


def opened(path) -> bytes:
    with open_item(str(path)) as file:
        return file.read()


def failing(monkeypatch, number: int) -> None:
    """Let every file fail to open with this error."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(item_file, "open", fail, raising=False)


def test_a_file_is_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    assert opened(tmp_path / "a") == b"data"


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ENETDOWN", "ETIMEDOUT", "EMFILE", "ENFILE", "ENOMEM", "EHOSTDOWN"])
def test_errors_that_may_pass(tmp_path, monkeypatch, name):
    (tmp_path / "a").write_bytes(b"data")
    failing(monkeypatch, getattr(errno, name))
    with pytest.raises(Unavailable, match=f"a: {os.strerror(getattr(errno, name))}"):
        opened(tmp_path / "a")


def test_errors_while_it_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    for error in (OSError(errno.EIO, "Input/output error"), MemoryError()):
        with pytest.raises(Unavailable), open_item(str(tmp_path / "a")):
            raise error
    with pytest.raises(BadItem, match="x: y"), open_item(str(tmp_path / "a")):
        raise BadItem("x", "y")


@pytest.mark.parametrize(
    "name, reason",
    [
        ("absent", "no such file"),
        ("folder/absent", "no such file"),
        ("folder", "a folder"),
        ("file/inside", "Not a directory"),
        ("empty", "an empty file"),
        ("pipe", "no ordinary file"),
        ("/dev/zero", "no ordinary file"),
        ("/dev/tty", "no ordinary file"),
        ("circle", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("zero\0byte", "embedded null byte"),
    ],
)
def test_what_will_stay(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "another").touch()  # an empty one may be where a disk is mounted
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(BadItem, match=reason):
        opened(tmp_path / name if "\0" not in name else name)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    """Between the look at it and its opening."""
    (tmp_path / "a").write_bytes(b"data")
    check = item_file._check_kind

    def replace(path, status):
        check(path, status)
        os.remove(path)
        os.mkfifo(path)

    monkeypatch.setattr(item_file, "_check_kind", replace)
    thread = threading.Thread(target=opened, args=[tmp_path / "a"], daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_folder_that_is_away(tmp_path, monkeypatch):
    with pytest.raises(Unavailable, match=f"a: its folder {tmp_path}/away is not there"):
        opened(tmp_path / "away" / "a")
    # and one that comes back while one looks
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "a").write_bytes(b"data")
    (tmp_path / "back").rename(tmp_path / "elsewhere")
    is_there = os.path.isdir

    def come_back(folder):
        if not is_there(folder):
            (tmp_path / "elsewhere").rename(tmp_path / "back")
        return is_there(folder)

    monkeypatch.setattr(os.path, "isdir", come_back)
    assert opened(tmp_path / "back" / "a") == b"data"


def test_permissions_of_the_file_and_of_others(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"data")
    failing(monkeypatch, errno.EACCES)
    with pytest.raises(Unavailable, match="a: may not be read; change its permissions"):
        opened(tmp_path / "a")  # its own permissions are no reason
    (tmp_path / "a").chmod(0)
    with pytest.raises(BadItem, match="a: may not be read; change its permissions"):
        opened(tmp_path / "a")
