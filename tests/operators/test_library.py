"""Compiling the kernels: once, not at all where that is impossible or unwanted, and never by others."""

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from svd import trust
from svd.operators import library as module
from svd.operators.library import library

needs_kernels = pytest.mark.skipif(library() is None, reason="there is no C++ compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of kernels, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SVD_NATIVE", raising=False)
    return tmp_path / "cache" / "svd-mindspore"


@pytest.fixture
def compile_anew(cache):
    """`library` without what this process knows, in an empty cache."""
    return library.__wrapped__


def compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """Of a compiler that writes a line there for every time that it compiles, and hands out what has been compiled."""
    log = tmp_path / "log"
    log.touch()
    copy = f'while [ "$1" != -o ]; do shift; done; cp {library()} "$2"'
    script = f'[ "$1" = --version ] && exec echo 1; echo >> {log}; {copy}'
    monkeypatch.setenv("CXX", compiler(tmp_path / "c++", script))
    return log


@needs_kernels
def test_compiled_once(compile_anew, log, tmp_path, monkeypatch, capsys):
    """What the compiler writes is found again; another compiler, or other sources, make another file."""
    first = compile_anew()
    assert first.is_file() and compile_anew() == first and len(log.read_text()) == 1
    assert capsys.readouterr().err == "svd: compiling kernels for this CPU (once, a few seconds) ...\n"
    path = tmp_path / "c++"
    compiler(path, path.read_text().replace("echo 1", "echo 2"))
    assert compile_anew() != first
    monkeypatch.setattr(module, "_processor", lambda: "another")
    assert compile_anew() != first and len(log.read_text()) == 3
    assert first.parent.stat().st_mode & 0o077 == 0 and first.stat().st_mode & 0o077 == 0


@needs_kernels
@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "no code", "a folder"])
def test_damaged_kernels_are_compiled_again(compile_anew, log, damage, capsys):
    first = compile_anew()
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.unlink()
    if damage == "a folder":
        first.mkdir()
    else:
        first.write_bytes({"empty": b"", "cut": content[:5000], "changed": content, "no code": b"text"}[damage])
    second = compile_anew()
    ctypes.CDLL(str(second))
    assert len(log.read_text()) == 2 and "compiling kernels" in capsys.readouterr().err
    assert compile_anew() == second == first and len(log.read_text()) == 2


@needs_kernels
@pytest.mark.parametrize("planted", ["file", "folder", "owner", "link"])
def test_what_others_can_write_is_not_loaded(compile_anew, log, planted, monkeypatch, capsys, tmp_path):
    """A folder is not used then; a file in a good one is replaced."""
    first = compile_anew()
    if planted == "owner":
        monkeypatch.setattr("svd.trust.os.geteuid", lambda: os.getuid() + 1)  # and so nothing here is ours
        if os.getuid() == 0:
            os.chown(first.parent, 12345, -1)
    elif planted == "link":
        first.rename(tmp_path / "elsewhere.so")
        first.symlink_to(tmp_path / "elsewhere.so")
    else:
        (first if planted == "file" else first.parent).chmod(0o777)
    capsys.readouterr()
    second = compile_anew()
    said = capsys.readouterr().err
    assert len(log.read_text()) == 2
    if planted in ("folder", "owner"):
        reason = "others can write it (mode 0777; " if planted == "folder" else "it belongs to another user (uid "
        assert f"svd: compiled kernels are not kept: {first.parent} is not used: {reason}" in said
        assert second is None or second.parent != first.parent
    else:
        assert str(first) in said.splitlines()[0] and second == first
        assert not second.is_symlink() and second.stat().st_mode & 0o022 == 0


def test_a_compiler_that_fails(compile_anew, tmp_path, monkeypatch, capsys):
    """The portable operators take over, and the user is told why it is slow."""
    monkeypatch.setenv("CXX", compiler(tmp_path / "c++", "echo no such flag >&2; exit 1"))
    assert compile_anew() is None
    assert "using MindSpore's own, slower operators" in (said := capsys.readouterr().err) and "no such flag" in said
    assert os.listdir(tmp_path / "cache" / "svd-mindspore") == []


@needs_kernels
@pytest.mark.parametrize("home", ["none", "a file", "read-only"])
def test_without_a_folder_to_keep_them_in(compile_anew, log, tmp_path, monkeypatch, home, capsys):
    """As in containers, where users have neither names nor homes: they are compiled for this process alone."""
    (tmp_path / "file").touch()
    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(trust.os.path, "expanduser", lambda path: path)  # as it answers then
    elif home == "a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:

        def refuse(*_, **__):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(trust, "private_folder", refuse)
    path = compile_anew()
    ctypes.CDLL(str(path))
    assert path.parent.stat().st_mode & 0o077 == 0
    assert capsys.readouterr().err.startswith("svd: compiled kernels are not kept: ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without a name")
def test_a_user_without_a_name_has_no_folder():
    code = """
import os
from svd import trust
os.setuid(54321)
try:
    print(trust.user_cache())
except OSError as error:
    print("refused:", error)
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "refused: there is no home folder (XDG_CACHE_HOME would name another)\n"


@pytest.mark.parametrize("variable, value", [("PATH", ""), ("SVD_NATIVE", "0")])
def test_without_a_compiler_or_unwanted(compile_anew, monkeypatch, variable, value):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, value)
    assert compile_anew() is None
