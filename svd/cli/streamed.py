"""What programs that write long videos share: a folder of the work beside the result, progress, and the end."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, get_args

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from svd import __version__
from svd.cli import options
from svd.config import TextSamplingConfig, VideoLDMConfig
from svd.console import log, one_line
from svd.data.segments import SegmentedVideo
from svd.errors import ConfigError, UserError
from svd.files import LONGEST_NAME, FileError, remove, shortened, write_text
from svd.runtime import AmpLevel

if TYPE_CHECKING:
    from svd.pipelines.streaming import Stage

SKIPPED = {"num_frames", "window", "window_overlap", "guidance_interval", "guidance_rescale"}
"""Sampling settings that a video in windows of given frames does not have; decoding has a flag of its own."""
SKIPPED |= {"decode_chunk_size", "decode_overlap", "decode_memory_gb"}
NOT_OF_RESULT = {"config", "output_dir", "compile_cache", "image", "labels", "video"}
"""Options that a result does not depend on, or not on the name of their file."""
DAY = 86_400
MOST_DAYS = 30
"""Of computing."""
LONGEST = DAY
"""Seconds of a video."""
RECORD, SEGMENTS = "state.safetensors", "frames.h264"
"""Contents of the folder of a work."""


def add_outputs(parser: ArgumentParser) -> None:
    """Add `--output_dir`, `--seed` and `--decode_chunk_size`."""
    add = parser.add_argument
    add("--output_dir", type=str, default="outputs", help="Folder to write to; nothing in it is overwritten.")
    add("--seed", type=NonNegativeInt, default=0, help="Seed of the noise: the same seed gives the same video.")
    add("--decode_chunk_size", type=PositiveInt, default=16, help="Frames that are decoded and written at a time.")


def add_precision(parser: ArgumentParser) -> None:
    """Add `--model.amp_level`."""
    parser.add_argument("--model.amp_level", choices=get_args(AmpLevel), default="auto", help="O0: float32. O2: "
        "float16 inside the networks. bf16: bfloat16 (Ascend). auto: O2 on Ascend, O0 elsewhere.")  # fmt: skip


def add_sampling(parser: ArgumentParser, skip: Collection[str] = ()) -> None:
    """Add the sampling settings that streamed videos have, but some."""
    options.add_sampling(parser, SKIPPED | set(skip), "sampling", TextSamplingConfig)


def model_of(args: Namespace, checkpoint: str) -> VideoLDMConfig:
    """The model of a checkpoint; raises ConfigError unless it is given frames."""
    model = options.resolve_model(given(args, checkpoint), VideoLDMConfig)
    if model.own_layers is None or not model.own_layers.frames:
        raise ConfigError(f"{checkpoint} is of a model that is given no frames (temporal.video_ldm.frames)")
    return model


def given(args: Namespace, checkpoint: str) -> Namespace:
    """The options of a model, as `svd.cli.options.load` takes them."""
    return Namespace(config=None, checkpoint=checkpoint, amp_level=args.model.amp_level)


def resolve_sampling(args: Namespace, models: list[VideoLDMConfig]) -> list[TextSamplingConfig]:
    """The sampling settings of each model, and what was given instead. The motion bucket is for those that are told it.

    Raises ConfigError if they cannot be used.
    """
    told = [model.own_layers.motion for model in models]
    resolved = []
    for model, tells in zip(models, told):
        chosen = args.sampling.clone()
        if any(told) and not tells:
            chosen.motion_bucket_id = None
        resolved.append(options.resolve_sampling(model, chosen))
    return resolved


def once(work: Work, make: Callable[[], None]) -> None:
    """Do a work unless it is done, and print the paths of its files."""
    from svd.training.lock import locked

    if work.finished:
        log("it has been made already, by the same options")
    else:
        with locked(work.folder):
            make()
    print(work.target, work.side_file, sep="\n")


@dataclass(frozen=True)
class Work:
    """A video that is written piece by piece: `target`, its side file, and the folder of the work while it lasts."""

    target: Path

    @staticmethod
    def of(folder: str, stem: str, facts: dict[str, Any]) -> Work:
        """The work with these facts, all that its result depends on; a digest of them is in its name."""
        facts = facts | {"svd": __version__, "mindspore": version("mindspore")}
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()
        return Work(Path(folder) / f"{shortened(stem, LONGEST_NAME - 40)}_{digest}.mp4")

    @property
    def side_file(self) -> Path:
        return self.target.with_suffix(".yaml")

    @property
    def folder(self) -> Path:
        return self.target.with_suffix(".part")

    @property
    def finished(self) -> bool:
        return self.target.exists() and self.side_file.exists()


def write(
    work: Work,
    stages: list[Stage],
    fps: float,
    total: int,
    beside: str,
    length: Optional[float] = None,
    audio: Optional[Path] = None,
) -> None:
    """Do a work, or go on with it, in its folder: write the video and its side file.

    Args:
        total: frames of the video.
        length: seconds that were asked for; the time and the space that they take are looked at after the first frames.
        audio: a file whose audio the video gets.

    Raises:
        ConfigError: the video would take too long.
        FileError: it would be too large.
        OSError: the drive refuses.
    """
    from svd.pipelines.streaming import Record, write_stream

    work.folder.mkdir(parents=True, exist_ok=True)
    record = Record(work.folder / RECORD)
    numbers = record.restore(stages) or {"frames": 0, "bytes": 0}
    video = SegmentedVideo(work.folder / SEGMENTS, fps, numbers["bytes"])
    if numbers["frames"]:
        log(f"continuing after {numbers['frames']:,} frames: {work.folder}")
    else:
        log("the first windows compile the networks, once")
    with tqdm(total=total, initial=numbers["frames"], desc="frames", unit="frame") as bar:

        def progress(new: int) -> None:
            bar.update(new)
            if length is not None and numbers["frames"] == 0:
                check_extent(work, length, total, stages, video.bytes / bar.n)

        with drive_of(work.target):
            written = write_stream(stages, record, video.append, total, numbers["frames"], progress)
            video.finish(work.target, written, audio)
            write_text(work.side_file, beside)
    remove(work.folder)


@contextmanager
def drive_of(path: Path) -> Iterator[None]:
    """Tell what to do where the drive refuses."""
    try:
        yield
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise OSError(f"{path.parent}: {one_line(error)}; make room there, and the same command continues") from error


def check_extent(work: Work, length: float, total: int, stages: list[Stage], bytes_per_frame: float) -> None:
    """Refuse a video that would take too long or be too large, going by its first frames."""
    from svd.pipelines.streaming import seconds_per_frame

    if not all(stage.made for stage in stages):  # this process has gone on where some were ahead
        return
    days, size = total * seconds_per_frame(stages) / DAY, total * bytes_per_frame
    extent = f"{total:,} frames would take about {duration(days)} and make a file of about {amount(size)}"
    if length > LONGEST or days > MOST_DAYS:
        remove(work.folder)
        most = f"at most {LONGEST // 3600} hours are made, in at most {MOST_DAYS} days"
        raise ConfigError(f"seconds is {length:g}: {extent}; {most}", "seconds")
    free = shutil.disk_usage(work.target.parent).free
    if 2 * size > free:  # the segments, and at the end the file that is made of them
        raise FileError(f"{extent}, twice that while it is made, and {amount(free)} are free in "
                        f"{work.target.parent}: make room, or choose another folder")  # fmt: skip


def amount(size: float) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"


def duration(days: float) -> str:
    """A time in words."""
    for name, part in (("years", 365), ("days", 1), ("hours", 1 / 24), ("minutes", 1 / 1440)):
        if days >= 2 * part:
            return f"{days / part:,.0f} {name}"
    return f"{days * DAY:,.0f} seconds"
