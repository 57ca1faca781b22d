"""Images of every mode, shape and state of decay become RGB of the model's size, or one clear line."""

import struct
import zlib
from math import log
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from svd.data.images import ImageError, find_images, load_image, prepare_image, to_float


@pytest.fixture
def photo() -> np.ndarray:
    """uint8 [40 60 3], no two rows or columns alike."""
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- load_image ---


def test_rgb_file_and_open_image_are_kept_bit_for_bit(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(photo)):
        image = load_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), photo)


@pytest.mark.parametrize("orientation, upright", [(3, lambda x: x[::-1, ::-1]), (6, lambda x: np.rot90(x, -1))])
def test_exif_rotation_is_applied(tmp_path, photo, orientation, upright):
    image = Image.fromarray(photo)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "turned.png")), upright(photo))


def test_transparency_is_laid_on_white(tmp_path, photo):
    alpha = np.zeros((40, 60, 1), np.uint8)
    alpha[:, 20:40] = 128
    alpha[:, 40:] = 255
    Image.fromarray(np.concatenate([photo, alpha], -1)).save(tmp_path / "cutout.png")
    result = np.asarray(load_image(tmp_path / "cutout.png"))
    assert (result[:, :20] == 255).all()
    half = 255 + (photo[:, 20:40].astype(float) - 255) * 128 / 255
    np.testing.assert_allclose(result[:, 20:40], half, atol=1)
    np.testing.assert_array_equal(result[:, 40:], photo[:, 40:])


def test_grey_with_alpha(photo):
    image = Image.merge("LA", [Image.fromarray(photo[..., 0]), Image.new("L", (60, 40), 255)])
    np.testing.assert_array_equal(np.asarray(load_image(image)), photo[..., :1].repeat(3, -1))


def test_palette_with_a_transparent_colour(tmp_path):
    indices = np.zeros((20, 20), np.uint8)
    indices[:, 10:] = 1
    image = Image.fromarray(indices)
    image.putpalette([200, 0, 0, 0, 0, 200])
    for kept, left in ((False, (200, 0, 0)), (True, (255, 255, 255))):
        image.save(tmp_path / "palette.png", **({"transparency": 0} if kept else {}))
        result = load_image(tmp_path / "palette.png")
        assert result.getpixel((0, 0)) == left
        assert result.getpixel((19, 0)) == (0, 0, 200)


def test_rgb_with_a_transparent_colour(tmp_path):
    image = Image.new("RGB", (20, 20), (10, 20, 30))
    image.putpixel((3, 4), (90, 80, 70))
    image.save(tmp_path / "keyed.png", transparency=(10, 20, 30))
    result = load_image(tmp_path / "keyed.png")
    assert result.getpixel((0, 0)) == (255, 255, 255)
    assert result.getpixel((3, 4)) == (90, 80, 70)


def test_grey(tmp_path, photo):
    Image.fromarray(photo[..., 0]).save(tmp_path / "grey.jpg", quality=100)
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "grey.jpg")), photo[..., :1].repeat(3, -1), atol=3)


