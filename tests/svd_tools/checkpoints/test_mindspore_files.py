"""MindSpore's .ckpt files, as this MindSpore writes them."""

import mindspore as ms
import numpy as np
import pytest
from mindspore.train import serialization

from svd.checkpoints.tensor_header import CheckpointError
from svd_tools.checkpoints import mindspore_files
from svd_tools.checkpoints.mindspore_files import ENCRYPTED, read_mindspore

VALUES = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "norm.gamma": np.linspace(0, 1, 5, dtype=np.float16),
    "scale": np.array(2.5, np.float32),
    "double": np.array([[np.e]], np.float64),
    "steps": np.array([3, 4], np.int64),
    "small": np.array([True, False]),
}


def save(path, values=VALUES, **arguments):
    ms.save_checkpoint([{"name": n, "data": ms.Tensor(v)} for n, v in values.items()], str(path), **arguments)
    return path


def read(path):
    return {name: tensor.read() for name, tensor in read_mindspore(path).items()}


@pytest.mark.parametrize("crc_check", [False, True])
def test_what_mindspore_writes_is_read(tmp_path, same_tensors, crc_check):
    same_tensors(read(save(tmp_path / "a.ckpt", crc_check=crc_check)), VALUES)


def test_large_parameters_in_slices(tmp_path, monkeypatch, same_tensors):
    values = {
        "a": np.random.default_rng(0).standard_normal((301, 7)).astype(np.float32),
        "b": np.ones(3, np.float16),
    }
    whole = save(tmp_path / "whole.ckpt", values)
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # KB
    sliced = save(tmp_path / "sliced.ckpt", values)
    assert sliced.stat().st_size > whole.stat().st_size  # the parts repeat name and shape
    same_tensors(read(sliced), values)
    assert all(np.array_equal(value.asnumpy(), values[name]) for name, value in ms.load_checkpoint(str(sliced)).items())


def test_bfloat16(tmp_path):
    x = np.array([1.0, -3.140625, 2.0**-126], np.float32)
    ms.save_checkpoint([{"name": "x", "data": ms.Tensor(x, ms.bfloat16)}], str(tmp_path / "b.ckpt"))
    assert np.array_equal(read(tmp_path / "b.ckpt")["x"], x)


def test_numbers_beside_the_weights_are_read_and_strings_left_out(tmp_path):
    path = save(tmp_path / "a.ckpt", append_dict={"epoch": 3, "note": "hello"})
    tensors = read(path)
    assert tensors["epoch"].shape == () and tensors["epoch"] == 3
    assert "note" not in tensors


def test_encrypted_files_begin_as_expected(tmp_path):
    assert save(tmp_path / "a.ckpt", enc_key=b"0123456789abcdef").read_bytes().startswith(ENCRYPTED)


def test_damaged_files_are_noticed_or_shorter(tmp_path):
    content = save(tmp_path / "a.ckpt").read_bytes()
    path, complete = tmp_path / "cut.ckpt", 0
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        try:  # a cut between two parameters leaves a valid file: the names tell it apart
            assert len(read(path)) < len(VALUES)
            complete += 1
        except CheckpointError:
            pass
    assert complete == len(VALUES) - 1


def message(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([number << 3 | 2, len(content)]) + content for number, content in fields)


@pytest.mark.parametrize(
    "content, reason",
    [
        (message((2, b"")), "unknown field 2"),
        (message((1, message((1, b"x"), (3, b"")))), "x is not a dense tensor"),
        (message((1, message((1, b"x"), (2, message((2, b"Int4"), (3, b"ab")))))), "type Int4"),
        (
            message((1, message((1, b"x"), (2, b"\x08\x03" + message((2, b"Int8"), (3, b"ab")))))),
            "2 bytes for x",
        ),
        (
            message((1, message((1, b"x"), (2, message((2, b"Int8"), (3, b"a"))))))
            + message((1, message((1, b"x"), (2, message((2, b"Int16"), (3, b"ab")))))),
            "differ in type",
        ),
        (b"\x0b", "wire type 3"),
        (message((1, message((1, b"x"), (2, b"\x08\x01" * 9)))), "x has more than 8 axes"),
        (message((1, message((1, b"x"), (2, message((1, b"\x01" * 60)))))), "x has more than 8 axes"),
        (message((1, message(*[(1, b"x")] * 40))), "more than 32 parts of one kind"),
        (b"\x08" + b"\xff" * 12, "no number"),
    ],
)
def test_other_content_is_refused(tmp_path, content, reason):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_mindspore(path)


def test_names_and_numbers_have_limits(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    long = b"\x0a\xd0\x0f" + b"x" * 2000
    path.write_bytes(b"\x0a" + bytes([0x80 | len(long) & 0x7F, len(long) >> 7]) + long)
    with pytest.raises(CheckpointError, match="a name of 2,000 bytes"):
        read_mindspore(path)
    huge = message((1, message((1, b"x"), (2, b"\x08\x00\x08" + b"\xff" * 8 + b"\x7f" + message((2, b"Int8"))))))
    path.write_bytes(huge)
    with pytest.raises(CheckpointError, match="0 bytes for x of shape"):
        read_mindspore(path)
    monkeypatch.setattr(mindspore_files, "MOST_VALUES", 2)
    path.write_bytes(message((1, b""), (1, b""), (1, b"")))
    with pytest.raises(CheckpointError, match="more than 2 parts"):
        read_mindspore(path)


def test_packed_shapes_and_unknown_fixed_fields(tmp_path):
    """Protobuf allows both; MindSpore writes neither."""
    tensor = message((1, b"\x02\x01"), (2, b"Int8"), (3, b"ab")) + b"\x25" + bytes(4) + b"\x21" + bytes(8)
    (tmp_path / "x.ckpt").write_bytes(message((1, message((1, b"x"), (2, tensor)))))
    assert read(tmp_path / "x.ckpt")["x"].shape == (2, 1)


def test_scalars_of_shape_zero(tmp_path):
    """Some versions write a scalar with the shape [0]."""
    tensor = b"\x08\x00" + message((2, b"Int8"), (3, b"\x05"))
    (tmp_path / "x.ckpt").write_bytes(message((1, message((1, b"x"), (2, tensor)))))
    assert read(tmp_path / "x.ckpt")["x"] == 5
