"""Frames of a video file as a player shows them, decoded with PyAV (FFmpeg's libraries).

The metadata of the stream is applied: colour matrix and range, pixel aspect, rotation and mirroring, timestamps and
interlacing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, count, dropwhile, islice
from typing import BinaryIO, NamedTuple, Optional

import av
import cv2
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.error import FFmpegError
from av.error import MemoryError as NoMemory
from av.format import Flags
from av.stream import Discard, Disposition

from svd.data.dataset import BadItem
from svd.data.item_file import check_memory, open_item
from svd.data.pictures import Converter, Picture, cover, deinterlaced, scaled

MAX_FPS = 1000
"""Files without a frame rate may state the ticks of their clock instead, such as 90000."""
PROBED = 32
"""Packets that are read to tell a video track from a still picture in a track of its own."""
EARLIER = (0, 4, 32)
"""How many frames before the requested one to seek to. A container is indexed by decoding time, and frames of a group
may be shown in another order."""
ROUNDING = 0.0015
"""Error in seconds of a clip's duration where the container counts milliseconds."""
MOST_TIMES = 2**22
"""Frames whose timestamps are kept in memory, a day and a half; in a longer video there is no seeking."""
MOST_BYTES = 2**31
"""FFmpeg's limit of an allocation; a larger one fails, however much memory is free."""

_TEXT = bytes(sorted({*b"\t\n\f\r\x1b", *range(0x20, 0x100)}))
"""Bytes of text in any encoding but UTF-16; a video has others, such as NUL, near its start."""

NumberedFrame = tuple[av.VideoFrame, int]
"""A frame and its number in the video, from 0."""


class Cut(NamedTuple):
    """Frames of a video, uint8 RGB [t h w 3], and the file's frame rate around them.

    `rate` is None if the file has no timestamps. It is the video's `fps` unless the frame rate changes within the file.
    """

    frames: np.ndarray
    rate: Optional[float]


