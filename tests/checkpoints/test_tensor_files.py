"""Reading .safetensors lazily, writing them as a stream, and never leaving half a file."""

import errno
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from svd.checkpoints import tensor_files
from svd.checkpoints.tensor_files import (
    cast,
    check_finite,
    read_safetensors,
    save_tensors,
    stored_tensor,
    write_safetensors,
)
from svd.checkpoints.tensor_header import CheckpointError
from svd.files import atomic_write

TENSORS = {
    "half": np.arange(3, dtype=np.float16),
    "single": np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5),
    "double": np.array([[np.pi]]),
    "steps": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False]),
}


@pytest.fixture
def file(tmp_path):
    save_file(TENSORS, tmp_path / "tensors.safetensors", metadata={"format": "pt"})
    return tmp_path / "tensors.safetensors"


def test_read_and_write_keep_every_bit(file, tmp_path):
    tensors = read_safetensors(file)
    told = []
    write_safetensors(tmp_path / "copy.safetensors", tensors, {"note": "copied"}, told.append)
    copy = load_file(tmp_path / "copy.safetensors")
    assert {name: (x.dtype, x.shape, x.tobytes()) for name, x in copy.items()} == {
        name: (x.dtype, x.shape, x.tobytes()) for name, x in TENSORS.items()
    }
    assert sum(told) == sum(tensor.nbytes for tensor in tensors.values())
    header = (tmp_path / "copy.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert length % 8 == 0 and json.loads(header[8 : 8 + length])["__metadata__"] == {"note": "copied"}


def test_written_tensors_are_aligned(file, tmp_path):
    write_safetensors(tmp_path / "copy.safetensors", read_safetensors(file), {})
    for tensor in read_safetensors(tmp_path / "copy.safetensors").values():
        assert tensor.position[1] % tensor.dtype.itemsize == 0


def test_bfloat16_is_widened_exactly(tmp_path):
    bits = np.array([0x3F80, 0xC049, 0x0001, 0x7F7F], np.uint16)
    data = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}
    header = json.dumps({"x": data}).encode()
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    values = read_safetensors(tmp_path / "b.safetensors")["x"].read()
    assert values.dtype == np.float32
    assert np.array_equal(values.view(np.uint32) >> 16, bits) and not np.any(values.view(np.uint32) & 0xFFFF)


def test_strides_and_pieces(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    path = tmp_path / "raw"
    path.write_bytes(b"head" + x.tobytes()[:40] + b"gap" + x.tobytes()[40:])
    pieces = ((4, 40), (47, 56))
    assert np.array_equal(stored_tensor("x", path, "F32", (4, 6), pieces).read(), x)
    assert np.array_equal(stored_tensor("x", path, "F32", (6, 4), pieces, (1, 6)).read(), x.T)


def test_a_file_that_shrinks_is_noticed(file):
    tensor = read_safetensors(file)["single"]
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="single: the file is truncated"):
        tensor.read()


def test_every_truncation_is_noticed(file, tmp_path):
    content = file.read_bytes()
    for size in range(9, len(content), 7):
        (tmp_path / "cut.safetensors").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            read_safetensors(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b"[1, 2]",
        b'{"x": {"dtype": "F32", "shape": [2]}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}',
        b'{"x": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}',
        b'{"x": 3}',
    ],
)
def test_damaged_headers(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match="damaged header|type F4"):
        read_safetensors(path)


def test_values_that_are_not_finite_are_named():
    check_finite(np.array([np.iinfo(np.int64).max]), "integers")
    check_finite(np.zeros((0, 3), np.float32), "nothing")
    half = np.array([65504, -65504, 6e-8, 0], np.float16)
    check_finite(half, "half")
    with pytest.raises(CheckpointError, match="tensor half holds NaN"):
        check_finite(half * np.float16(np.nan), "half")
    x = np.zeros((3, 1 << 19), np.float32)
    check_finite(x, "x")
    x[2, 5] = -np.inf
    with pytest.raises(CheckpointError, match="tensor layer.weight holds infinity"):
        check_finite(x, "layer.weight")
    x[0, 0] = np.nan
    with pytest.raises(CheckpointError, match="tensor layer.weight holds NaN"):
        check_finite(x, "layer.weight")


def test_casting(file, tmp_path):
    tensor = read_safetensors(file)["single"]
    assert cast("single", tensor, np.dtype(np.float32)) is tensor
    assert np.array_equal(cast("single", tensor, np.dtype(np.float16)).read(), TENSORS["single"].astype(np.float16))
    save_file({"big": np.array([1.0, -70000.0], np.float32)}, tmp_path / "big.safetensors")
    big = cast("big", read_safetensors(tmp_path / "big.safetensors")["big"], np.dtype(np.float16))
    with pytest.raises(CheckpointError, match="tensor big holds 70000, which float16 cannot"):
        big.read()


class FullDisk:
    """An open file of a disk with room for `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return self.file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def test_no_file_is_left_when_the_disk_fills_up(file, tmp_path, monkeypatch):
    target = tmp_path / "out" / "copy.safetensors"
    room = file.stat().st_size - 20

    def open_on_full_disk(path, mode, **arguments):
        opened = open(path, mode, **arguments)  # noqa: SIM115
        return FullDisk(opened, room) if mode == "wb" else opened

    monkeypatch.setattr(tensor_files, "open", open_on_full_disk, raising=False)
    with pytest.raises(OSError, match="No space"), atomic_write(target, 0) as temporary:
        write_safetensors(temporary, read_safetensors(file), {"format": "pt"})
    assert list(target.parent.iterdir()) == []


def test_an_announcement_that_does_not_hold_is_a_mistake(file, tmp_path):
    tensor = read_safetensors(file)["half"]
    wrong = tensor_files.LazyTensor((4,), tensor.dtype, tensor.position, tensor.read)
    with pytest.raises(AssertionError, match="x was announced"):
        write_safetensors(tmp_path / "x", {"x": wrong}, {})


def test_written_files_load_elsewhere(file, tmp_path):
    write_safetensors(tmp_path / "copy.safetensors", read_safetensors(file), {"format": "pt"})
    assert load_file(tmp_path / "copy.safetensors").keys() == TENSORS.keys()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_a_file_may_be_read_by_whom_the_user_lets_read(tmp_path, mask, mode):
    """Latents and checkpoints lie on drives that a group shares."""
    path, old = tmp_path / "a.safetensors", os.umask(mask)
    try:
        save_tensors(path, {"x": np.arange(3)})
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == mode
    np.testing.assert_array_equal(load_file(path)["x"], np.arange(3))
