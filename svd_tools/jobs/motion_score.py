"""How much a video moves: the mean length of its optical flow (SVD, appendix C)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from svd.data.dataset import BadItem, Unavailable
from svd.data.pictures import Picture
from svd.data.video_reader import Video, open_video
from svd_tools.jobs.work import with_retries

RATE = 2
"""Frames per second between which flow is measured."""
SIDE = 16
"""Pixels of the shortest side at which flow is measured."""
STARTS = ((16,), (8, 16), (4, 8, 16))
"""Image pyramids, as shortest sides. Farneback's method at 16 pixels alone loses motion by more than a quarter of the
picture, and coarser starts sometimes go astray: the flow with the least residual is taken.
"""
BORDER = 8
"""Padding of a frame. Farneback's method finds spurious motion at the very edge."""
COLUMNS = {"length": "INTEGER", "fps": "REAL", "score": "REAL"}
"""Values that `score_video` returns, and their types in a journal."""


def score_row(path: str, folder: str = "") -> dict[str, Any]:
    """The row of a video: path (relative to the folder), why, length, fps and score.

    `why` is empty on success, the reason if the video cannot be scored, or None if it cannot be read at the moment; the
    other values are then None. Nothing is raised, and one thread is used, since parallelism comes from processes.
    """
    cv2.setNumThreads(1)
    try:
        return {"path": path, "why": "", **with_retries(score_video, os.path.join(folder, path))}
    except BadItem as error:
        why = error.reason
    except Unavailable:
        why = None
    except Exception as error:  # one video in a million must not end the job
        why = " ".join(f"{type(error).__name__}: {error}".split())
    return {"path": path, "why": why, **dict.fromkeys(COLUMNS)}


def score_video(path: str) -> dict[str, Any]:
    """Length in frames (all are decoded and counted), fps and motion score of a video; raises BadItem.

    The score is the mean over time and space of how far things move in half a second, in sixteenths of the picture's
    shortest side, rounded to four decimals. It does not depend on the size or the frame rate of the file.
    """
    with open_video(path) as video:
        if video.fps is None:
            raise BadItem(path, "has no frame rate")
        total, pairs = 0.0, 0
        for (start, before), (end, after) in pairwise(_samples(video)):
            total += motion(before, after) * video.fps / RATE / (end - start)
            pairs += 1
        if pairs == 0:
            raise BadItem(path, "has fewer than two frames")
        return {"length": video.length, "fps": round(video.fps, 4), "score": round(total / pairs, 4)}


def motion(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length of the flow in pixels between two frames, uint8 [h w] with a shortest side of 16.

    It is 0 for frames that differ by rounding alone, as those of an encoded still do.
    """
    if cv2.absdiff(before, after).max() <= 1:
        return 0.0
    flows = [_flow(before, after, sides) for sides in STARTS]
    flow = min(flows, key=lambda flow: _residual(before, after, flow))
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean())


def _flow(before: np.ndarray, after: np.ndarray, sides: tuple[int, ...]) -> np.ndarray:
    """Farneback's flow [h w 2] between two frames, coarse to fine over these sides."""
    flow = np.zeros((1, 1, 2), np.float32)
    for side in sides:
        frames = [_scaled(frame, side) for frame in (before, after)]
        flow = cv2.resize(flow, frames[0].shape[::-1]) * (side / min(flow.shape[:2]))
        flow = cv2.calcOpticalFlowFarneback(
            *map(_padded, (*frames, flow)), pyr_scale=0.5, levels=1, winsize=15, iterations=3, poly_n=5, poly_sigma=1.1,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )[BORDER:-BORDER, BORDER:-BORDER]  # fmt: skip
    return flow


def _residual(before: np.ndarray, after: np.ndarray, flow: np.ndarray) -> float:
    """Mean difference between a frame and the next one warped back by the flow."""
    y, x = np.indices(before.shape, np.float32)
    back = cv2.remap(after, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.absdiff(before, back).mean())


def _samples(video: Video) -> Iterator[tuple[int, np.ndarray]]:
    """(place, `_small` frame) of two frames per second, or of every frame if there are fewer.

    The place is the presentation time in units of the frame period: the frame's number unless the rate changes. A video
    shorter than half a second gives its first and last frame. Sets `video.length` to the actual number of frames.
    """
    step = max(video.fps / RATE, 1)
    number, place, taken, due = -1, 0, 0, 0
    for number, frame in enumerate(video.frames()):
        if number == 0:
            begin = frame.time
        place = number if None in (begin, frame.time) else round((frame.time - begin) * video.fps)
        if place >= round(due * step) or taken == 1:  # it may turn out to be the last frame
            small = _small(video.picture(frame))
        if place >= round(due * step):
            yield place, small
            taken += 1
            while round(due * step) <= place:
                due += 1
    if taken == 1 and number > 0:
        yield max(place, 1), small
    video.length = number + 1


def _small(picture: Picture) -> np.ndarray:
    """A picture in grey [h w], its shortest side 16 square pixels."""
    return cv2.cvtColor(_scaled(picture.pixels, SIDE, picture.aspect), cv2.COLOR_RGB2GRAY)


def _scaled(frame: np.ndarray, side: int, aspect: float = 1.0) -> np.ndarray:
    """A frame [h w ...] of this pixel aspect resized to this shortest side."""
    height, width = frame.shape[0], frame.shape[1] * aspect
    scale = side / min(height, width)
    size = round(width * scale), round(height * scale)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _padded(frame: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(frame, *[BORDER] * 4, cv2.BORDER_REPLICATE)
