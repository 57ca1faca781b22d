"""Writing frames as .mp4, .gif or numbered PNGs, atomically."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from math import ceil, sqrt
from pathlib import Path
from typing import NamedTuple, Optional

import imageio.v2 as imageio
import numpy as np
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image

from svd.errors import UserError
from svd.files import atomic_write


class VideoError(UserError, ValueError):
    """A video that cannot be written; the message says in one line what is wrong and what to do."""


class Sound(NamedTuple):
    """The sound of a video file."""

    path: str
    codec: str
    """FFmpeg's name of its codec."""


_IN_MP4 = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
"""Codecs of sound that players expect in .mp4, which is then kept as it is; any other is made AAC."""
_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)
"""ffmpeg filters that convert to BT.709, which players expect, and tag the file with it. By default ffmpeg takes BT.601
and does not tag it, and players guess by the size."""


def write_video(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write frames, uint8 RGB [t h w 3], shown at `fps` frames per second, as .mp4 (H.264) or .gif.

    An existing file is replaced atomically. Raises VideoError for another
    suffix, frames of another shape or type, an fps that is not positive and a missing folder, and OSError if
    the disk refuses.
    """
    path = Path(path)
    writers = {".mp4": _write_mp4, ".gif": _write_gif}
    if path.suffix.lower() not in writers:
        raise VideoError(f"{path}: no suffix of a video; choose {' or '.join(writers)}")
    if not fps > 0:
        raise VideoError(f"{path}: {fps} frames per second; give a positive number")
    _check_frames(frames)
    _check_parent(path)
    with atomic_write(path) as aside:
        writers[path.suffix.lower()](aside, frames, fps)


def write_stream(path: str | Path, frames: Iterable[np.ndarray], fps: float, sound: Optional[Sound] = None) -> None:
    """Write frames, uint8 RGB [h w 3], as .mp4 while they are made, with this sound.

    Errors as `write_video`; those of the frames are raised as they are.
    """
    path = Path(path)
    _check_parent(path)
    with atomic_write(path) as aside:
        _write_mp4(aside, frames, fps, sound)


def write_frames(folder: str | Path, frames: np.ndarray) -> None:
    """Write frames, uint8 RGB [t h w 3], as frame_0000.png, frame_0001.png, … into a new folder.

    Raises VideoError if the folder exists and for frames of another shape or type, and OSError if the disk
    refuses.
    """
    folder = Path(folder)
    if folder.exists():
        raise VideoError(f"{folder}: exists already; choose another folder")
    _check_frames(frames)
    _check_parent(folder)
    with atomic_write(folder) as aside:
        aside.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(aside / f"frame_{index:04d}.png")


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float, sound: Optional[Sound] = None) -> None:
    """H.264 with 4:2:0 colour, which every player reads; crf 17 is visually almost lossless."""
    path = path.absolute()  # ffmpeg would take `a:b.mp4` for the protocol `a`
    options = {
        "codec": "libx264",
        "pixelformat": "yuv420p",
        "macro_block_size": 1,  # imageio would otherwise scale the frames to multiples of 16
        "quality": None,  # leave the rate to crf
        "ffmpeg_log_level": "quiet",  # failures are raised below, in one line
        "output_params": ["-crf", "17", "-vf", _BT709],
    }
    if sound is not None:
        options["output_params"] += ["-map", "0:v:0", "-map", "1:a:0"]
        kept = "copy" if sound.codec in _IN_MP4 else "aac"
        options |= {"audio_path": os.path.abspath(sound.path), "audio_codec": kept}
    with _told(path):
        writer = imageio.get_writer(path, format="FFMPEG", fps=fps, **options)
    count = 0
    try:
        for frame in frames:
            # 4:2:0 colour has one value per 2x2 pixels and needs even sides: odd ones are padded by repetition
            height, width = frame.shape[:2]
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            with _told(path):
                writer.append_data(frame)
            count += 1
    except BaseException:
        with suppress(OSError, RuntimeError):
            writer.close()
        raise
    with _told(path):
        writer.close()
        written, _ = count_frames_and_secs(path)  # imageio does not check ffmpeg's exit code
        if written != count:
            raise RuntimeError(f"{written} of {count} frames arrived")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Failures of ffmpeg are raised in one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free // 2**20
        raise OSError(
            f"{path.parent}: ffmpeg could not write the video; {free} MB are left on this disk, and where "
            "those are enough, set IMAGEIO_FFMPEG_EXE to an ffmpeg that has libx264"
        ) from error


def _write_gif(path: Path, frames: np.ndarray, fps: float) -> None:
    """An endless GIF with the right length; frames equal to the one before are merged with it by Pillow."""
    # GIF counts hundredths of a second. Rounding the times, not the durations, keeps the error from adding
    # up: at 7 fps, 14, 15 and 14 hundredths in turn. Less than 2 would be shown as 10 by every browser.
    times = np.round(np.arange(len(frames) + 1) * 100 / fps).astype(int)
    durations = np.maximum(np.diff(times), 2) * 10  # Pillow wants milliseconds
    # One palette for all frames, so that what stands still does not flicker; a quarter of a million pixels
    # settle it, and noise would otherwise take minutes. Of Pillow's palettes, maximum coverage has the least
    # error by far once dithered (7 to 13 dB under median cut, seen from a little distance).
    step = ceil(sqrt(frames[..., 0].size / 2**18))
    sample = np.concatenate(frames[:, ::step, ::step])
    palette = Image.fromarray(sample).quantize(256, Image.Quantize.MAXCOVERAGE)
    dither = Image.Dither.FLOYDSTEINBERG
    first, *others = [Image.fromarray(frame).quantize(palette=palette, dither=dither) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=durations.tolist(), loop=0)


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        raise VideoError(f"frames of {frames.dtype} {list(frames.shape)}; give uint8 [t h w 3]")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise VideoError(f"{path.parent}: no such folder; make it first")
