"""Which image files are opened, by which of Pillow's formats, and within what limits."""

import os
import struct
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from picture_files import chunk
from PIL import EpsImagePlugin, Image

from svd.data import image_files
from svd.data.image_files import FORMATS, UnknownImageError, check_image
from svd.data.images import ImageError, find_images, load_image

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
"""A file that says that it is a HEIC image, and has none."""


@pytest.fixture
def without_heif(monkeypatch):
    """As where the optional package is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    image_files._formats.cache_clear()
    yield
    image_files._formats.cache_clear()


def save(path, format=None, size=(32, 24), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format, **options)
    return path


# --- formats ---


def test_every_format_is_read_by_every_suffix(tmp_path):
    for format, names in FORMATS.items():
        if format == "HEIF":
            continue
        for suffix in names:
            path = save(tmp_path / f"photo{suffix}", format)
            assert load_image(path).size == (32, 24), suffix
            assert path in find_images(tmp_path)
            path.rename(tmp_path / f"photo{suffix.upper()}")
            assert (tmp_path / f"photo{suffix.upper()}") in find_images(tmp_path)


def test_a_file_is_known_by_its_content(tmp_path):
    """All but TGA, whose files begin with nothing that marks them."""
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"):
        assert load_image(save(tmp_path / "photo.dat", format)).size == (32, 24)
    with pytest.raises(UnknownImageError, match="not an image"):
        load_image(save(tmp_path / "photo.dat", "TGA"))


@pytest.mark.parametrize("name", ["photo.png", "photo.eps", "photo"])
def test_no_program_is_started_for_an_image(tmp_path, monkeypatch, name):
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""

    def start(*_, **__):
        pytest.fail("Ghostscript was asked for")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    Image.new("RGB", (32, 24)).save(tmp_path / name, "EPS")
    with Image.open(tmp_path / name) as image, pytest.raises(pytest.fail.Exception):
        image.load()
    for read in (load_image, check_image):
        with pytest.raises(UnknownImageError, match="not an image"):
            read(tmp_path / name)


@pytest.mark.parametrize("format", ["PDF", "PCX", "IM", "SGI", "ICO", "MSP"])
def test_other_formats_of_pillow_are_not_opened(tmp_path, format):
    Image.new("1" if format == "MSP" else "L", (32, 32)).save(tmp_path / "photo.png", format)
    with pytest.raises(UnknownImageError, match="photo.png: not an image"):
        load_image(tmp_path / "photo.png")


def test_of_several_pictures_the_first(tmp_path):
    first, second = Image.new("RGB", (32, 24), "red"), Image.new("RGB", (64, 48), "blue")
    small = second.resize(first.size)
    for name, other in (("a.gif", small), ("a.webp", small), ("a.avif", small), ("a.tif", second), ("a.mpo", second)):
        options = {"format": "MPO"} if name == "a.mpo" else {}
        first.save(tmp_path / name, save_all=True, append_images=[other], **options)
        image = load_image(tmp_path / name)
        assert image.size == (32, 24) and np.abs(np.subtract(image.getpixel((5, 5)), (255, 0, 0))).max() <= 8, name


# --- HEIC ---


def test_heic_without_its_package(tmp_path, without_heif):
    (tmp_path / "apple.heic").write_bytes(HEIC)
    (tmp_path / "renamed.jpg").write_bytes(HEIC)
    save(tmp_path / "photo.png")
    for name in ("apple.heic", "renamed.jpg"):
        with pytest.raises(UnknownImageError, match=r'HEIC image: to read it, run pip install "\.\[heif\]"'):
            load_image(tmp_path / name)
    with pytest.warns(UserWarning, match=r'passed over 1 .*: apple.heic; HEIC images need pip install "\.\[heif\]"'):
        assert [path.name for path in find_images(tmp_path)] == ["photo.png", "renamed.jpg"]


def test_heic_with_its_package(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    if not heif.options.SAVE_HDR_TO_12_BIT and not heif.libheif_info()["encoders"]:
        pytest.skip("this build writes no HEIC")
    pixels = np.full((48, 64, 3), (200, 40, 60), np.uint8)
    pixels[:, 32:] = (30, 60, 200)
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "photo.heic", quality=95)
    result = np.asarray(load_image(tmp_path / "photo.heic")).astype(int)
    assert np.abs(result - pixels)[:, [5, 60]].max() <= 12
    assert find_images(tmp_path) == [tmp_path / "photo.heic"]
    (tmp_path / "apple.heic").write_bytes(HEIC)
    with pytest.raises(ImageError, match="apple.heic: "):
        load_image(tmp_path / "apple.heic")


# --- limits ---


def zeros(path, width: int, height: int):
    """A PNG of black pixels, however many, of some kilobytes."""
    deflate = zlib.compressobj(9)
    data = b"".join(deflate.compress(bytes(1 + width)) for _ in range(height)) + deflate.flush()
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_more_pixels_than_are_read(tmp_path):
    path = zeros(tmp_path / "huge.png", 13_000, 13_000)
    assert path.stat().st_size < 500_000
    for read in (check_image, load_image):
        with pytest.raises(ImageError, match="13000x13000 are 169 million pixels, and at most 89 million are read"):
            read(path)


def test_a_header_that_lies(tmp_path):
    whole = bytearray(save(tmp_path / "photo.bmp").read_bytes())
    struct.pack_into("<ll", whole, 18, 9000, 9000)
    (tmp_path / "photo.bmp").write_bytes(whole)
    with pytest.raises(ImageError, match="photo.bmp: damaged"):
        load_image(tmp_path / "photo.bmp")
    struct.pack_into("<ll", whole, 18, 2**30, 2**30)
    (tmp_path / "photo.bmp").write_bytes(whole)
    with pytest.raises(ImageError, match="scale it down first"):
        load_image(tmp_path / "photo.bmp")


def test_a_large_jpeg_is_decoded_at_half_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 40 * 30)
    assert load_image(save(tmp_path / "a.jpg", size=(48, 32))).size == (24, 16)
    assert load_image(save(tmp_path / "b.jpg", size=(40, 30))).size == (40, 30)
    for path in (save(tmp_path / "c.jpg", size=(64, 48)), save(tmp_path / "d.png", size=(48, 32))):
        with pytest.raises(ImageError, match="million pixels, and at most .* scale it down first"):
            load_image(path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(ImageError, match="a pipe or a device, not a file"):
            load_image(path)


def test_a_short_look_finds_what_the_head_tells(tmp_path):
    whole = save(tmp_path / "photo.png").read_bytes()
    check_image(tmp_path / "photo.png")
    (tmp_path / "photo.png").write_bytes(whole[:-30])
    with pytest.raises(ImageError, match="damaged"):
        check_image(tmp_path / "photo.png")
    photo = save(tmp_path / "photo.jpg", size=(64, 64))
    photo.write_bytes(photo.read_bytes()[:-500])
    check_image(photo)
    with pytest.raises(ImageError, match="damaged"):
        load_image(photo)


# --- folders ---


def test_what_a_folder_holds_beside_images_is_named_once(tmp_path):
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    save(folder / "a.png")
    for name in ("notes.txt", "raw.cr2", ".hidden.txt", "b.yaml", "c_seed0.mp4"):
        (folder / name).touch()
    with pytest.warns(UserWarning) as told:
        assert find_images(folder) == [folder / "a.png"]
    (message,) = [str(warning.message) for warning in told]
    assert message == f"{folder}: passed over 5 that are no images: b.yaml, c_seed0.mp4, more/, notes.txt, raw.cr2"


def test_videos_of_this_project_are_no_images(tmp_path, recwarn):
    """A folder that is written to may be read from again."""
    save(tmp_path / "a.png")
    save(tmp_path / "b_seed0.gif")  # without options beside it: anybody's
    for name in ("a_seed0", "a_seed0_1", "c_seed12"):
        (tmp_path / f"{name}.yaml").touch()
        (tmp_path / f"{name}.mp4").touch()
        save(tmp_path / f"{name}.gif")
    (tmp_path / "a_seed0_frames").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.png", "b_seed0.gif"]
    assert not recwarn


def test_random_bytes_behind_every_magic_number_are_told_of_in_one_line(tmp_path):
    """Decoders meet what no encoder writes: 300 files, each cut, overwritten or both."""
    chance = np.random.default_rng(11)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"):
        file = BytesIO()
        Image.new("RGB", (24, 20), "teal").save(file, format)
        for _ in range(30):
            broken = bytearray(file.getvalue())
            for place in chance.integers(0, len(broken), chance.integers(0, 6)):
                broken[place] = chance.integers(256)
            path = tmp_path / f"photo{FORMATS[format][0]}"
            path.write_bytes(broken[: chance.integers(1, len(broken) + 1)])
            try:
                assert load_image(path).mode == "RGB"
            except ImageError as error:
                assert "\n" not in str(error) and str(path) in str(error)
