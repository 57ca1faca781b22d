"""Noise from a file: of the right shape and type, or one line, before much of it is read."""

import os
import random
import re
import struct
import zipfile
from io import BytesIO

import numpy as np
import pytest

from svd.config import ConfigError
from svd.data.noise_file import read_noise

SHAPES = {"noise": (1, 3, 4, 2, 3), "aug_noise": (1, 3, 16, 24)}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def refused(path) -> str:
    with pytest.raises(ConfigError) as error:
        read_noise(path, SHAPES)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"the noise in {path}")
    assert error.value.setting == "noise"
    return str(error.value)


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The head of a .npy file."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def write_zip(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes(tmp_path, arrays, save):
    path = tmp_path / "noise.npz"
    save(path, **arrays, other=np.zeros(3))
    for name, value in read_noise(path, SHAPES).items():
        np.testing.assert_array_equal(value, arrays[name])
    save(path, noise=np.asfortranarray(arrays["noise"].astype(np.float64)), aug_noise=np.ones(SHAPES["aug_noise"], int))
    found = read_noise(path, SHAPES)
    np.testing.assert_array_equal(found["noise"], arrays["noise"])
    assert found["aug_noise"].dtype == np.float32 and (found["aug_noise"] == 1).all()
    save(path, noise=arrays["noise"].astype(np.float16))
    assert set(read_noise(path, SHAPES)) == {"noise"}


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.zeros((3, 4, 2, 3)), r"noise must be of shape \[1, 3, 4, 2, 3\], got \[3, 4, 2, 3\]"),
        (np.zeros(()), r"got \[\]"),
        (np.zeros(SHAPES["noise"], np.complex64), "noise holds values of type complex64; .* of real numbers"),
        (np.zeros(SHAPES["noise"], bool), "of type bool"),
        (np.full(SHAPES["noise"], "a"), "of type <U1"),
        (np.zeros(SHAPES["noise"], "M8[s]"), "of type datetime64"),
        (np.zeros(SHAPES["noise"], [("a", "f4")]), "of type "),
        (np.array([{}], dtype=object), "of type object"),
        (np.full(SHAPES["noise"], np.nan), "not finite"),
        (np.full(SHAPES["noise"], 1e300), "not finite"),
    ],
    ids=str,
)
def test_values_of_another_kind(tmp_path, value, what):
    np.savez(tmp_path / "noise.npz", noise=value)
    assert re.search(what, refused(tmp_path / "noise.npz"))


def test_shapes_that_no_memory_holds(tmp_path):
    """Told by the header alone."""
    for shape in ((10**12,), (1, 10**6, 10**6, 2, 3), (0,), (1, 3, 4, 2, 3, 1)):
        path = write_zip(tmp_path / "noise.npz", noise=header(shape) + bytes(100))
        assert "noise must be of shape [1, 3, 4, 2, 3], got" in refused(path)
    path = write_zip(tmp_path / "noise.npz", noise=b"\x93NUMPY\x02\0" + struct.pack("<L", 2**32 - 1) + bytes(100))
    assert "cannot be read as an .npz file" in refused(path)
    path = write_zip(tmp_path / "bomb.npz", noise=bytes(2**26 + 1))
    assert "far more than [1, 3, 4, 2, 3] numbers need" in refused(path)


def test_files_of_another_kind(tmp_path, arrays):
    remedy = "write one with numpy.savez("
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", sound=np.zeros(3))
    write_zip(tmp_path / "short.npz", noise=header(SHAPES["noise"]) + bytes(10))
    write_zip(tmp_path / "none.npz", noise=b"not an array")
    for name in ("text.npz", "empty.npz", "folder.npz", "pipe.npz", "array.npz.npy", "other.npz", "nowhere.npz",
                 "short.npz", "none.npz"):  # fmt: skip
        assert remedy in refused(tmp_path / name)


def test_an_encrypted_file(tmp_path, arrays):
    np.savez(tmp_path / "noise.npz", **arrays)
    content = bytearray((tmp_path / "noise.npz").read_bytes())
    for magic, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = 0
        while (start := content.find(magic, start)) >= 0:
            content[start + place] |= 1
            start += 4
    (tmp_path / "noise.npz").write_bytes(content)
    assert "encrypted" in refused(tmp_path / "noise.npz")


def test_random_damage(tmp_path, arrays):
    chance, path = random.Random(2), tmp_path / "noise.npz"
    np.savez_compressed(path, **arrays)
    whole = path.read_bytes()
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 5)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken[: chance.choice([len(broken), chance.randrange(len(broken))])])
        try:
            read_noise(path, SHAPES)
        except ConfigError as error:
            assert "\n" not in str(error)
