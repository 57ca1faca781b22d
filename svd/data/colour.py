"""Pixels of any mode to upright 8-bit sRGB on white, as a viewer would show them."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageCms

from svd.console import one_line

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture upright, by its EXIF orientation."""

MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Mode of the pixels that a profile is applied to, by its colour space."""

MAX_PROFILE = 2**22
"""Bytes; profiles of printing presses have about half of that."""


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """The image as a viewer shows it: 8-bit sRGB, composited on white, upright.

    An embedded profile that cannot be used gives a warning with the `name` of the image, and the colours are assumed to
    be sRGB. Raises ValueError for pixels without a known white point, and OSError for pixels that cannot be decoded.
    """
    image.load()
    profile, turned = image.info.get("icc_profile"), orientation(image)
    image = _in_8_bits(image)
    rgb = _by_profile(image, profile, name)
    if image.has_transparency_data:
        # Cut-outs are made for a white page. Dropping the alpha channel instead would reveal the colours
        # that happen to be stored under the transparent pixels: often black, sometimes noise.
        rgb = rgb or image.convert("RGB")
        alpha = (image if "A" in image.getbands() else image.convert("RGBA")).getchannel("A")
        rgb.paste("white", mask=ImageChops.invert(alpha))
    elif rgb is None:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb.transpose(UPRIGHT[turned]) if turned in UPRIGHT else rgb


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, or 0 if there is none.

    No other metadata is read, as cameras and editors write much that is malformed.
    """
    block = image.info.get("exif")
    if isinstance(block, bytes) and (found := _orientation_in(block)):
        return found
    try:  # the tag of a TIFF, XMP, and tags set by the caller
        value = image.getexif().get(ExifTags.Base.Orientation)
        return _number(value if isinstance(value, (str, bytes)) else np.ravel(value)[0])
    except Exception:  # Pillow raises anything on malformed metadata
        return 0


def _orientation_in(block: bytes) -> int:
    """The orientation in an EXIF block, or 0; only that entry is read, whatever its type."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHL", block, place)
            if tag == ExifTags.Base.Orientation and values:
                return _entry(block, place + 8, kind, values, order)
    except struct.error:  # truncated, or no EXIF at all
        pass
    return 0


def _entry(block: bytes, place: int, kind: int, values: int, order: str) -> int:
    """The first number of an EXIF entry, whose value or offset is at `place`."""
    if kind == 2:
        return _number(block[place : place + 4])
    form = {1: "B", 3: "H", 4: "L", 5: "L", 6: "b", 7: "B", 8: "h", 9: "l", 10: "l", 11: "f", 12: "d"}.get(kind)
    if form is None:
        return 0
    if struct.calcsize(form) * values * (2 if kind in (5, 10) else 1) > 4:
        (place,) = struct.unpack_from(f"{order}L", block, place)
    return _number(struct.unpack_from(f"{order}{form}", block, place)[0])


def _number(value) -> int:
    """1 to 8, or 0 for anything else."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    try:
        number = int(value.strip("\0 ") if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if 1 <= number <= 8 else 0


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits per pixel to 8, where Pillow's own conversion would clip; other modes are left alone."""
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers without a known white")
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels from {pixels.min()} to {pixels.max()} do not fit 16 bits")
    grey = Image.fromarray((np.arange(65536) / 257).round().astype(np.uint8)[pixels])
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    return Image.merge("LA", [grey, Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8))])


def _by_profile(image: Image.Image, profile: bytes | None, name: str) -> Image.Image | None:
    """The image converted from its embedded profile to sRGB; None if there is none to apply."""
    if profile is None or image.mode == "LAB":
        return None
    try:
        return _transformed(image, profile)
    except Exception as error:  # LittleCMS raises anything on malformed profiles
        warnings.warn(
            f"{name}: its colour profile cannot be used ({one_line(error)}); its colours are taken for sRGB",
            stacklevel=2,
        )
        return None


def _transformed(image: Image.Image, data: bytes) -> Image.Image | None:
    """The image converted by an ICC profile to sRGB, or None if that changes no colour by more than one level."""
    if not 0 < len(data) <= MAX_PROFILE:
        raise ValueError("it is too large" if data else "it is damaged, or too large")
    profile = ImageCms.ImageCmsProfile(BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    mode = MODES.get(space)
    grey = image.mode in ("1", "L", "LA")
    if mode is None or (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and not grey):
        raise ValueError(f"it is for {space}, the pixels are {image.mode}")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode != "CMYK" and _is_identity(transform, mode):
        return None
    return ImageCms.applyTransform(image.convert(mode), transform)


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform is sRGB to sRGB up to rounding, as most are: such pictures stay as they are, bit for bit."""
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None]
    else:
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        probe = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    image = Image.fromarray(probe)
    before, after = (np.asarray(x, np.int16) for x in (image.convert("RGB"), ImageCms.applyTransform(image, transform)))
    return bool(np.abs(after - before).max() <= 1)
