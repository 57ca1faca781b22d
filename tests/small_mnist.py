"""A folder of idx files as MNIST's: of each class a square of brightness 100 + class, of test 200 + class."""

import gzip
import struct
from pathlib import Path

import numpy as np


def write_mnist(folder: Path) -> str:
    """Write the files into a folder that exists, and return it."""
    for stem, brightness in (("train", 100), ("t10k", 200)):
        classes = np.arange(10)
        pictures = np.zeros((10, 28, 28), np.uint8)
        pictures[:, 4:24, 4:24] = (brightness + classes)[:, None, None]
        for name, array in ((f"{stem}-images-idx3-ubyte", pictures), (f"{stem}-labels-idx1-ubyte", classes)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            with gzip.open(folder / f"{name}.gz", "wb") as file:
                file.write(header + array.astype(np.uint8).tobytes())
    return str(folder)