def test_black_and_white():
    image = Image.new("1", (20, 20))
    image.putpixel((5, 6), 1)
    assert load_image(image).getpixel((5, 6)) == (255, 255, 255)
    assert load_image(image).getpixel((6, 5)) == (0, 0, 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled(tmp_path, photo, suffix):
    deep = photo[..., 0].astype(np.uint16) * 257
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(deep).save(path)
    np.testing.assert_array_equal(np.asarray(load_image(path)), photo[..., :1].repeat(3, -1))
    wide = Image.fromarray(deep.astype(np.int32))  # mode I: 16 bits in a wider number
    np.testing.assert_array_equal(np.asarray(load_image(wide)), photo[..., :1].repeat(3, -1))


def test_cmyk(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red, green, blue = load_image(tmp_path / "print.jpg").getpixel((16, 16))
    assert red > 250 and green < 5 and blue < 5


def test_the_first_picture_of_an_animation(tmp_path):
    first, second = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert load_image(tmp_path / "moving.gif").getpixel((0, 0)) == (255, 0, 0)


def test_pixels_without_a_known_white():
    for pixels in (np.zeros((20, 20), np.float32), np.full((20, 20), 70000, np.int32)):
        with pytest.raises(ImageError, match="8-bit") as error:
            load_image(Image.fromarray(pixels))
        one_line(error)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match=r"cat\.png: no such file"):
        load_image(tmp_path / "cat.png")
    with pytest.raises(ImageError, match="a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"these are words\nand more\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / "words.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="words.png") as error:
        load_image(path)
    one_line(error)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_file(tmp_path, photo, suffix, kept):
    path = tmp_path / f"half{suffix}"
    Image.fromarray(photo).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ImageError, match="half") as error:
        load_image(path)
    one_line(error)


def test_a_flipped_bit_in_a_png(tmp_path, photo):
    # Stored, not deflated: every pixel decodes, only the checksums can tell.
    raw = b"".join(b"\0" + row.tobytes() for row in photo)
    data = zlib.compress(raw, 0)
    path = tmp_path / "flipped.png"
    path.write_bytes(png(photo, data))
    np.testing.assert_array_equal(np.asarray(load_image(path)), photo)

    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    path.write_bytes(broken)
    with pytest.raises(ImageError, match="damaged"):
        load_image(path)


def png(pixels: np.ndarray, data: bytes) -> bytes:
    """A PNG file of 8-bit RGB pixels [h w 3] with this image data."""
    header = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    packed = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("width, height", [(1, 1), (15, 400), (400, 15), (0, 0)])
def test_too_small(tmp_path, width, height):
    image = Image.new("RGB", (width, height))
    with pytest.raises(ImageError, match=f"{width}x{height}: too small; at least 16 pixels") as error:
        load_image(image)
    if width:
        image.save(tmp_path / "dot.png")
        with pytest.raises(ImageError, match="dot.png"):
            load_image(tmp_path / "dot.png")
    one_line(error)
    assert load_image(Image.new("RGB", (16, 16))).size == (16, 16)


def test_too_many_pixels(tmp_path, photo, monkeypatch):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="scale it down"):
        load_image(tmp_path / "photo.png")


