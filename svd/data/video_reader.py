"""Frames of a video file, decoded with OpenCV."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from math import inf
from typing import Optional

import cv2
import numpy as np

from svd.data.dataset import BadItem

MAX_FPS = 1000
"""Files without a frame rate may show the ticks of their clock instead, such as 90000."""

_TEXT = bytes(sorted({*b"\t\n\f\r\x1b", *range(0x20, 0x100)}))
"""Bytes of text, in any encoding but UTF-16; a video has others, such as zeros, from the start."""

# What is wrong with a file is said by BadItem. Read when the first video is opened; -8 is ffmpeg's `quiet`.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.setLogLevel(0)


class Video:
    """An open video file; `open_video` makes it.

    `fps` is its frame rate, None if it states none, and `length` its number of frames, None if it states none. A file
    may state more frames than it has; `read` finds that out.
    """

    def __init__(self, path: str):
        self._path = path
        self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        length = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps: Optional[float] = fps if 0 < fps <= MAX_FPS else None
        self.length: Optional[int] = int(length) if 0 < length < inf else None

    def read(self, start: int, frames: int, step: int, height: int, width: int) -> Optional[np.ndarray]:
        """Frames start, start + step, ..., each made of that size by `cover`: uint8 RGB [t h w 3].

        None if there are not so many frames; `length` is then the number of those that there are.
        """
        clip = np.empty((frames, height, width, 3), np.uint8)
        if self._seek(start) and self._fill(clip, 0, step) is None:
            return clip
        # MPEG-TS, bare streams and changing frame rates may be sought in vain: go through all frames instead
        self.close()
        self._open()
        end = self._fill(clip, start, step)
        if end is None:
            return clip
        self.length = end
        return None

    def advance(self) -> bool:
        """Go to the next frame, the first one at first; False if there is none."""
        return self._capture.grab()

    def picture(self) -> Optional[np.ndarray]:
        """The frame that it has come to, uint8 BGR [h w 3]; None if it cannot be decoded."""
        decoded, picture = self._capture.retrieve()
        return picture if decoded else None

    def close(self) -> None:
        self._capture.release()

    def _open(self) -> None:
        # One thread: there are as many processes as are wanted. ffmpeg would start one for each core in each of them.
        self._capture = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise BadItem(self._path, "not a video, or damaged")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # upright, as filmed with a phone on its side

    def _seek(self, start: int) -> bool:
        """Go to a frame; OpenCV takes its word back where it could not, but not for frame 1."""
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, start)
        return start > 1 and self._capture.get(cv2.CAP_PROP_POS_FRAMES) == start

    def _fill(self, clip: np.ndarray, skip: int, step: int) -> Optional[int]:
        """Pass over `skip` frames and put every step-th of the following into the clip [t h w 3].

        Returns how many frames there were if they ended before, else None.
        """
        for number in range(skip + (len(clip) - 1) * step + 1):
            if not self.advance():
                return number
            t, between = divmod(number - skip, step)
            if t < 0 or between:
                continue
            frame = self.picture()
            if frame is None:
                return number
            cv2.cvtColor(cover(frame, *clip.shape[1:3]), cv2.COLOR_BGR2RGB, dst=clip[t])
        return None


@contextmanager
def open_video(path: str) -> Iterator[Video]:
    """Open a video file; raises BadItem for what is none, and for what OpenCV fails at in the block."""
    _check_file(path)
    try:
        with closing(Video(path)) as video:
            yield video
    except cv2.error as error:
        raise BadItem(path, f"OpenCV cannot read it ({' '.join(str(error).split())})") from error


def cover(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale a frame [h w c] until it covers height x width, and cut what juts out equally on both sides."""
    scale = max(height / frame.shape[0], width / frame.shape[1])
    if scale != 1:
        size = max(round(frame.shape[1] * scale), width), max(round(frame.shape[0] * scale), height)
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


def _check_file(path: str) -> None:
    """Raise BadItem for what is no file that can be read, or empty."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise BadItem(path, "a folder, not a video")
        if not stat.S_ISREG(status.st_mode):  # OpenCV would wait for ever on a named pipe
            raise BadItem(path, "no ordinary file")
        if status.st_size == 0:
            raise BadItem(path, "an empty file")
        with open(path, "rb") as file:
            start = file.read(1024)
        if not start.translate(None, _TEXT):  # ffmpeg would make a video of its lines
            raise BadItem(path, "a text file, not a video")
    except FileNotFoundError as error:
        raise BadItem(path, "no such file") from error
    except PermissionError as error:
        raise BadItem(path, "may not be read; change its permissions") from error
    except (OSError, ValueError) as error:  # such as a name that is too long, or with a zero byte in it
        raise BadItem(path, getattr(error, "strerror", None) or str(error)) from error
