"""Videos as inputs of programs: files, folders of them, or clips of Moving MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from svd.config import ConfigError
from svd.data.dataset import BadItem, DatasetError, Unavailable
from svd.data.handwriting import is_mnist
from svd.data.moving_mnist import MovingMNIST
from svd.data.video_reader import open_video

SUFFIXES = (".mp4", ".gif", ".avi", ".mkv", ".mov", ".webm")
"""Of videos in a folder."""
MOST = 256
"""Videos of one run."""


def add_videos(parser: ArgumentParser, what: str) -> None:
    """Add `--video` and `--num_videos`; `what` they are."""
    add = parser.add_argument
    add("--video", nargs="+", default=[], help=f"{what}: files, or a folder of them; or clips of Moving MNIST: "
        "mnist_test_seq.npy, a .npz, or a folder of MNIST's idx files, to make them of its test digits.")  # fmt: skip
    add("--num_videos", type=PositiveInt, default=4, help="How many of them, at most.")


def check_videos(args: Namespace) -> None:
    """Raise ConfigError unless videos have been given."""
    if not args.video:
        raise ConfigError("--video is missing: files of videos, or a folder of them")
    if args.num_videos > MOST:
        raise ConfigError(f"--num_videos must be at most {MOST}, got {args.num_videos}")


def read_videos(args: Namespace, frames: int, height: int, width: int, channels: int) -> np.ndarray:
    """The first frames of the videos, uint8 [b t h w c], in grey if there is one channel.

    Raises:
        ConfigError: there is none, or one of them cannot be used.
    """
    try:
        if len(args.video) == 1 and (args.video[0].endswith((".npy", ".npz")) or is_mnist(args.video[0])):
            videos = _moving_mnist(args.video[0], args.num_videos, frames, height, width)
        else:
            paths = _paths(args.video)[: args.num_videos]
            videos = np.stack([_frames(path, frames, height, width) for path in paths])
    except (BadItem, Unavailable, DatasetError) as error:
        raise ConfigError(f"--video: {error}") from error
    if channels == 1:
        return np.round(videos.mean(-1, keepdims=True)).astype(np.uint8)
    return videos


def _moving_mnist(source: str, n: int, frames: int, height: int, width: int) -> np.ndarray:
    if height != width:
        raise ConfigError(f"--video {source} has square frames, and the model's are {height} x {width}")
    data = MovingMNIST(source, frames=frames, size=height, part="test")
    return np.stack([data.load(index).frames for index in range(min(n, len(data)))])


def _paths(given: list[str]) -> list[str]:
    paths = []
    for path in given:
        if os.path.isdir(path):
            found = sorted(str(file) for file in Path(path).iterdir() if file.suffix.lower() in SUFFIXES)
            if not found:
                raise ConfigError(f"--video {path}: no videos in this folder ({', '.join(SUFFIXES)})")
            paths += found
        else:
            paths.append(path)
    return paths


def _frames(path: str, frames: int, height: int, width: int) -> np.ndarray:
    with open_video(path) as video:
        cut = video.read(0, frames, 1, height, width)
        if cut is None:
            raise BadItem(path, f"too short: {frames} frames are needed, and it has {video.length}")
        return cut.frames
