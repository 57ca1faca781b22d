"""Image files: find them, read them, bring them to the size of the model and to numbers in [-1, 1]."""

from __future__ import annotations

from math import ceil, floor, log
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from svd.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

# Two values of the latent, which has one per 8 pixels: with less there is nothing in it to set in motion. The
# smallest icons in use have 16 pixels; what is smaller is a tracking pixel, a spacer or a mistake.
MIN_SIDE = 16


class ImageError(UserError, ValueError):
    """An image that cannot be used; the message says in one line what is wrong and what to do."""


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """Read an image file, or take an open image, as 8-bit RGB, upright; of an animation, the first picture.

    Transparency is laid on white, 16 bits are scaled to 8. Raises ImageError for what is no image, is damaged
    anywhere or has fewer than MIN_SIDE pixels on a side.
    """
    opened = isinstance(source, Image.Image)
    name = "the image" if opened else str(source)
    image = source if opened else _read(Path(source))
    if min(image.size) < MIN_SIDE:
        width, height = image.size
        raise ImageError(f"{name}: {width}x{height}: too small; at least {MIN_SIDE} pixels on each side")
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except (ValueError, OSError) as error:
        raise ImageError(f"{name}: {_one_line(error)}; save it as an 8-bit RGB PNG") from error


def find_images(paths: str | Path | list[str | Path]) -> list[Path]:
    """List the given files and, sorted by name, the images in the given folders, each once.

    Raises ImageError where nothing is, and for a folder that holds no image.
    """
    found = []
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        if path.is_dir():
            # a dot in front marks what other programs keep beside an image, such as macOS' `._cat.png`
            names = sorted(file for file in path.iterdir() if not file.name.startswith("."))
            images = [file for file in names if file.suffix.lower() in SUFFIXES]
            if not images:
                raise ImageError(f"{path}: no images in this folder; give one with {', '.join(SUFFIXES)}")
            found += images
        elif path.exists():
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file or folder; check the path")
    once = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def prepare_image(image: Image.Image, height: int, width: int, resize: str = "crop", multiple: int = 64) -> np.ndarray:
    """Bring an RGB image to uint8 [h w 3] without distorting it; one that has the size stays bit for bit.

    "crop" fills height x width and cuts what juts out equally on both sides; "pad" shows all of the image,
    centred on black; "fit" takes the size nearest to the image's shape among those of about the same area
    whose sides are multiples of `multiple`, and crops to it. Raises ImageError for another `resize`.
    """
    if resize == "crop":
        return np.array(_cover(image, height, width))
    if resize == "fit":
        return np.array(_cover(image, *_fitting_size(image, height, width, multiple)))
    if resize == "pad":
        scale = min(height / image.height, width / image.width)
        inside = _cover(image, max(round(image.height * scale), 1), max(round(image.width * scale), 1))
        canvas = Image.new("RGB", (width, height))
        canvas.paste(inside, ((width - inside.width) // 2, (height - inside.height) // 2))
        return np.array(canvas)
    raise ImageError(f"resize {resize!r} is unknown; choose crop, pad or fit")


def to_float(images: np.ndarray) -> np.ndarray:
    """Turn images [h w 3] or [b h w 3], uint8 or floats in [0, 1], into float32 [b 3 h w] in [-1, 1].

    Raises ImageError for another shape or type, for floats outside [0, 1] and for NaN.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or images.size == 0:
        raise ImageError(f"images of shape {list(images.shape)}; give [h w 3] or [b h w 3]")
    if images.dtype == np.uint8:
        values = images.astype(np.float32) / 255
    elif np.issubdtype(images.dtype, np.floating):
        values = images.astype(np.float32)
        if np.isnan(values).any():
            raise ImageError("images with NaN in them; floats must lie in [0, 1]")
        if values.min() < 0 or values.max() > 1:
            raise ImageError(
                f"images with values from {values.min():g} to {values.max():g}; floats must lie in [0, 1], "
                "and 0 to 255 must be uint8"
            )
    else:
        raise ImageError(f"images of type {images.dtype}; give uint8, or floats in [0, 1]")
    values = values.reshape(-1, *values.shape[-3:]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values * 2 - 1)


def _read(path: Path) -> Image.Image:
    """Open and decode all of an image file, or raise ImageError."""
    if path.is_dir():
        raise ImageError(f"{path}: a folder, not an image; give an image file")
    try:
        with Image.open(path) as image:
            image.verify()  # the checksums of a PNG, which decoding passes over; it uses the open file up
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; check the path") from error
    except PermissionError as error:
        raise ImageError(f"{path}: may not be read; change its permissions") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image, or damaged at its start; give a PNG or JPEG file") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {_one_line(error)}; scale it down first") from error
    except Exception as error:  # a broken file makes the decoders raise anything, SyntaxError included
        raise ImageError(f"{path}: damaged ({_one_line(error)}); give a complete image file") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; raises ValueError for pixels without a known white."""
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers without a known white")
    if image.mode.startswith("I"):  # 16 bits per pixel; Pillow's own conversion would clip, not scale
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"pixels from {pixels.min()} to {pixels.max()} do not fit 16 bits")
        image = Image.fromarray((pixels / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        # Cut-outs are drawn to be seen on a white page. Dropping the alpha channel instead would bring out
        # the colours that happen to be stored under the transparent pixels: often black, sometimes noise.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Cut the largest centred box of the shape height : width out of the image and scale it to that size.

    The box has fractional borders, so that both axes are scaled by exactly the same factor.
    """
    scale = min(image.height / height, image.width / width)
    box_width, box_height = min(width * scale, image.width), min(height * scale, image.height)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return image.resize((width, height), Image.Resampling.LANCZOS, box)


def _fitting_size(image: Image.Image, height: int, width: int, multiple: int) -> tuple[int, int]:
    """The size (height, width) that "fit" stands for: see `prepare_image`."""
    area = height * width / multiple**2  # from here on, sides are counted in multiples
    sizes = [
        (h, w)
        for h in range(1, ceil(1.1 * area) + 1)
        for w in range(max(floor(0.9 * area / h), 1), ceil(1.1 * area / h) + 1)
    ]

    def area_error(size: tuple[int, int]) -> float:
        return abs(log(size[0] * size[1] / area))

    def shape_error(size: tuple[int, int]) -> float:
        return abs(log(size[1] / size[0] * image.height / image.width))

    # a tenth more area is a tenth more memory and time; where nothing is that near, the nearest area is taken
    near = [size for size in sizes if area_error(size) < 0.1] or [min(sizes, key=area_error)]
    h, w = min(near, key=lambda size: (shape_error(size), area_error(size)))
    return h * multiple, w * multiple


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
