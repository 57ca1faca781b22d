"""A video that is written as it is made: segments of H.264 in one file that grows, and at the end an .mp4 of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Optional

import av
import numpy as np
from av.error import FFmpegError

from svd.data.videos import VideoError
from svd.files import atomic_write

_OPTIONS = {
    "crf": "17",  # visually almost lossless
    "bf": "0",  # frames are stored in the order in which they are shown: the n-th packet is the n-th frame
    "threads": "1",  # the same bytes on machines of any size
}
_BT709 = 1
"""Of FFmpeg's matrices, primaries and transfer curves; see svd.data.videos."""
_LIMITED = 1
FINEST = 100_000
"""Largest denominator of a frame rate."""


class SegmentedVideo:
    """Frames appended in segments, each of which is encoded by itself, so that what was written is never needed again.

    Args:
        path: the file of segments; players that take raw H.264 show it while it grows.
        fps: frames per second.
        size: bytes of the file that count; what follows them is cut off, for it may be half a segment.
    """

    def __init__(self, path: Path, fps: float, size: int = 0):
        self.path, self.fps, self.bytes = path, rate(fps), size
        with open(path, "ab") as file:
            if file.tell() < size:
                raise VideoError(f"{path}: has lost its end: {file.tell()} of {size} bytes; remove {path.parent}")
            file.truncate(size)

    def append(self, frames: np.ndarray) -> int:
        """Add frames, uint8 RGB [t h w 3], or none; returns the bytes of all that is now on the drive.

        Raises OSError if the drive refuses.
        """
        if len(frames):
            segment = _encoded(frames, self.fps)
            with open(self.path, "ab") as file:
                file.write(segment)
                file.flush()
                os.fsync(file.fileno())
            self.bytes += len(segment)
        return self.bytes

    def finish(self, target: Path, frames: int, audio: Optional[Path] = None) -> None:
        """Write the .mp4, of this many frames, with the audio of another file if there is any.

        Raises:
            VideoError: frames are missing, or .mp4 cannot hold that audio.
            OSError: the drive refuses.
        """
        with atomic_write(target, need=self.bytes) as aside:
            written = _mux(self.path, aside, self.fps, audio)
            if written != frames:
                raise VideoError(f"{self.path}: holds {written} of {frames} frames; remove {self.path.parent}")


def rate(fps: float) -> Fraction:
    """A frame rate as players store it."""
    return Fraction(fps).limit_denominator(FINEST)


def _encoded(frames: np.ndarray, fps: Fraction) -> bytes:
    """A segment; odd sides are padded by repetition, as 4:2:0 colour needs even ones."""
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=fps, options=_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.color_range = _LIMITED
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(
                format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED, interpolation="BICUBIC"
            )
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def _mux(source: Path, target: Path, fps: Fraction, audio: Optional[Path]) -> int:
    """Copy all segments into an .mp4; returns the number of frames."""
    frames = 0
    with ExitStack() as stack:
        segments = stack.enter_context(av.open(str(source), format="h264"))
        output = stack.enter_context(av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}))
        stream = output.add_stream_from_template(segments.streams.video[0])
        sound = _audio_packets(stack, output, audio) if audio else iter(())
        pending = next(sound, None)
        for packet in segments.demux(video=0):
            if not packet.size:
                continue
            while pending is not None and pending[0] <= frames / fps:  # beside the frames that it is heard with
                output.mux(pending[1])
                pending = next(sound, None)
            packet.stream, packet.time_base = stream, 1 / fps
            packet.pts = packet.dts = frames
            packet.duration = 1
            output.mux(packet)
            frames += 1
        while pending is not None:
            output.mux(pending[1])
            pending = next(sound, None)
    return frames


def _audio_packets(stack: ExitStack, output: av.container.OutputContainer, path: Path) -> Iterator[tuple]:
    """Seconds and packets of the first audio track of a file, for a new track; none if it has no audio."""
    source = stack.enter_context(av.open(str(path), options={"protocol_whitelist": "file"}))
    if not source.streams.audio:
        return iter(())
    track = source.streams.audio[0]
    try:
        copy = output.add_stream_from_template(track)
    except (ValueError, FFmpegError) as error:
        name = track.codec_context.name
        raise VideoError(f"{path}: .mp4 cannot hold its audio, {name}; convert the audio to AAC") from error

    def packets() -> Iterator[tuple]:
        for packet in source.demux(track):
            if packet.size and packet.dts is not None:
                seconds = float(packet.dts * packet.time_base)
                packet.stream = copy
                yield seconds, packet

    return packets()
