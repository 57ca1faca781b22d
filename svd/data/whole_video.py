"""A video that is read from its first frame to its last, for programs that make another of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from svd.data.dataset import BadItem, Unavailable
from svd.data.pictures import cover
from svd.data.video_reader import open_video
from svd.errors import UserError


class VideoInputError(UserError, ValueError):
    """A video that cannot be used; the message says in one line what is wrong."""


@dataclass(frozen=True)
class WholeVideo:
    """What is known of a video of which all frames can be decoded; pixels are square."""

    path: str
    frames: int
    fps: float
    height: int
    width: int

    def pictures(self) -> Iterator[np.ndarray]:
        """All frames, uint8 RGB [h w 3], one at a time."""
        with open_video(self.path) as video:
            for frame in video.intact_frames():
                pixels, aspect = video.picture(frame)
                yield cover(pixels, self.height, self.width, aspect)


def inspect(path: str) -> WholeVideo:
    """Decode a video once, so that damage is told of before long work begins.

    Raises:
        VideoInputError: it is no video, has a damaged frame, fewer than two, or no frame rate.
    """
    try:
        with open_video(path) as video:
            count, first, last, size = 0, None, None, (0, 0)
            for frame in video.intact_frames():
                if not count:
                    (pixels, aspect), first = video.picture(frame), frame.time
                    size = pixels.shape[0], round(pixels.shape[1] * aspect)
                last, count = frame.time, count + 1
            if count < 2:
                raise VideoInputError(
                    f"{path}: has {count} frame: nothing is between frames; give a video of two or more"
                )
            fps = video.rate_between(first, last, count) or video.fps
    except (BadItem, Unavailable) as error:
        raise VideoInputError(str(error)) from error
    if not fps:
        raise VideoInputError(f"{path}: has no frame rate; write it anew, as .mp4 for example")
    return WholeVideo(path, count, fps, *size)
