"""Finding and loading images, resizing them for the model, and scaling them to [-1, 1]."""

from __future__ import annotations

import re
import warnings
from math import ceil, floor, log
from pathlib import Path

import numpy as np
from PIL import Image

from svd.console import first_few, one_line
from svd.data.colour import to_rgb
from svd.data.image_files import MIN_SIDE, ImageError, read_image, suffixes, too_small

RESIZES = ("crop", "pad", "fit")
"""How an image of another size is brought to the video's: see `prepare_image`."""


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """Read an image file, or take an open image, as 8-bit sRGB, upright; of several pictures, the first.

    Transparency is composited on white, 16 bits are scaled to 8, an embedded colour profile is applied. Raises
    ImageError for a file that is in none of the formats of svd.data.image_files, is damaged, has fewer than MIN_SIDE
    pixels on a side or more than can be read in bounded memory.
    """
    opened = isinstance(source, Image.Image)
    name = "the image" if opened else str(source)
    image = source if opened else read_image(Path(source))
    if min(image.size) < MIN_SIDE:
        raise ImageError(f"{name}: {too_small(image)}")
    try:
        rgb = to_rgb(image, name)
    except (ValueError, OSError) as error:
        raise ImageError(f"{name}: {one_line(error)}; save it as an 8-bit RGB PNG") from error
    rgb = rgb.copy() if rgb is source else rgb
    rgb.info = {}  # profile and orientation are applied: a saved copy must not state them again
    return rgb


def find_images(paths: str | Path | list[str | Path]) -> list[Path]:
    """List the given files and, sorted by name, the images in the given folders, without duplicates.

    Other files in a folder give a warning in one line, except hidden ones and videos that this project has made.
    Raises ImageError for a path that does not exist and a folder without images.
    """
    found = []
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        if path.is_dir():
            found += _in_folder(path)
        elif path.exists():
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file or folder; check the path")
    once = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def _in_folder(folder: Path) -> list[Path]:
    # other programs keep hidden files beside an image, such as macOS' `._cat.png`
    names = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not _is_own_output(path))
    known = suffixes()
    images = [path for path in names if path.suffix.lower() in known and not path.is_dir()]
    others = [path.name + "/" * path.is_dir() for path in names if path not in images]
    if not images:
        raise ImageError(f"{folder}: no images in this folder; give one with {', '.join(sorted(known))}")
    if others:
        remedy = ""
        if ".heic" not in known and any(name.lower().endswith((".heic", ".heif")) for name in others):
            remedy = '; HEIC images need pip install ".[heif]"'
        some = first_few(others, 5)
        warnings.warn(f"{folder}: passed over {len(others)} that are no images: {some}{remedy}", stacklevel=3)
    return images


def _is_own_output(path: Path) -> bool:
    """Whether a file or folder is a video of image_to_video.py, or its side file."""
    made = re.fullmatch(r"(.*_seed\d+(?:_\d+)?)(?:_frames|\.gif|\.mp4|\.yaml)", path.name, re.DOTALL)
    return made is not None and path.with_name(f"{made[1]}.yaml").is_file()


def prepare_image(image: Image.Image, height: int, width: int, resize: str = "crop", multiple: int = 64) -> np.ndarray:
    """Resize an RGB image to uint8 [h w 3] without distortion; one that has the size already stays bit for bit.

    "crop" covers height x width and crops the centre; "pad" shows all of the image, centred on black; "fit"
    takes the size nearest to the image's aspect among those of about the same area whose sides are multiples
    of `multiple`, and crops to it. Raises ImageError for another `resize`.
    """
    height, width = prepared_size(image, height, width, resize, multiple)
    if resize != "pad":
        return np.array(_cover(image, height, width))
    scale = min(height / image.height, width / image.width)
    inside = _cover(image, max(round(image.height * scale), 1), max(round(image.width * scale), 1))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(inside, ((width - inside.width) // 2, (height - inside.height) // 2))
    return np.array(canvas)


def prepared_size(image: Image.Image, height: int, width: int, resize: str, multiple: int) -> tuple[int, int]:
    """The height and width of what `prepare_image` makes of the image; raises ImageError for another `resize`."""
    if resize not in RESIZES:
        raise ImageError(f"resize {resize!r} is unknown; choose crop, pad or fit")
    if resize != "fit":
        return height, width
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

    # a tenth more area is a tenth more memory and time; if no size is that near, the nearest area is taken
    near = [size for size in sizes if area_error(size) < 0.1] or [min(sizes, key=area_error)]
    h, w = min(near, key=lambda size: (shape_error(size), area_error(size)))
    return h * multiple, w * multiple


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


def _cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crop the largest centred box of the aspect height : width and resize it to that size.

    The box has fractional borders, so that both axes are scaled by exactly the same factor.
    """
    scale = min(image.height / height, image.width / width)
    box_width, box_height = min(width * scale, image.width), min(height * scale, image.height)
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return image.resize((width, height), Image.Resampling.LANCZOS, box)
