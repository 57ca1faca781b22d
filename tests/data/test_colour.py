"""Whatever a file says of its pixels: upright 8-bit sRGB on white comes of it, or a warning."""

import random
import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from picture_files import chunk, display_p3, exif, linear_grey, one_ink, png
from PIL import Image, ImageCms

from svd.data.colour import UPRIGHT
from svd.data.images import load_image

LYING = (0x0112, 3, 1, struct.pack("<H", 6))
"""A phone held upright."""


@pytest.fixture
def photo() -> np.ndarray:
    """uint8 [40 60 3], no two rows or columns alike."""
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_warnings():
    """But those that a test asks for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- orientation ---


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_every_orientation_in_every_format(tmp_path, photo, turned, suffix):
    upright, block = Image.fromarray(photo), Image.Exif()
    back = {6: 8, 8: 6}.get(turned, turned)  # what undoes it
    stored = upright.transpose(UPRIGHT[back]) if back in UPRIGHT else upright
    block[0x0112] = turned
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    stored.save(tmp_path / f"photo.{suffix}", exif=block, **options)
    result = np.asarray(load_image(tmp_path / f"photo.{suffix}")).astype(int)
    assert result.shape == photo.shape
    assert np.abs(result - photo).max() <= (12 if suffix == "jpg" else 0)


def test_the_orientation_is_found_among_any_metadata(tmp_path):
    """400 blocks: other entries of any type, count and content, in order or not, never end a run nor hide it."""
    chance = random.Random(5)
    picture = Image.new("RGB", (32, 16), "teal")
    for _ in range(400):
        entries = [LYING]
        for _ in range(chance.randint(1, 3)):
            tag = chance.choice([0x010F, 0x011A, 0x0131, 0x8769, 0x8825, 0x927C, chance.randrange(0x10000)])
            content = chance.randbytes(chance.choice([0, 1, 4, 8, 40]))
            count = chance.choice([0, 1, 2, len(content), chance.randrange(2**32)])
            if tag != LYING[0]:
                entries.append((tag, chance.randrange(20), count, content))
        chance.shuffle(entries)
        file = BytesIO()
        picture.save(file, "JPEG", exif=exif(*entries))
        (tmp_path / "photo.jpg").write_bytes(file.getvalue())
        assert load_image(tmp_path / "photo.jpg").size == (16, 32), entries


def test_blocks_of_nothing_but_noise(tmp_path):
    chance = random.Random(6)
    for _ in range(200):
        block = b"Exif\0\0" + chance.choice([b"II*\0", b"MM\0*", b""]) + chance.randbytes(chance.randint(0, 60))
        file = BytesIO()
        Image.new("RGB", (32, 16)).save(file, "JPEG", exif=block)
        (tmp_path / "photo.jpg").write_bytes(file.getvalue())
        assert set(load_image(tmp_path / "photo.jpg").size) == {16, 32}


@pytest.mark.parametrize(
    ("entry", "turned"),
    [
        ((0x0112, 2, 2, b"6\0"), True),
        ((0x0112, 3, 2, struct.pack("<HH", 6, 6)), True),
        ((0x0112, 3, 4, struct.pack("<HHHH", 6, 1, 1, 1)), True),
        ((0x0112, 8, 1, struct.pack("<h", 6)), True),
        ((0x0112, 4, 1, struct.pack("<L", 6)), True),
        ((0x0112, 5, 1, struct.pack("<LL", 6, 1)), True),
        ((0x0112, 11, 1, struct.pack("<f", 6)), True),
        ((0x0112, 11, 1, struct.pack("<f", float("nan"))), False),
        ((0x0112, 12, 1, struct.pack("<d", float("inf"))), False),
        ((0x0112, 3, 1, struct.pack("<H", 0)), False),
        ((0x0112, 3, 1, struct.pack("<H", 9)), False),
        ((0x0112, 3, 0, struct.pack("<H", 6)), False),
        ((0x0112, 77, 1, struct.pack("<H", 6)), False),
    ],
    ids=str,
)
def test_an_orientation_of_another_type(tmp_path, entry, turned):
    Image.new("RGB", (32, 16)).save(tmp_path / "photo.jpg", exif=exif(entry))
    assert load_image(tmp_path / "photo.jpg").size == ((16, 32) if turned else (32, 16))


def test_an_orientation_by_other_means(tmp_path, photo):
    """Big-endian, with the head of the block twice, as text of a PNG, by XMP, and set by the caller."""
    entry = (0x0112, 3, 1, struct.pack(">H", 6))
    block = exif(entry, order=">")
    Image.fromarray(photo).save(tmp_path / "big.jpg", exif=block)
    Image.fromarray(photo).save(tmp_path / "twice.jpg", exif=b"Exif\0\0" + block)
    raw = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    (tmp_path / "raw.png").write_bytes(png(photo, chunk(b"tEXt", raw)))
    (tmp_path / "xmp.png").write_bytes(png(photo, chunk(b"iTXt", xmp)))
    caller = Image.fromarray(photo)
    caller.getexif()[0x0112] = 6
    for source in (*(tmp_path / name for name in ("big.jpg", "twice.jpg", "raw.png", "xmp.png")), caller):
        assert load_image(source).size == (40, 60), source


def test_what_is_applied_is_not_stated_again(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif(LYING), icc_profile=display_p3())
    once = load_image(tmp_path / "turned.png")
    once.save(tmp_path / "saved.png")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "saved.png")), np.asarray(once))


# --- colour profiles ---


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_display_p3_becomes_srgb(tmp_path, suffix):
    """Its (234, 51, 35) is the red of sRGB."""
    path = tmp_path / f"wide.{suffix}"
    options = {"quality": 100} if suffix != "png" else {}
    Image.new("RGB", (32, 16), (234, 51, 35)).save(path, icc_profile=display_p3(), **options)
    assert np.abs(np.asarray(load_image(path)).astype(int) - (255, 0, 0)).max() <= 4


def test_transparency_survives_the_profile(tmp_path):
    image = Image.new("RGBA", (32, 16), (234, 51, 35, 255))
    image.paste((234, 51, 35, 0), (0, 0, 16, 16))
    image.save(tmp_path / "cutout.png", icc_profile=display_p3())
    result = load_image(tmp_path / "cutout.png")
    assert result.getpixel((3, 3)) == (255, 255, 255)
    assert np.abs(np.subtract(result.getpixel((30, 3)), (255, 0, 0))).max() <= 1


def test_palettes_and_grey_have_their_colours_converted(tmp_path):
    Image.new("RGB", (32, 16), (234, 51, 35)).quantize(2).save(tmp_path / "palette.png", icc_profile=display_p3())
    assert np.abs(np.subtract(load_image(tmp_path / "palette.png").getpixel((3, 3)), (255, 0, 0))).max() <= 1
    Image.new("L", (32, 16), 55).save(tmp_path / "grey.png", icc_profile=linear_grey())
    value = round(255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055))
    assert np.abs(np.subtract(load_image(tmp_path / "grey.png").getpixel((3, 3)), value)).max() <= 2


def test_cmyk_by_its_profile_and_without(tmp_path):
    for suffix in ("tif", "jpg"):
        path, plain = tmp_path / f"press.{suffix}", tmp_path / f"plain.{suffix}"
        image = Image.new("CMYK", (32, 16), (255, 0, 0, 0))
        image.save(path, icc_profile=one_ink())
        image.save(plain)
        assert max(load_image(path).getpixel((3, 3))) < 8, "its cyan is black"
        red, green, blue = load_image(plain).getpixel((3, 3))
        assert red < 8 and green > 247 and blue > 247
    Image.new("CMYK", (32, 16), (0, 255, 0, 255)).save(tmp_path / "white.tif", icc_profile=one_ink())
    assert min(load_image(tmp_path / "white.tif").getpixel((3, 3))) > 247


def test_a_picture_in_srgb_stays_bit_for_bit(tmp_path, photo):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo).save(tmp_path / "photo.png", icc_profile=srgb)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "photo.png")), photo)


@pytest.mark.parametrize(
    ("mode", "data", "why"),
    [
        ("RGB", b"nothing of the kind", "cannot open profile"),
        ("RGB", display_p3()[:200], "cannot open profile"),
        ("RGB", bytes(2**22 + 1), "too large"),
        ("RGB", linear_grey(), "it is for GRAY, the pixels are RGB"),
        ("RGB", one_ink(), "it is for CMYK, the pixels are RGB"),
        ("CMYK", display_p3(), "it is for RGB, the pixels are CMYK"),
    ],
    ids=["text", "cut", "large", "grey", "press", "screen"],
)
def test_a_profile_that_cannot_be_used_is_warned_of(tmp_path, mode, data, why):
    path = tmp_path / "photo.tif"
    Image.new(mode, (32, 16)).save(path, icc_profile=data)
    with pytest.warns(UserWarning, match=f"photo.tif: its colour profile cannot be used .*{why}.*taken for sRGB"):
        assert load_image(path).getpixel((3, 3)) == ((0, 0, 0) if mode == "RGB" else (255, 255, 255))


def test_random_damage_to_a_profile_never_ends_a_run():
    chance, whole = random.Random(7), display_p3()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(200):
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            image = Image.new("RGB", (16, 16), "teal")
            image.info["icc_profile"] = bytes(broken[: chance.choice([len(broken), chance.randrange(len(broken))])])
            assert load_image(image).size == (16, 16)


# --- modes ---


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_within_a_level(tmp_path, channels):
    values = np.linspace(0, 65535, 64).astype(np.uint16)
    pixels = np.broadcast_to(values[None, :, None], (32, 64, channels)).copy()
    if channels in (2, 4):
        pixels[..., -1] = 65535
    (tmp_path / "deep.png").write_bytes(png(pixels, depth=16))
    result = np.asarray(load_image(tmp_path / "deep.png")).astype(float)
    assert np.abs(result - values[None, :, None] / 257).max() <= 1


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    pixels = np.full((32, 32, 1), 300, np.uint16)
    pixels[:, 16:] = 40000
    (tmp_path / "keyed.png").write_bytes(png(pixels, chunk(b"tRNS", struct.pack(">H", 300)), depth=16))
    result = load_image(tmp_path / "keyed.png")
    assert result.getpixel((0, 0)) == (255, 255, 255) and result.getpixel((31, 0)) == (156, 156, 156)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_16_bits_in_any_order_of_bytes(mode):
    order = ">u2" if mode == "I;16B" else "<u2"
    data = np.full((20, 20), 40000, order).tobytes()
    assert load_image(Image.frombytes(mode, (20, 20), data)).getpixel((3, 3)) == (156, 156, 156)


@pytest.mark.parametrize(
    "mode", ["YCbCr", "LAB", "HSV", "RGBX", "RGBA", "RGBa", "LA", "La", "PA", "P", "1", "L", "CMYK"]
)
def test_every_mode_shows_what_it_means(mode):
    colour = Image.new("RGB", (20, 20), (200, 200, 200))
    source = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    if mode == "PA":
        image = Image.merge("LA", [colour.convert("L"), Image.new("L", (20, 20), 255)]).convert("PA")
    else:
        image = colour.convert(source).convert(mode) if source else colour.convert(mode)
    expected = load_image(image).getpixel((10, 10))
    assert np.abs(np.subtract(expected, 200)).max() <= (55 if mode == "1" else 4)


def test_lab_and_ycbcr_tiffs(tmp_path):
    for mode in ("LAB", "YCbCr"):
        Image.new("RGB", (32, 16), (220, 30, 30)).convert(mode).save(tmp_path / "scan.tif")
        assert np.abs(np.subtract(load_image(tmp_path / "scan.tif").getpixel((3, 3)), (220, 30, 30))).max() <= 4
