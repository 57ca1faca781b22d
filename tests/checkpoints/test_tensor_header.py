"""Headers of .safetensors files: within bounds, and what is wrong with a file is told as what it is."""

import errno
import json
import os
import socket
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from svd.checkpoints import tensor_header
from svd.checkpoints.tensor_header import CheckpointError, read_header


def write(path, text: bytes | str | dict, data: bytes = bytes(8)):
    text = json.dumps(text) if isinstance(text, dict) else text
    text = text.encode() if isinstance(text, str) else text
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def one(**changes) -> dict:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def test_what_the_library_writes_is_read(tmp_path):
    save_file({"a": np.ones((2, 3), np.float16), "b": np.zeros((0, 4))}, tmp_path / "x", {"note": "hello"})
    header = read_header(tmp_path / "x")
    assert header.shapes == {"a": (2, 3), "b": (0, 4)} and header.metadata == {"note": "hello"}
    stored = header.tensors["a"]
    assert (tmp_path / "x").read_bytes()[stored.start : stored.end] == np.ones(6, np.float16).tobytes()


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (one(shape=[float("inf")]), "not a text and lists of whole numbers"),
        (one(shape=[2.0]), "not a text and lists of whole numbers"),
        (one(shape=[True, 2]), "not a text and lists of whole numbers"),
        (one(shape=[-2], data_offsets=[8, 0]), "not a text and lists of whole numbers"),
        (one(shape=[0, 1 << 60], data_offsets=[0, 0]), "not a text and lists of whole numbers"),
        (one(shape=[0] * 9, data_offsets=[0, 0]), "x has 9 axes"),
        (one(data_offsets=[0, float("nan")]), "not a text and lists of whole numbers"),
        (one(data_offsets=[0, 8, 9]), "not a text and lists of whole numbers"),
        (one(dtype=["F32"]), "not a text and lists of whole numbers"),
        (one(shape=[3]), "8 bytes for x of shape"),
        ({"x": [1]}, "x has no type, shape and place"),
        ("[1]", "it is not a mapping"),
        (one() | {"y": one()["x"]}, "x and y lie in the same place"),
        ('{"x": 1, "x": 2}', "stands twice"),
        ('{"x": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 8]}}' % ("9" * 400), "a number of 400 digits"),
        ('{"x": %s}' % ("[" * 5000 + "]" * 5000), "nested too deeply"),
        (b'{"x": [' + b",".join([b"[]"] * 600_000) + b"]}", "more entries than any model needs"),
        ({str(n): one(shape=[0], data_offsets=[0, 0])["x"] for n in range(20_001)}, "20,001 tensors, more"),
        ({"__metadata__": {"config": 3}}, "not a mapping of names to texts"),
        ({"__metadata__": [3]}, "not a mapping of names to texts"),
        (b"{\xff}", "utf-8"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_damaged_headers(tmp_path, header, reason):
    path = write(tmp_path / "x.safetensors", header)
    with pytest.raises(
        CheckpointError, match=rf"not a complete safetensors file \(damaged header: .*{reason}"
    ) as error:
        read_header(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_header_of_a_gigabyte_is_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)  # a hole: it takes no space
    with pytest.raises(CheckpointError, match="more than any model needs"):
        read_header(tmp_path / "x")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    for name, what in {"pipe": "a named pipe", "folder": "a folder", "socket": "a socket"}.items():
        with pytest.raises(CheckpointError, match=f"{name} is {what}: give a file"):
            read_header(tmp_path / name)
    listening.close()
    for name in ("nowhere", "a\0b"):
        with pytest.raises(CheckpointError, match="does not exist: check the path"):
            read_header(tmp_path / name)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.EACCES, "Permission denied.*: allow this user to read it"),
        (errno.EIO, "Input/output error.*: check its drive"),
    ],
)
def test_an_unreadable_file_is_told_as_that(tmp_path, monkeypatch, number, what):
    write(tmp_path / "x", one())

    def refuse(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(tensor_header, "open", refuse, raising=False)
    with pytest.raises(CheckpointError, match=rf"x cannot be read \({what}") as error:
        read_header(tmp_path / "x")
    assert "copy it again" not in str(error.value)
