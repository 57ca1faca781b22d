"""The CSV file that lists the videos of a data set."""

from __future__ import annotations

import warnings
from array import array
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from svd.data.csv_rows import CsvRows
from svd.data.dataset import DatasetError

COLUMNS = ("path", "length", "motion_bucket_id")
WANTED = f"a CSV file with the columns {', '.join(COLUMNS)}"
"""Required columns of the CSV; `fps` and `caption` are optional, all others are ignored."""
TRAINED_BUCKETS = 255
"""The largest motion_bucket_id that the models were trained with."""

_RULES = {
    "length": (1, 2**53, "must be a whole number of frames, 1 or more, without separators of thousands"),
    "motion_bucket_id": (0, 1e6, "must be a number, 0 or more and 1000000 at most"),
    "fps": (1e-3, 1e3, "must be a positive number, 0.001 to 1000, or empty"),
}
"""Bounds of the numbers, and their wording in messages."""


class VideoTable(NamedTuple):
    """Paths, captions (empty where none is given), lengths in frames (int64), motion buckets and frame rates (float64;
    nan where none is given) of videos.
    """

    paths: list[str]
    captions: list[str]
    lengths: np.ndarray
    buckets: np.ndarray
    fps: np.ndarray


def read_table(metadata: str) -> VideoTable:
    """Read and check a CSV file; raises DatasetError, and warns of motion buckets outside the trained range."""
    rows = CsvRows(metadata, COLUMNS, ("fps", "caption"), f"give {WANTED}")
    paths: list[str] = []
    captions: list[str] = []
    numbers = {name: array("d") for name in _RULES}
    wrong: dict[str, list[str]] = {name: [] for name in ("path", *_RULES)}
    for line, (path, *cells, caption) in rows:
        paths.append(path)
        captions.append(caption)
        if not path:
            wrong["path"].append(f"{path!r} in line {line}")
        for (name, (least, most, _)), cell in zip(_RULES.items(), cells):
            number = rows.number(cell)
            numbers[name].append(number)
            if not least <= number <= most and (cell or name != "fps") or name == "length" and number % 1:
                wrong[name].append(f"{cell!r} in line {line}")
    for name, cells in wrong.items():
        if cells:
            rule = "must not be empty" if name == "path" else _RULES[name][-1]
            found = ", ".join(cells[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")
            raise DatasetError(f"{metadata}: {name} {rule}; found {found}")
    if not paths:
        raise DatasetError(f"{metadata}: no rows under the header; add one for each video")
    lengths, buckets, fps = (np.frombuffer(column) for column in numbers.values())
    if high := np.count_nonzero(buckets > TRAINED_BUCKETS):
        warnings.warn(
            f"{metadata}: motion_bucket_id is above {TRAINED_BUCKETS}, outside of what the model was trained on, in "
            f"{high} of {len(paths)} rows (up to {buckets.max():g})",
            stacklevel=2,
        )
    return VideoTable(paths, captions, lengths.astype(np.int64), buckets, fps)


def spellings(path: str) -> list[str]:
    """A path as it is written, and as other systems may write it: with slashes, in Unicode forms NFC and NFD."""
    found = []
    for name in (path, path.replace("\\", "/")):
        found += [name, normalize("NFC", name), normalize("NFD", name)]
    return list(dict.fromkeys(found))
