"""Compiling the kernels: once, and not at all where that is impossible or unwanted."""

import os
import stat

import pytest

from svd.layers.native import library as module
from svd.layers.native.library import library


@pytest.fixture
def compile_anew(tmp_path, monkeypatch):
    """`library` without what this process knows, in an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SVD_NATIVE", raising=False)
    return library.__wrapped__


def compiler(path, script: str):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_compiled_once(compile_anew, tmp_path, monkeypatch, capsys):
    """What the compiler writes is found again; another compiler, or other sources, make another file."""
    log = tmp_path / "log"
    script = f'[ "$1" = --version ] && exec echo 1; echo >> {log}; while [ "$1" != -o ]; do shift; done; echo > "$2"'
    monkeypatch.setenv("CXX", compiler(tmp_path / "c++", script))
    first = compile_anew()
    assert first.is_file() and compile_anew() == first and len(log.read_text()) == 1
    assert capsys.readouterr().err == "svd: compiling kernels for this CPU (once, a few seconds) ...\n"
    compiler(tmp_path / "c++", script.replace("echo 1", "echo 2"))
    assert compile_anew() != first
    monkeypatch.setattr(module, "_processor", lambda: "another")
    assert compile_anew() != first and len(log.read_text()) == 3


def test_a_compiler_that_fails(compile_anew, tmp_path, monkeypatch, capsys):
    """The layers' composed operators take over, and the user is told why it is slow."""
    monkeypatch.setenv("CXX", compiler(tmp_path / "c++", "echo no such flag >&2; exit 1"))
    assert compile_anew() is None
    assert "using MindSpore's own, slower operators" in (said := capsys.readouterr().err) and "no such flag" in said
    assert os.listdir(tmp_path / "cache" / "svd-mindspore") == []


@pytest.mark.parametrize("variable, value", [("PATH", ""), ("SVD_NATIVE", "0")])
def test_without_a_compiler_or_unwanted(compile_anew, monkeypatch, variable, value):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, value)
    assert compile_anew() is None
