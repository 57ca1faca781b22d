"""Opening image files that nobody vouches for: a fixed list of formats, limits that are told, damage in one line."""

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
"""What Pillow may open, and how such files are named. Its other formats start programs (EPS), hold many things beside
pictures (PSD, ICNS) or are seldom met and seldom tested."""

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Two values of the latent, which has one per 8 pixels: with less there is nothing in it to set in motion. The
# smallest icons in use have 16 pixels; what is smaller is a tracking pixel, a spacer or a mistake.
MIN_SIDE = 16

MAX_PIXELS = 2**30 // 12
"""89 million, a quarter of a gigabyte decoded: from there on Pillow takes a picture for a trap. A JPEG may have twice
that, since it can be decoded at half its size."""

MAX_BYTES = 2**29
"""Of a file that is to be read whole: what MAX_PIXELS take with 16 bits each of red, green and blue."""


class ImageError(UserError, ValueError):
    """An image that cannot be used; the message says in one line what is wrong and what to do."""


class UnknownImageError(ImageError):
    """A file that is no image as far as can be told, or one of a format that is not read."""


def suffixes() -> frozenset[str]:
    """How the files are named that can be read here, in lower case with the dot."""
    return frozenset(suffix for name in _formats() for suffix in FORMATS[name])


def check_image(path: Path) -> None:
    """Raise ImageError for what a look at the head of the file tells; of a PNG, also for wrong checksums."""
    with _opened(path) as image:
        image.verify()


def read_image(path: Path) -> Image.Image:
    """Decode all of an image file: of several pictures the first, in the mode of the file, not yet turned upright.

    A JPEG of more than MAX_PIXELS is decoded at half its size. Raises ImageError.
    """
    check_image(path)  # the checksums of a PNG, which decoding passes over
    with _opened(path) as image:
        if image.width * image.height > MAX_PIXELS:
            image.draft(None, (image.width // 2, image.height // 2))
        image.load()
        return image


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image of a file, not decoded yet; whatever goes wrong with it, here or in the block, becomes ImageError."""
    try:
        with _source(path) as source, warnings.catch_warnings():
            # Pillow warns of damaged metadata, which are not used, and of sizes, which are checked here.
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
    except Exception as error:  # a broken file makes the decoders raise anything, SyntaxError included
        raise ImageError(f"{path}: damaged ({one_line(error)}); give a complete image file") from error


@contextmanager
def _source(path: Path) -> Iterator[BinaryIO]:
    """The file to read from; a PNG in memory, without what is no part of the picture."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"{path}: a folder, not an image; give an image file")
    if not stat.S_ISREG(mode):  # to open a pipe may wait for ever
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
    """Those of FORMATS that this Pillow can read."""
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    except ImportError:
        pass
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _candidates(path: Path) -> list[str]:
    """The formats to try: all, but TGA by its suffix alone, as its files begin with nothing that marks them."""
    return [name for name in _formats() if name != "TGA" or path.suffix.lower() in FORMATS["TGA"]]


def _unidentified(path: Path) -> str:
    """What a file is that no format has taken for its own, and what to do."""
    with open(path, "rb") as file:
        head = file.read(12)
    heif = head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS
    if heif and "HEIF" not in _formats():
        return 'a HEIC image: to read it, run pip install ".[heif]", or give it as JPEG or PNG'
    return "not an image, or damaged at its start; give a PNG or JPEG file"
