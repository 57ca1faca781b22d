"""Clips for training, cut from the videos that a CSV file lists."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from typing import Optional

import cv2
import numpy as np

from svd.data.dataset import BadItem, Dataset, PackedStrings, check_data, clip_place
from svd.data.video_reader import open_video
from svd.data.video_table import WANTED, read_table, spellings

MOST_FOLDERS = 1000
"""Limit of the folders that are checked at construction, which takes seconds on a slow disk."""


@dataclass(frozen=True)
class Clip:
    """Frames cut from a video.

    `frames` are uint8 RGB [t h w 3], shown at `fps` frames per second; `motion_bucket_id` says how much they move, and
    `path` where they are from. `note` is something worth reporting about the video, which does not prevent its use.
    `caption` says in words what they show; it is empty where nobody has said it.
    """

    frames: np.ndarray
    fps: float
    motion_bucket_id: float
    path: str
    note: Optional[str] = None
    caption: str = ""


def pixels(clips: list[Clip]) -> np.ndarray:
    """The frames of b clips as the video that networks take: [-1, 1], float32 [b t 3 h w]."""
    video = np.stack([clip.frames for clip in clips]).transpose(0, 1, 4, 2, 3)
    return video.astype(np.float32) / 127.5 - 1


class VideoDataset(Dataset):
    """Clips of the videos in a CSV file with the columns path, length (in frames) and motion_bucket_id.

    A column caption says what a video shows, for models that are given text. A column fps, where it has a number, takes
    the place of the frame rate that the video file states. Where the rate changes within the file, that of a clip does
    likewise. Every clip begins at a random frame of its video.

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
        for name, value, most in (("step", step, 10_000), ("height", height, 8192), ("width", width, 8192)):
            check_data(value >= 1, f"{name} must be positive, got {value}")
            check_data(value <= most, f"{name} must be {most} at most, got {value}")
        check_data(frames >= 2, f"frames must be at least 2 (a video), got {frames}")
        check_data(frames <= 1024, f"frames must be 1024 at most, got {frames}")
        check_data(metadata != "", f"metadata is missing; give {WANTED}")
        table = read_table(metadata)
        self.frames, self.height, self.width = frames, height, width
        self._step, self._span = step, (frames - 1) * step + 1
        longest = int(table.lengths.max())
        short = f"every video is too short: {self._needed()}, and the longest has {longest}; lower frames or step"
        check_data(longest >= self._span, f"{metadata}: {short}")
        found = not data_dir or os.path.isdir(data_dir)
        check_data(found, f"data_dir {data_dir}: no such folder; check the path")
        self._shape = (frames, step, height, width)
        self._horizontal_flip = horizontal_flip
        self._folder = os.path.abspath(data_dir or os.path.dirname(metadata))
        self._lengths, self._buckets, self._fps = table.lengths, table.buckets, table.fps
        self._paths, self._captions = PackedStrings(table.paths), PackedStrings(table.captions)
        self.captioned = any(table.captions)
        self._absent = self._absent_folders(table.paths)

    def __len__(self) -> int:
        return len(self._lengths)

    def name(self, index: int) -> str:
        return os.path.join(self._folder, self._paths[index])

    def enter_worker(self) -> None:
        cv2.setNumThreads(1)  # parallelism comes from processes

    def load(self, index: int, rng: np.random.Generator) -> Clip:
        """Load a clip; raises BadItem if the file is no video or has too few frames, and Unavailable."""
        # always both: no option shifts the random numbers of another
        place, mirror = clip_place(rng), rng.random() < 0.5
        path, length = self._locate(index), int(self._lengths[index])
        self._check_length(length, path, f"its length in the CSV is {length}")
        with open_video(path) as video:
            note = None
            if video.length is not None and video.length < length:
                self._check_length(video.length, path, f"it has {video.length}")
                note = f"has {video.length} frames, and its length in the CSV is {length}"
                length = video.length
            while (cut := video.read(self._start(place, length), *self._shape)) is None:
                note = f"ends after {video.length} of {length} frames"
                self._check_length(video.length, path, f"it {note}")
                length = video.length
            fps, frames = self._rate(index, video.fps, cut.rate), cut.frames
            if self._horizontal_flip and mirror:
                frames = np.ascontiguousarray(frames[:, :, ::-1])
        numbers = fps / self._step, float(self._buckets[index])
        return Clip(frames, *numbers, path, note, self._captions[index])

    def _rate(self, index: int, stated: Optional[float], shown: Optional[float]) -> float:
        """Frame rate of the video around the clip, from the stated rate and timestamps; raises BadItem.

        A rate in the CSV overrides the stated one.
        """
        given = float(self._fps[index])
        if given > 0:
            return given * shown / stated if stated and shown else given
        if not (shown or stated):
            raise BadItem(self.name(index), "has no frame rate; give one in a column fps of the CSV")
        return float(shown or stated)

    def _locate(self, index: int) -> str:
        """The existing path of a video under any spelling of its name, or else as it is spelt; raises BadItem."""
        name = self._paths[index]
        paths = [os.path.join(self._folder, spelling) for spelling in spellings(name)]
        path = next((path for path in paths if os.path.exists(path)), paths[0])
        if (folder := os.path.dirname(path)) in self._absent:
            # it was missing from the start: this is no disk that is away
            raise BadItem(path, f"no such file: there is no folder {folder}")
        return path

    def _absent_folders(self, paths: list[str]) -> frozenset[str]:
        """Folders of videos that are missing or empty now; not checked if there are too many."""
        folders = list(islice(dict.fromkeys(map(os.path.dirname, paths)), MOST_FOLDERS + 1))
        if len(folders) > MOST_FOLDERS:
            return frozenset()
        paths = (os.path.join(self._folder, folder) for folder in folders)
        return frozenset(path.rstrip("/") for path in paths if not _has_entries(path))

    def _start(self, place: float, length: int) -> int:
        """The first frame of a clip from a video of this length; `place` in [0, 1) chooses it."""
        return int(place * (length - self._span + 1))

    def _check_length(self, length: int, path: str, what: str) -> None:
        if length < self._span:
            raise BadItem(path, f"too short: {self._needed()}, and {what}")

    def _needed(self) -> str:
        return f"{self.frames} frames with step {self._step} need {self._span}"


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except FileNotFoundError:
        return False
    except OSError:  # it exists, and its files may be readable all the same
        return True