class Video:
    """An open video file; `open_video` makes it.

    `fps` is its stated frame rate and `length` its stated number of frames, or None. A file may state more frames than
    it has, which `read` detects. `sound` is the codec of its sound, or None.
    """

    def __init__(self, path: str, file: BinaryIO):
        self._path, self._file = path, file
        self._ticks: Optional[np.ndarray] = None
        self._open()
        self.fps: Optional[float] = self._stated_rate()
        self.length: Optional[int] = self._stream.frames or self._length_by_duration() or None
        known = (stream.codec_context for stream in self._container.streams.audio[:1])
        self.sound: Optional[str] = next((context.name for context in known if context is not None), None)

    def read(self, start: int, frames: int, step: int, height: int, width: int) -> Optional[Cut]:
        """Read frames start, start + step, ..., each resized by `cover`.

        Returns None if there are too few; `length` is then their actual number.
        """
        clip = np.empty((frames, height, width, 3), np.uint8)
        end = start + (frames - 1) * step + 1
        for times_of in (self._stated_times, self._packet_times) if start and self._has_times() else ():
            times, tolerance = times_of(end)
            if len(times) >= end and (numbered := self._seek(times, tolerance, start)) is not None:
                cut = self._fill(clip, numbered, start, step)
                if cut is not None:
                    return cut
        # no timestamps, wrong ones, or an early end: decode from the first frame
        numbers = count()
        cut = self._fill(clip, zip(self.frames(), numbers), start, step)
        if cut is None:
            check_memory()
            self.length = next(numbers)
        return cut

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode all frames, from the first one."""
        self._rewind()
        return deinterlaced(self._decoded())

    def intact_frames(self) -> Iterator[av.VideoFrame]:
        """Decode all frames, from the first one; raises BadItem at one that is damaged or missing, and says which."""
        self._rewind()
        return deinterlaced(self._intact())

    def _intact(self) -> Iterator[av.VideoFrame]:
        self._begun, count, time = True, 0, None
        try:
            for packet in self._container.demux(self._stream):
                time = None if packet.pts is None else float(packet.pts * packet.time_base)
                for frame in packet.decode():
                    count, time = count + 1, frame.time
                    if frame.is_corrupt:
                        raise BadItem(self._path, f"damaged: frame {self._number(time, count)} is not whole")
                    yield frame
        except MemoryError:
            raise
        except (FFmpegError, IndexError) as error:
            check_memory()
            number = self._number(time, count + 1)
            raise BadItem(self._path, f"damaged: frame {number} cannot be decoded") from error
        if count < self._stream.frames:
            raise BadItem(self._path, f"damaged: it ends after frame {count} of {self._stream.frames}")

    def _number(self, time: Optional[float], count: int) -> int:
        """Which frame is shown at a time, from 1; `count` if that is not known. A decoder lags behind its packets."""
        if time is None or not self.fps:
            return count
        return round((time - (self._stream.start_time or 0) * float(self._stream.time_base)) * self.fps) + 1

    def rate_between(self, first: Optional[float], last: Optional[float], frames: int) -> Optional[float]:
        """Frame rate of the file, given the times of its first frame and of its last."""
        return self._rate([first, last], frames - 1)

    def picture(self, frame: av.VideoFrame) -> Picture:
        """An upright RGB picture of a frame."""
        return self._converter.picture(frame)

    def pictures(self) -> Iterator[np.ndarray]:
        """All frames in square pixels, uint8 RGB [h w 3], of the size of the first."""
        size = None
        for frame in self.frames():
            pixels, aspect = self.picture(frame)
            size = size or (pixels.shape[0], max(round(pixels.shape[1] * aspect), 1))
            yield scaled(pixels, *size)

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        self._file.seek(0)
        options = {"protocol_whitelist": "none"}  # a playlist must not open other files
        self._container = av.open(self._file, container_options=options, metadata_errors="replace", buffer_size=2**18)
        self._stream = _choose(self._path, self._container)
        self._converter = Converter(self._stream.sample_aspect_ratio)
        self._stream.codec_context.thread_count = 1  # parallelism comes from processes
        self._stream.codec_context.flags |= CodecFlags.unaligned  # without it, cropping at the left is rounded
        for stream in self._container.streams:
            if stream.index != self._stream.index:
                stream.discard = Discard.all
        self._begun = False

    def _rewind(self) -> None:
        """Go back to the first packet."""
        if self._begun:
            self.close()
            self._open()

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """The frames of the remaining packets; damaged ones are skipped."""
        self._begun = True
        for packet in self._packets():
            try:
                frames = packet.decode()
            except MemoryError:  # FFmpeg's too
                raise
            except FFmpegError:
                check_memory()
                continue
            yield from frames

    def _packets(self) -> Iterator[av.Packet]:
        """The remaining packets, up to the end or to where the container is damaged."""
        self._begun = True
        try:
            yield from self._container.demux(self._stream)
        except MemoryError:
            raise
        except FFmpegError:
            check_memory()
        except IndexError:  # PyAV's, at the end of a file whose header does not list all tracks
            return

    def _seek(self, times: np.ndarray, tolerance: float, start: int) -> Optional[Iterator[NumberedFrame]]:
        """Frames from a key frame at or before frame `start`, while their timestamps agree with `times`."""
        for earlier in EARLIER:
            numbered = self._from_key_frame(times, tolerance, max(start - earlier, 0))
            first = next(numbered, None)
            if first is not None and first[1] <= start:
                return chain([first], numbered)
        return None

    def _from_key_frame(self, times: np.ndarray, tolerance: float, number: int) -> Iterator[NumberedFrame]:
        """Frames from the key frame that the container finds for frame `number`, while they agree with `times`."""
        self._begun = True
        try:
            self._container.seek(int((times[number] + tolerance) / self._stream.time_base), stream=self._stream)
        except MemoryError:
            raise
        except FFmpegError:
            return
        due = None
        for frame in deinterlaced(self._decoded()):
            if due is None:
                due = int(np.searchsorted(times, (frame.time or 0) - tolerance)) if frame.key_frame else len(times)
            if due >= len(times) or frame.time is None or abs(frame.time - times[due]) > tolerance:
                return
            yield frame, due
            due += 1

    def _fill(self, clip: np.ndarray, numbered: Iterator[NumberedFrame], start: int, step: int) -> Optional[Cut]:
        """Fill the clip [t h w 3] with frames start, start + step, ...; None if some are missing."""
        times = []
        for frame, number in numbered:
            t, between = divmod(number - start, step)
            if t == len(times) and not between:
                pixels, aspect = self.picture(frame)
                clip[t] = cover(pixels, *clip.shape[1:3], aspect)
                times.append(frame.time)
                if len(times) == len(clip):
                    return Cut(clip, self._rate(times, step))
        return None

    def _rate(self, times: list[Optional[float]], step: int) -> Optional[float]:
        """Frame rate of the file, given the times of every step-th frame."""
        if None in times or times[-1] <= times[0]:
            return None
        frames, seconds = (len(times) - 1) * step, times[-1] - times[0]
        if self.fps and abs(frames / self.fps - seconds) <= ROUNDING:
            return self.fps
        return frames / seconds

    def _stated_rate(self) -> Optional[float]:
        rates = self._stream.average_rate, self._stream.guessed_rate
        if self._container.format.flags & Flags.no_timestamps.value:  # without timestamps there is no average
            rates = rates[::-1]
        return next((float(rate) for rate in rates if rate and 0 < rate <= MAX_FPS), None)

    def _has_constant_rate(self) -> bool:
        """Whether the stream states a constant frame rate, in a container where that is reliable."""
        rates = self._stream.average_rate, self._stream.base_rate
        loose = Flags.ts_discont.value | Flags.no_timestamps.value
        constant = self.fps is not None and None not in rates and rates[0] == rates[1] <= MAX_FPS
        return constant and not self._container.format.flags & loose

    def _has_times(self) -> bool:
        """Whether the file has presentation times: .avi has decoding times alone, and the rest is a guess."""
        return self._container.format.name != "avi" or not self._stream.codec_context.has_b_frames

    def _length_by_duration(self) -> int:
        """Number of frames in the stated duration; 0 if the frame rate is not constant."""
        if not self._has_constant_rate():
            return 0
        duration, time_base = self._stream.duration, self._stream.time_base
        seconds = duration * time_base if duration else (self._container.duration or 0) / av.time_base
        return int(seconds * self.fps + 0.5)

    def _stated_times(self, end: int) -> tuple[np.ndarray, float]:
        """Presentation times from a constant frame rate, in seconds [n], and their tolerance; none if it varies."""
        if not self._has_constant_rate() or (self.length or end) < end or end > MOST_TIMES:
            return np.empty(0), 0.0
        first = (self._stream.start_time or 0) * float(self._stream.time_base)
        return first + np.arange(end) / self.fps, 0.3 / self.fps

    def _packet_times(self, end: int) -> tuple[np.ndarray, float]:
        """Presentation times from all packets, in seconds [n], and their tolerance; none if packets have none.

        Packets are read, but not decoded.
        """
        if self._ticks is None:
            self._rewind()
            ticks = _presentation_ticks(packet for packet in self._packets() if packet.size)
            self._ticks = ticks * float(self._stream.time_base)
        return self._ticks, 0.5 * float(self._stream.time_base)


@contextmanager
def open_video(path: str) -> Iterator[Video]:
    """Open a video file; raises BadItem if it is none or damaged, and Unavailable if it cannot be read now.

    Failures inside the block raise them, too.
    """
    with open_item(path) as file:
        if not file.read(1024).translate(None, _TEXT):  # FFmpeg would render its lines as a video
            raise BadItem(path, "a text file, not a video")
        try:
            with closing(Video(path, file)) as video:
                yield video
        except NoMemory as error:
            np.empty(MOST_BYTES, np.uint8)  # raises MemoryError if memory is indeed short
            raise BadItem(path, "damaged: it asks for more memory than a video needs") from error
        except MemoryError:
            raise
        except FFmpegError as error:
            check_memory()
            raise BadItem(path, "not a video, or damaged") from error
        except cv2.error as error:
            check_memory()
            raise BadItem(path, f"OpenCV cannot scale it ({' '.join(str(error).split())})") from error


def _choose(path: str, container: av.container.InputContainer) -> av.VideoStream:
    """The video track: no cover picture, attached or in a track of its own; raises BadItem."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if len(streams) > 1:
        packets = [packet.stream.index for packet in islice(container.demux(streams), PROBED)]
        moving = [stream for stream in streams if packets.count(stream.index) > 1]
        best = container.streams.best("video")
        streams = [stream for stream in moving if stream.index == best.index] or moving or streams
        container.seek(0)
    if not streams:
        check_memory()
        raise BadItem(path, "not a video, or damaged")
    if streams[0].codec_context is None:
        raise BadItem(path, "its codec is not known to this FFmpeg; convert it to H.264")
    return streams[0]


def _presentation_ticks(packets: Iterable[av.Packet]) -> np.ndarray:
    """Sorted presentation times of all packets, in ticks; none if they are not known."""
    decodable = dropwhile(lambda packet: not packet.is_keyframe, packets)
    # no list of packets, which would keep the file in memory
    times = [packet.pts for packet in decodable if not packet.is_discard]
    if not times or None in times:
        return np.empty(0)
    ticks = np.array(times)
    order = np.argsort(ticks, kind="stable")
    if np.abs(order - np.arange(len(order))).max() > max(EARLIER) or not np.diff(ticks[order]).all():
        return np.empty(0)  # the clock was reset, or two packets make a frame
    # what is shown before the first key frame cannot be decoded
    return ticks[order][ticks[order] >= ticks[0]].astype(float)
