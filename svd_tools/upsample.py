"""Upsample videos, or images, with an upsampler: Stable Diffusion's x4 upscaler, with temporal layers or without.

svd upsample --model.checkpoint=models/upsampler.safetensors --video=clip.mp4
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("upsample")

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from svd import cli
from svd.cli import options
from svd.cli.outputs import add_outputs, check_outputs, describe, image_writers, side_file, write_results
from svd.config import ConfigError, UpsamplerConfig, UpsamplingConfig
from svd.console import log
from svd.data.dataset import BadItem, Unavailable
from svd.data.image_files import suffixes
from svd.data.images import load_image
from svd.data.video_reader import open_video
from svd.data.videos import Sound, write_stream
from svd.files import atomic_write

FORMATS = {"mp4": ".mp4", "png": "_frames"}
"""Endings of the names of results, by format: those that are written while frames are made."""


class Source(NamedTuple):
    """A video that is upsampled."""

    frames: Iterator[np.ndarray]
    """uint8 [h w 3], one after the other."""
    length: Optional[int]
    fps: float
    sound: Optional[Sound]


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are the fields of UpsamplingConfig."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside each result.")
    add = parser.add_argument
    add("--video", nargs="+", type=str, help="Video files of any length, or image files: one or several.")
    add("--factor", type=Optional[int], help="Pixels of the result per given pixel, on each axis: that of the model, "
        "which is taken when none is given.")  # fmt: skip
    add("--prompt", type=str, default="", help="What is to be seen, for models that are given text; none is needed.")
    add("--negative_prompt", type=str, default="", help="What is not to be seen: guidance leads away from it.")
    add("--image_only", action="store_true", help="Leave the temporal layers out: every frame is an image of its own.")
    add_outputs(parser, "image")
    add("--format", choices=tuple(FORMATS), default="mp4", help="What videos are written as: mp4, with the sound of "
        "the given one, or png, a folder of frames. Images are written as .png.")  # fmt: skip
    options.add_device(parser)
    options.add_compile_cache(parser)
    options.add_model(parser, "Weights, as `svd convert` or `svd train` writes them.", group="model",
                      example="configs/upsampler/sd_x4.yaml")  # fmt: skip
    options.add_sampling(parser, group="sampling", settings=UpsamplingConfig)
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    for name in ("video", "model.checkpoint"):
        if not args.get(name):
            what = "what to upsample" if name == "video" else "the weights, as `svd convert` writes them"
            raise ConfigError(f"--{name} is missing: {what}")
    options.check_compile_cache(args)
    check_outputs(args)
    model = options.resolve_model(args.model, UpsamplerConfig)
    sampling = options.resolve_sampling(model, args.sampling)
    check_uses(args, model)
    sizes = []
    for path in args.video:  # a bad one is reported before minutes of loading and compiling
        with opened(path) as source:
            sizes.append((*next(source.frames).shape[:2], source.length))
    pipe = options.load(args, args.model, model)
    for size in sizes:
        pipe.check_memory(sampling, *size)
    facts = describe(args.mode, args.model.checkpoint, None)
    for path in args.video:
        start = time.perf_counter()
        with opened(path) as source:
            counted = Counted(source.frames)
            result = pipe.stream(
                counted, args.prompt, args.negative_prompt, settings=sampling, seed=args.seed,
                image_only=args.image_only, length=source.length,
            )  # fmt: skip
            writers = writers_of(path, args.format, result, source)
            written = write_results(args, Path(path).stem, writers, side_file(parser, args, facts, video=[path]))
        log(f"{path}: {counted.count} frames in {time.perf_counter() - start:.1f} s")
        print(*written, sep="\n")


def check_uses(args: Namespace, model: UpsamplerConfig) -> None:
    """Raise ConfigError for options that the model does not use."""
    factor = model.low_resolution.factor
    if args.factor not in (None, factor):
        raise ConfigError(f"--factor is {args.factor}, and the model enlarges by {factor}: leave it out")
    args.factor = factor
    for name in ("prompt", "negative_prompt"):
        try:
            args[name].encode()
        except UnicodeEncodeError as error:  # bytes of a command line that are no text become lone surrogates
            raise ConfigError(f"--{name} is not UTF-8: character {error.start + 1} stands for another byte") from error
        if args[name] and model.text_encoder is None:
            raise ConfigError(f"--{name} is for models that are given text, and this one is not: leave it out")
    if args.image_only and model.temporal is None:
        raise ConfigError("--image_only leaves out temporal layers, and the model has none: leave it out")


class Counted:
    """Frames that are counted as they are taken."""

    def __init__(self, frames: Iterator[np.ndarray]):
        self.frames, self.count = frames, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.frames:
            self.count += 1
            yield frame


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """Open a video or an image; raises ConfigError if it cannot be read, and ImageError."""
    if is_image(path):
        image = np.asarray(load_image(Path(path)))
        yield Source(iter([image]), 1, 1.0, None)
        return
    try:
        with open_video(path) as video:
            if video.fps is None:
                raise BadItem(path, "it has no frame rate; convert it to .mp4")
            sound = None if video.sound is None else Sound(path, video.sound)
            yield Source(_some(path, video.pictures()), video.length, video.fps, sound)
    except (BadItem, Unavailable) as error:
        raise ConfigError(f"--video {error}") from error


def is_image(path: str) -> bool:
    """Whether a file is an image by its name; a .gif is a video."""
    return Path(path).suffix.lower() in suffixes() - {".gif"}


def _some(path: str, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames; raises BadItem if there are none."""
    first = next(frames, None)
    if first is None:
        raise BadItem(path, "no frame of it can be read")
    yield first
    yield from frames


def writers_of(path: str, form: str, frames: Iterator[np.ndarray], source: Source) -> dict[str, Any]:
    """The writer of a result, by the ending of its name."""
    if is_image(path):
        return {".png": lambda target: image_writers(next(iter(frames)))[".png"](target)}
    if form == "png":
        return {FORMATS[form]: partial(write_folder, frames=frames)}
    return {FORMATS[form]: partial(write_stream, frames=frames, fps=source.fps, sound=source.sound)}


def write_folder(folder: Path, frames: Iterator[np.ndarray]) -> None:
    """Write frames as frame_000000.png, frame_000001.png, ... into a new folder, while they are made."""
    with atomic_write(folder) as aside:
        aside.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(aside / f"frame_{index:06d}.png")


def main(argv: Optional[list[str]] = None, program: str = "upsample.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
