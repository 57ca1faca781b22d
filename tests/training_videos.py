"""Small videos for training, in whose pixels the number of every frame can be read, and the CSV that lists them."""

import subprocess
from pathlib import Path

import cv2
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from svd.data.videos import write_video

BITS = 8
"""Bits of a frame's number; its picture is a row of so many columns, black or white."""


def numbered_frames(count: int, height: int = 32, width: int = 48, first: int = 0) -> np.ndarray:
    """Frames of one colour per bit of their number, uint8 [t h w 3]."""
    numbers = np.arange(first, first + count)
    bits = numbers[:, None] >> np.arange(BITS) & 1
    columns = np.repeat(bits, -(-width // BITS), axis=1)[:, :width]
    return np.broadcast_to((columns * 200 + 28)[:, None, :, None], (count, height, width, 3)).astype(np.uint8)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """The numbers that can be read in frames [t h w 3] of any width."""
    small = np.stack([cv2.resize(frame[..., 1], (BITS * 3, 3), interpolation=cv2.INTER_AREA) for frame in frames])
    bits = small[:, 1, 1::3] > 128
    return (bits << np.arange(BITS)).sum(axis=1).tolist()


def ffmpeg(*arguments, frames: np.ndarray | None = None, as_rgb: bool = False) -> None:
    """Run ffmpeg; frames [t h w 3], if given, are its input, 25 per second unless an `-r` comes first.

    They are encoded as yuv420p unless `as_rgb` leaves that to the arguments.
    """
    inputs = []
    if frames is not None:
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        inputs = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]
        rate = arguments[:2] if arguments[0] == "-r" else ("-r", "25")
        arguments = arguments[2:] if arguments[0] == "-r" else arguments
        inputs += [*rate, "-i", "-"]
        plain = as_rgb or "-pix_fmt" in arguments or "gif" in str(arguments[-1])
        inputs += [] if plain and "libx264" not in arguments or "-pix_fmt" in arguments else ["-pix_fmt", "yuv420p"]
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-y", *inputs, *map(str, arguments)]
    subprocess.run(command, input=None if frames is None else frames.tobytes(), check=True, stderr=subprocess.PIPE)


def write_training_videos(
    folder: Path, count: int = 4, frames: int = 20, height: int = 32, width: int = 48, fps: float = 8
) -> Path:
    """Write `count` videos, the first frame of video i being number 16 i, and `videos.csv`; returns the CSV."""
    rows = []
    for index in range(count):
        name = f"video_{index}.mp4"
        write_video(folder / name, numbered_frames(frames, height, width, 16 * index), fps)
        rows.append((name, frames, 10 * index))
    return write_csv(folder / "videos.csv", rows)


def write_csv(path: Path, rows: list, header: str = "path,length,motion_bucket_id") -> Path:
    """Write rows under a header; returns the path."""
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path
