"""PNG files: what is no part of the picture is left aside, whatever its size and its state."""

import random
import tracemalloc
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from picture_files import chunk, display_p3, png
from PIL import Image

from svd.data.images import ImageError, load_image
from svd.data.png import strip_metadata

BIG = zlib.compress(b"workflow\0" * 400_000)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"workflow\0\0" + BIG),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + BIG),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + BIG),
        chunk(b"zTXt", b"prompt\0\0damaged"),
        chunk(b"tEXt", b"workflow\0" + bytes(3_000_000)),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(900_000))) * 80,
        chunk(b"acTL", b"odd"),
        chunk(b"eXIf", bytes(3_000_000)),
    ],
    ids=["ztxt", "itxt", "xmp", "raw", "damaged", "text", "many", "animation", "exif"],
)
def test_large_and_damaged_metadata(tmp_path, photo, extra, where):
    path = tmp_path / "photo.png"
    path.write_bytes(png(photo, extra) if where == "before" else png(photo, after=(extra,)))
    np.testing.assert_array_equal(np.asarray(load_image(path)), photo)


@pytest.mark.parametrize("content", [BIG, b"damaged", zlib.compress(display_p3())[:-30], zlib.compress(b"")])
def test_a_profile_that_is_too_large_or_damaged_is_warned_of(tmp_path, photo, content):
    path = tmp_path / "photo.png"
    path.write_bytes(png(photo, chunk(b"iCCP", b"p\0\0" + content)))
    with pytest.warns(UserWarning, match="photo.png: its colour profile cannot be used"):
        np.testing.assert_array_equal(np.asarray(load_image(path)), photo)


def test_a_bomb_is_not_inflated(tmp_path, photo):
    bomb = zlib.compress(bytes(200_000_000), 9)
    path = tmp_path / "photo.png"
    path.write_bytes(png(photo, chunk(b"iCCP", b"p\0\0" + bomb), chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb)))
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_image(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_picture_without_metadata_passes_as_it_is(photo):
    file = png(photo)
    assert strip_metadata(BytesIO(file), 2**20) == file
    with pytest.raises(ValueError, match="more than 0 MB of picture data"):
        strip_metadata(BytesIO(file), 1000)


def test_random_damage_is_told_of_in_one_line(tmp_path, photo):
    """A PNG has checksums: what is damaged in the picture is found, what is damaged beside it does not matter."""
    chance, path = random.Random(3), tmp_path / "photo.png"
    whole = png(photo, chunk(b"tEXt", b"note\0some words"))
    for _ in range(200):
        broken = bytearray(whole)
        broken[chance.randrange(8, len(broken))] ^= 1 << chance.randrange(8)
        path.write_bytes(broken)
        try:
            np.testing.assert_array_equal(np.asarray(load_image(path)), photo)
        except ImageError as error:
            assert "\n" not in str(error)


def test_of_an_animation_the_picture_that_others_show(tmp_path, photo):
    other = Image.new("RGB", (30, 20), "black")
    Image.fromarray(photo).save(tmp_path / "moving.png", save_all=True, append_images=[other])
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "moving.png")), photo)