def test_unreadable_file(tmp_path, monkeypatch):
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.png")
    monkeypatch.setattr(Image, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(ImageError, match="permissions"):
        load_image(tmp_path / "secret.png")


# --- find_images ---


def test_files_and_folders_each_image_once(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", "c.webp"):
        (folder / name).touch()
    scan = tmp_path / "scan.jp2"  # named outright, any suffix is tried
    scan.touch()
    in_folder = [folder / "a.png", folder / "b.JPG", folder / "c.webp"]
    assert find_images(folder) == find_images(str(folder)) == in_folder
    assert find_images(scan) == [scan]
    assert find_images([folder / "c.webp", scan, folder, folder / ".." / "scan.jp2"]) == [
        folder / "c.webp",
        scan,
        folder / "a.png",
        folder / "b.JPG",
    ]


def test_nothing_found(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match="no images in this folder"):
        find_images(tmp_path)
    with pytest.raises(ImageError, match="no such file or folder"):
        find_images([tmp_path / "cat.png"])


# --- prepare_image ---


def disc(width: int, height: int) -> Image.Image:
    """A white disc, centred on grey, as wide as half the shorter side."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.hypot(x - width / 2, y - height / 2) < min(width, height) / 4
    return Image.fromarray(np.where(inside, 255, 100).astype(np.uint8)).convert("RGB")


SHAPES = [(512, 512), (900, 300), (300, 900), (1920, 1080), (64, 48), (333, 777)]


@pytest.mark.parametrize("resize", ["crop", "pad", "fit"])
@pytest.mark.parametrize("width, height", SHAPES)
def test_a_circle_stays_a_circle_in_the_middle(resize, width, height):
    result = prepare_image(disc(width, height), 192, 320, resize)
    assert result.dtype == np.uint8
    white = np.clip((result[..., 0].astype(float) - 100) / 155, 0, 1)
    wide, high = white.sum(axis=1).max(), white.sum(axis=0).max()
    assert wide == pytest.approx(high, abs=1.5)
    rows, columns = np.nonzero(white > 0.5)
    assert rows.mean() + 0.5 == pytest.approx(result.shape[0] / 2, abs=0.6)
    assert columns.mean() + 0.5 == pytest.approx(result.shape[1] / 2, abs=0.6)


@pytest.mark.parametrize("resize", ["crop", "pad", "fit"])
def test_an_image_of_the_right_size_passes_bit_for_bit(resize):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    np.testing.assert_array_equal(prepare_image(Image.fromarray(pixels), 64, 128, resize), pixels)


@pytest.mark.parametrize("width, height", SHAPES)
def test_crop_fills_and_pad_shows_all(width, height):
    white = Image.new("RGB", (width, height), "white")
    assert (prepare_image(white, 192, 320, "crop") == 255).all()
    padded = prepare_image(white, 192, 320, "pad")
    assert padded.shape == (192, 320, 3) and set(np.unique(padded)) <= {0, 255}
    rows, columns = np.nonzero(padded[..., 0])
    scale = min(192 / height, 320 / width)
    assert np.ptp(rows) + 1 == round(height * scale) and np.ptp(columns) + 1 == round(width * scale)


def test_crop_cuts_both_sides_equally():
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    assert (prepare_image(Image.fromarray(pixels), 100, 100, "crop") == 255).all()


@pytest.mark.parametrize(
    "image, multiple, size",
    [
        ((1024, 576), 64, (576, 1024)),
        ((1920, 1080), 64, (576, 1024)),
        ((1080, 1920), 64, (1024, 576)),
        ((100, 100), 64, (768, 768)),
        ((4000, 3000), 64, (704, 896)),
        ((3000, 1000), 64, (448, 1344)),
        ((4000, 3000), 8, (672, 896)),
    ],
)
def test_fit_sizes(image, multiple, size):
    assert prepare_image(Image.new("RGB", image), 576, 1024, "fit", multiple).shape[:2] == size


def test_fit_keeps_the_area_and_loses_little():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(200, 800, (20, 2)):
        h, w = prepare_image(Image.new("RGB", (width, height)), 576, 1024, "fit").shape[:2]
        assert h % 64 == 0 and w % 64 == 0
        assert abs(log(h * w / (576 * 1024))) < 0.1
        assert abs(log(w / h * height / width)) < 0.12


def test_fit_where_no_size_has_the_area():
    assert prepare_image(Image.new("RGB", (50, 50)), 20, 20, "fit").shape == (64, 64, 3)
    assert prepare_image(Image.new("RGB", (5000, 16)), 64, 128, "fit").shape == (64, 128, 3)


def test_any_size_to_any_size():
    rng = np.random.default_rng(1)
    for width, height, w, h in rng.integers(16, 200, (200, 4)):
        for resize in ("crop", "pad"):
            assert prepare_image(Image.new("RGB", (width, height)), h, w, resize).shape == (h, w, 3)


def test_unknown_resize():
    with pytest.raises(ImageError, match="choose crop, pad or fit"):
        prepare_image(Image.new("RGB", (20, 20)), 64, 64, "stretch")


# --- to_float ---


def test_uint8_and_the_same_as_floats_agree(photo):
    from_bytes = to_float(photo)
    assert from_bytes.shape == (1, 3, 40, 60) and from_bytes.dtype == np.float32
    assert from_bytes.flags.c_contiguous
    np.testing.assert_array_equal(from_bytes, to_float(photo.astype(np.float32) / 255))
    np.testing.assert_array_equal(to_float(np.array([[[0, 255, 0]]], np.uint8)).ravel(), [-1, 1, -1])


def test_a_batch_of_floats_passes_exactly():
    images = np.random.default_rng(0).random((2, 5, 7, 3), dtype=np.float32)
    np.testing.assert_array_equal(to_float(images), (images * np.float32(2) - np.float32(1)).transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "images, message",
    [
        (np.full((2, 2, 3), -0.1), "-0.1 to -0.1"),
        (np.full((2, 2, 3), 200.0), "0 to 255 must be uint8"),
        (np.full((2, 2, 3), np.inf), "lie in"),
        (np.full((2, 2, 3), np.nan), "NaN"),
        (np.zeros((2, 2, 3), np.int64), "int64"),
        (np.zeros((2, 2, 4), np.uint8), r"\[2, 2, 4\]"),
        (np.zeros((2, 3), np.uint8), r"\[2, 3\]"),
        (np.zeros((0, 2, 2, 3), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_refused(images, message):
    with pytest.raises(ImageError, match=message) as error:
        to_float(images)
    one_line(error)
