"""Opening untrusted image files: a fixed list of formats, explicit limits, damage reported in one line."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from svd.console import one_line
from svd.data.png import strip_metadata
from svd.errors import UserError

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Formats that Pillow may open, and their suffixes. Its others start programs (EPS), contain much beside pictures (PSD,
ICNS) or are rare and rarely tested."""

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Two latent pixels: with fewer there is nothing to set in motion. The smallest icons in use have 16 pixels; what is
# smaller is a tracking pixel, a spacer or a mistake.
MIN_SIDE = 16

MAX_PIXELS = 2**30 // 12
"""89 million, a quarter of a gigabyte decoded: above it Pillow suspects a decompression bomb. A JPEG may have twice as
many, since it can be decoded at half its size."""

MAX_BYTES = 2**29
"""Of a file that is read into memory: MAX_PIXELS with 16 bits each of red, green and blue."""


class ImageError(UserError, ValueError):
    """An image that cannot be used; the message says in one line what is wrong and what to do."""


class UnknownImageError(ImageError):
    """A file that is not recognised as an image, or whose format is not supported."""


def suffixes() -> frozenset[str]:
    """Suffixes of the files that can be read here, in lower case with the dot."""
    return frozenset(suffix for name in _formats() for suffix in FORMATS[name])


def check_image(path: Path) -> None:
    """Raise ImageError for problems that the header shows; for a PNG, also for wrong checksums."""
    with _opened(path) as image:
        image.verify()


def read_image(path: Path) -> Image.Image:
    """Decode an image file: the first of several pictures, in the mode of the file, orientation not yet applied.

    A JPEG of more than MAX_PIXELS is decoded at half its size. Raises ImageError.
    """
    check_image(path)  # the checksums of a PNG, which decoding ignores
    with _opened(path) as image:
        if image.width * image.height > MAX_PIXELS:
            image.draft(None, (image.width // 2, image.height // 2))
        image.load()
        return image


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image without decoding it; any failure, here or in the block, becomes ImageError."""
    try:
        with _source(path) as source, warnings.catch_warnings():
            # Pillow warns of damaged metadata, which is not used, and of sizes, which are checked here.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_candidates(path)) as image:
                _check_size(image, path)
                yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; check the path") from error
    except PermissionError as error:
        raise ImageError(f"{path}: may not be read; change its permissions") from error
    except UnidentifiedImageError as error:
        raise UnknownImageError(f"{path}: {_unidentified(path)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: more pixels than Pillow reads ({one_line(error)}); scale it down first") from error
    except MemoryError as error:
        raise ImageError(f"{path}: there is not enough memory to read it; scale it down first") from error
    except Exception as error:  # decoders raise anything on broken files, SyntaxError included
        raise ImageError(f"{path}: damaged ({one_line(error)}); give a complete image file") from error


@contextmanager
def _source(path: Path) -> Iterator[BinaryIO]:
    """The file to read from; a PNG in memory, stripped of its metadata."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"{path}: a folder, not an image; give an image file")
    if not stat.S_ISREG(mode):  # opening a pipe may block for ever
        raise ImageError(f"{path}: a pipe or a device, not a file; write the image to a file first")
    with open(path, "rb") as file:
        yield BytesIO(strip_metadata(file, MAX_BYTES)) if file.read(8) == b"\x89PNG\r\n\x1a\n" else file


def _check_size(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{path}: {too_small(image)}")
    limit = 2 * MAX_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    if width * height > limit:
        raise ImageError(
            f"{path}: {width}x{height} are {width * height / 1e6:.0f} million pixels, and at most {limit // 10**6} "
            "million are read; scale it down first"
        )


def too_small(image: Image.Image) -> str:
    return f"{image.width}x{image.height}: too small; at least {MIN_SIDE} pixels on each side"


@cache
def _formats() -> list[str]:
    """The FORMATS that this Pillow can read."""
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    except ImportError:
        pass
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _candidates(path: Path) -> list[str]:
    """The formats to try: all, but TGA only by its suffix, since its files have no magic number."""
    return [name for name in _formats() if name != "TGA" or path.suffix.lower() in FORMATS["TGA"]]


def _unidentified(path: Path) -> str:
    """The message for a file that no format has recognised."""
    with open(path, "rb") as file:
        head = file.read(12)
    heif = head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS
    if heif and "HEIF" not in _formats():
        return 'a HEIC image: to read it, run pip install ".[heif]", or give it as JPEG or PNG'
    return "not an image, or damaged at its start; give a PNG or JPEG file"
