"""The clips of a folder's videos that are measured: which ones, in which order, of which size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import yaml

from svd.console import one_line
from svd.data.csv_rows import CsvRows
from svd.data.dataset import BadItem, DatasetError, Unavailable
from svd.data.video_reader import Video, open_video
from svd.seeds import Purpose, generator
from svd.yaml_files import load_yaml, read_yaml
from svd_tools.jobs.work import VIDEO_SUFFIXES, find_files, with_retries


class Choice(NamedTuple):
    """Which clip of each video is measured."""

    frames: int
    step: int
    """Every how many frames of the video one is taken."""
    start: str
    """first: it begins with the video. random: anywhere, by the seed."""
    size: Optional[tuple[int, int]]
    """Height and width that videos are brought to; None: they have one size."""
    seed: int
    samples: Optional[int]
    """How many videos are taken at most, chosen by the seed; None: all."""
    skip_unusable: bool


class Clip(NamedTuple):
    place: int
    """In the order of the folder's videos."""
    name: str
    frames: np.ndarray
    """uint8 [t h w 3]"""


class Folder:
    """The videos of a folder and all below it, in the order in which they are measured.

    Args:
        setting: name of the folder's setting, for messages.

    Raises:
        DatasetError: there are none, or the folder cannot be read.
    """

    def __init__(self, path: str, setting: str, choice: Choice):
        self.path, self.choice, self.setting = path, choice, setting
        found = list(find_files(path, VIDEO_SUFFIXES))
        for name, fault in found:
            if fault:
                raise DatasetError(f"{os.path.join(path, name)}: {fault}")
        names = [name for name, _ in found]
        stems = {os.path.splitext(name)[0] for name in names if not name.lower().endswith(".gif")}
        # programs here write a video twice, as .mp4 and as .gif
        names = [name for name in names if not name.lower().endswith(".gif") or os.path.splitext(name)[0] not in stems]
        if not names:
            known = ", ".join(sorted(VIDEO_SUFFIXES))
            raise DatasetError(f"{path}: no videos in it or below; they are known by {known}", setting)
        if choice.samples is not None and choice.samples < len(names):
            order = generator(choice.seed, 0, Purpose.ORDER).permutation(len(names))
            names = [names[place] for place in order]
        self.names = names
        self.size: Optional[tuple[int, int]] = choice.size
        self._first = ""

    @property
    def wanted(self) -> int:
        """How many videos are measured, if all can be."""
        return min(len(self.names), self.choice.samples or len(self.names))

    def identity(self) -> list[tuple[str, int, int]]:
        """Name, bytes and time of the last change of every video."""
        stats = [os.stat(os.path.join(self.path, name)) for name in self.names]
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(self.names, stats)]

    def clips(self, first: int, taken: int, skipped: list[str]) -> Iterator[Clip]:
        """The clips from place `first` on, if `taken` have been before; names that are skipped are added.

        Raises:
            DatasetError: a video is too short, damaged, or of another size.
        """
        for place in range(first, len(self.names)):
            if taken == self.wanted:
                return
            name = self.names[place]
            try:
                frames = with_retries(self._clip, name, place)
            except BadItem as error:
                if not self.choice.skip_unusable:
                    raise DatasetError(f"{error}; remove it, or skip what cannot be used", "skip_unusable") from error
                if name not in skipped:  # a run that was stopped may have told of it
                    skipped.append(name)
                continue
            except Unavailable as error:
                raise DatasetError(f"{error}: it cannot be read now; what is done is kept") from error
            taken += 1
            yield Clip(place, name, frames)

    def probe(self) -> tuple[int, int]:
        """Height and width of the clips, by the first video that can be used; raises DatasetError."""
        if next(self.clips(0, 0, []), None) is None:
            raise DatasetError(f"{self.path}: none of its {len(self.names)} videos can be used", self.setting)
        return self.size

    def _clip(self, name: str, place: int) -> np.ndarray:
        choice, path = self.choice, os.path.join(self.path, name)
        span = (choice.frames - 1) * choice.step + 1
        with open_video(path) as video:
            size = choice.size or _size(video, path)
            for length in (video.length, None):  # a file may state another length than it has
                if choice.start == "random" and length is None:
                    length = video.length = sum(1 for _ in video.frames())
                begin = 0
                if choice.start == "random" and length > span:
                    begin = int(generator(choice.seed, place, Purpose.DATA).integers(length - span + 1))
                cut = video.read(begin, choice.frames, choice.step, *size)
                if cut is not None:
                    self._check_size(size, path)
                    return cut.frames
            at = f" at a step of {choice.step}" if choice.step > 1 else ""
            raise BadItem(path, f"has {video.length} frames, fewer than the {span} of a clip{at}")

    def _check_size(self, size: tuple[int, int], path: str) -> None:
        if self.size is None:
            self.size, self._first = size, path
        elif size != self.size:
            other = f"{self._first or self.path} {self.size[1]} x {self.size[0]}"
            problem = f"{path} has {size[1]} x {size[0]} pixels, and {other}"
            raise DatasetError(f"{problem}: say which height and width all are brought to", "height")


def _size(video: Video, path: str) -> tuple[int, int]:
    """Height and width of a video's frames as they are shown, with square pixels."""
    frame = next(video.frames(), None)
    if frame is None:
        raise BadItem(path, "has no frame that can be decoded")
    pixels, aspect = video.picture(frame)
    return pixels.shape[0], max(round(pixels.shape[1] * aspect), 1)


def read_captions(folder: Folder, csv: Optional[str]) -> dict[str, str]:
    """What each of a folder's videos should show: by a CSV file, or else by the side files of the videos.

    Raises:
        DatasetError: there is none for a video.
    """
    if csv is not None:
        rows = CsvRows(csv, ("path", "caption"), (), "give a CSV file with the columns path and caption")
        found = {os.path.normpath(path): caption for _, (path, caption) in rows}
        captions = {name: found.get(os.path.normpath(name), "") for name in folder.names}
    else:
        captions = {name: _prompt(Path(folder.path, name).with_suffix(".yaml")) for name in folder.names}
    missing = [name for name, caption in captions.items() if not caption]
    if missing:
        where = f"in {csv}" if csv is not None else "in a side file of its name (.yaml), as svd text-to-video writes it"
        problem = f"{os.path.join(folder.path, missing[0])} has no caption {where}"
        raise DatasetError(f"{problem}, and {len(missing) - 1} others neither: give a CSV file of captions", "captions")
    return captions


def _prompt(path: Path) -> str:
    """The prompt in a side file; empty if there is none."""
    if not path.is_file():
        return ""
    try:
        content = load_yaml(read_yaml(path))
    except yaml.YAMLError as error:
        raise DatasetError(f"{path} is no YAML that can be used: {one_line(error)}") from error
    prompt = content.get("prompt") if isinstance(content, dict) else None
    prompt = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    return prompt if isinstance(prompt, str) else ""
