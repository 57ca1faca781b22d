"""Decoded frames of a video to upright, deinterlaced RGB, and resizing."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, radians, sin
from typing import NamedTuple, Optional

import av
import cv2
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter

MAX_ASPECT = 10
"""Largest pixel aspect; a larger one means a damaged header."""


class Picture(NamedTuple):
    """An upright frame, uint8 RGB [h w 3], with pixels of aspect ratio `aspect` (width / height)."""

    pixels: np.ndarray
    aspect: float


class Converter:
    """Converts the frames of a video with pixels of this aspect ratio (default 1) to pictures."""

    def __init__(self, aspect: Optional[float]):
        self._aspect = float(aspect) if aspect and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else 1.0
        self._reformatter = VideoReformatter()  # it caches its tables between frames

    def picture(self, frame: av.VideoFrame) -> Picture:
        # colour matrix and range are the frame's; if it states none, FFmpeg assumes BT.601, limited range
        image = self._reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        plane = image.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        pixels = rows[:, : plane.width * 3].reshape(plane.height, plane.width, 3)
        return _upright(Picture(pixels, self._aspect), _display_matrix(frame))


def cover(frame: np.ndarray, height: int, width: int, aspect: float = 1.0) -> np.ndarray:
    """Resize a frame [h w c] to cover height x width, and crop the centre.

    Its pixels have the aspect ratio `aspect`, those of the result are square.
    """
    scale = max(height / frame.shape[0], width / (frame.shape[1] * aspect))
    if scale != 1 or aspect != 1:
        shown = max(round(frame.shape[0] * scale), height), max(round(frame.shape[1] * aspect * scale), width)
        frame = scaled(frame, *shown)
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


def scaled(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame [h w ...] resized: axes that shrink by area averages, those that grow by cubic interpolation."""
    smaller = min(height, frame.shape[0]), min(width, frame.shape[1])
    for size, interpolation in ((smaller, cv2.INTER_AREA), ((height, width), cv2.INTER_CUBIC)):
        if frame.shape[:2] != size:
            frame = cv2.resize(frame, size[::-1], interpolation=interpolation)
    return frame


def deinterlaced(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Frames, interlaced ones deinterlaced (bwdif)."""
    graph = None
    for frame in frames:
        if graph is None and frame.interlaced_frame:
            graph = _deinterlacer(frame)
        if graph is None:
            yield frame
        else:
            graph.vpush(frame)
            yield from _pulled(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph)


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(template=frame, time_base=frame.time_base)
    # one frame out per frame in; frames that are not flagged as interlaced pass unchanged
    graph.link_nodes(source, graph.add("bwdif", "send_frame:auto:interlaced"), graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):  # it needs more input, or has ended
            return


def _display_matrix(frame: av.VideoFrame) -> Optional[np.ndarray]:
    """FFmpeg's display matrix [3 3] of a frame (rotation, mirroring); None if it has none."""
    try:
        data = next((data for data in frame.side_data if data.type == Type.DISPLAYMATRIX), None)
    except ValueError:  # side data of a type unknown to this PyAV
        angle = -radians(frame.rotation)
        return np.array([[cos(angle), sin(angle), 0], [-sin(angle), cos(angle), 0], [0, 0, 1]])
    return None if data is None else np.frombuffer(data, np.int32).reshape(3, 3)


def _upright(picture: Picture, matrix: Optional[np.ndarray]) -> Picture:
    """A picture rotated and mirrored by a display matrix (quarter turns), whose rows are the images of x and y."""
    if matrix is None:
        return picture
    pixels, aspect = picture
    (x_to_x, x_to_y), (y_to_x, y_to_y) = matrix[:2, :2].tolist()
    x, y = x_to_x, y_to_y
    if abs(x_to_x) < abs(x_to_y):  # a quarter turn
        pixels, aspect, x, y = cv2.transpose(pixels), 1 / aspect, y_to_x, x_to_y
    if x < 0 or y < 0:
        pixels = cv2.flip(pixels, -1 if x < 0 and y < 0 else int(x < 0))
    return Picture(pixels, aspect)
