"""Clips for training, cut from the videos that a CSV file lists."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cv2
import numpy as np
import pandas as pd

from svd.data.dataset import BadItem, Dataset, DatasetError
from svd.data.strings import Strings
from svd.data.video_reader import open_video

COLUMNS = ("path", "length", "motion_bucket_id")
_WANTED = f"a CSV file with the columns {', '.join(COLUMNS)}"
"""Columns that the CSV must have; `fps` is optional, and others are passed over."""


@dataclass(frozen=True)
class Clip:
    """Frames cut from a video.

    `frames` are uint8 RGB [t h w 3], shown at `fps` frames per second; `motion_bucket_id` says how much they move, and
    `path` where they are from. `note` is something about the video to tell the user, which does not prevent its use.
    """

    frames: np.ndarray
    fps: float
    motion_bucket_id: float
    path: str
    note: Optional[str] = None


class VideoDataset(Dataset):
    """Clips of the videos in a CSV file with the columns path, length (in frames) and motion_bucket_id.

    A column fps, where it has a number, takes the place of the frame rate that the video file states. Every clip
    begins at a random frame of its video.

    Args:
        metadata: The CSV file; has to be given.
        data_dir: Folder that the paths in the CSV are relative to; by default the CSV file's own.
        frames: Frames of a clip.
        step: Distance between frames of a clip, in frames of the video; the clip's fps is the video's divided by it.
        height: Pixels of a clip's height; the video is scaled to cover height x width, and its middle is cut out.
        width: Pixels of a clip's width.
        horizontal_flip: Mirror half of the clips, at random.

    Raises:
        DatasetError: an argument or the CSV file cannot be used. Videos are not looked at before they are loaded.
    """

    def __init__(
        self,
        metadata: str = "",
        data_dir: str = "",
        frames: int = 14,
        step: int = 1,
        height: int = 576,
        width: int = 1024,
        horizontal_flip: bool = False,
    ):
        for name, value in (("step", step), ("height", height), ("width", width)):
            _check(value >= 1, f"{name} must be positive, got {value}")
        _check(frames >= 2, f"frames must be at least 2 (a video), got {frames}")
        _check(metadata != "", f"metadata is missing; give {_WANTED}")
        table = _read_table(metadata)
        self.frames, self.height, self.width = frames, height, width
        self._step, self._span = step, (frames - 1) * step + 1
        longest = int(table["length"].max())
        _check(
            longest >= self._span,
            f"{metadata}: every video is too short: {self._needed()}, and the longest has {longest}; "
            "lower frames or step",
        )
        _check(not data_dir or os.path.isdir(data_dir), f"data_dir {data_dir}: no such folder; check the path")
        self._shape = (frames, step, height, width)
        self._horizontal_flip = horizontal_flip
        self._folder = os.path.abspath(data_dir or os.path.dirname(metadata))
        self._paths = Strings(table["path"])
        self._lengths = table["length"].to_numpy(np.int64)
        self._buckets = table["motion_bucket_id"].to_numpy(np.float64)
        self._fps = table["fps"].to_numpy(np.float64)

    def __len__(self) -> int:
        return len(self._lengths)

    def name(self, index: int) -> str:
        return os.path.join(self._folder, self._paths[index])

    def enter_worker(self) -> None:
        cv2.setNumThreads(1)  # there are as many processes as are wanted

    def load(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip of a video; raises BadItem if the video has not frames enough or cannot be read."""
        # always both, so that no option shifts the random numbers of another
        place, mirror = rng.random(), rng.random() < 0.5
        path, length = self.name(index), int(self._lengths[index])
        self._check_length(length, path, f"its length in the CSV is {length}")
        with open_video(path) as video:
            fps = self._fps[index] if self._fps[index] > 0 else video.fps
            if fps is None:
                raise BadItem(path, "has no frame rate; give one in a column fps of the CSV")
            note = None
            if video.length is not None and video.length < length:
                self._check_length(video.length, path, f"it has {video.length}")
                note = f"has {video.length} frames, and its length in the CSV is {length}"
                length = video.length
            while (frames := video.read(self._start(place, length), *self._shape)) is None:
                note = f"ends after {video.length} of {length} frames"
                self._check_length(video.length, path, f"it {note}")
                length = video.length
        if self._horizontal_flip and mirror:
            frames = np.ascontiguousarray(frames[:, :, ::-1])
        return Clip(frames, float(fps) / self._step, float(self._buckets[index]), path, note)

    def _start(self, place: float, length: int) -> int:
        """The first frame of a clip from a video of this length; `place` in [0, 1) chooses it."""
        return int(place * (length - self._span + 1))

    def _check_length(self, length: int, path: str, what: str) -> None:
        if length < self._span:
            raise BadItem(path, f"too short: {self._needed()}, and {what}")

    def _needed(self) -> str:
        return f"{self.frames} frames with step {self._step} need {self._span}"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise DatasetError(message)


def _read_table(metadata: str) -> pd.DataFrame:
    """The checked columns path, length, motion_bucket_id and fps (NaN where it is not given); raises DatasetError."""
    path = Path(metadata)
    if path.is_dir():
        raise DatasetError(f"{path}: a folder, not a CSV file; give {_WANTED}")
    try:
        # Blank lines are dropped later, so that the index tells the line. Everything is read as text: a video may be
        # called `NA.mp4`, or `1`.
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, skipinitialspace=True, encoding="utf-8-sig"
        )
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; give {_WANTED}") from error
    except PermissionError as error:
        raise DatasetError(f"{path}: may not be read; change its permissions") from error
    except pd.errors.EmptyDataError as error:
        raise DatasetError(f"{path}: empty; give {_WANTED}") from error
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise DatasetError(
            f"{path}: not a CSV file in UTF-8 ({' '.join(str(error).split())}); give {_WANTED}"
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the fields that are too many for an index
        raise DatasetError(f"{path}: rows have more fields than the header; put paths with a comma in quotes")
    table.columns = table.columns.str.strip()
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        found = ", ".join(table.columns)
        raise DatasetError(f"{path}: no column {' and no column '.join(missing)}; found {found}; give {_WANTED}")
    if "fps" not in table.columns:
        table["fps"] = ""
    table = table[[*COLUMNS, "fps"]].fillna("").apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise DatasetError(f"{path}: no rows under the header; add one for each video")
    return _checked_values(table, path)


def _checked_values(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with its numbers as numbers; raises DatasetError for the first column that has wrong ones."""
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in ("length", "motion_bucket_id", "fps")}
    length, bucket, fps = numbers.values()
    rules = {
        "path": (table["path"] != "", "must not be empty"),
        "length": ((length > 0) & (length < 2**53) & (length % 1 == 0), "must be a whole number of frames, 1 or more"),
        "motion_bucket_id": ((bucket >= 0) & (bucket < np.inf), "must be a number, 0 or more"),
        "fps": ((table["fps"] == "") | ((fps > 0) & (fps < np.inf)), "must be a positive number, or empty"),
    }
    for name, (right, rule) in rules.items():
        wrong = table[name][~right]
        if len(wrong):
            some = ", ".join(f"{value!r} in line {line + 2}" for line, value in wrong.head(3).items())
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise DatasetError(f"{path}: {name} {rule}; found {some}{more}")
    return table.assign(**numbers)
