"""Extend videos to any length with a model in pixel space, in windows that overlap (Video Diffusion Models).

svd extend --model.checkpoint=models/video_diffusion.safetensors --video=clip.mp4 --frames=64
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("extend")

import time
from typing import Optional

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from svd import cli
from svd.cli import options
from svd.cli.outputs import add_outputs, check_outputs, describe, side_file, video_writers, write_results
from svd.cli.pixels import add_method, resolve_model, side_by_side, weight_of
from svd.cli.video_inputs import add_videos, check_videos, read_videos
from svd.config import ConfigError, PixelSamplingConfig
from svd.console import log

MOST_FRAMES = 10_000


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are the fields of PixelSamplingConfig."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside the videos.")
    add_videos(parser, "Videos to begin with")
    add = parser.add_argument
    add("--frames", type=PositiveInt, default=64, help="Frames of the extended videos, those given included.")
    add("--overlap", type=Optional[PositiveInt], help="Frames that a window is given of what is before it; a quarter "
        "of a window (--sampling.num_frames) if not given.")  # fmt: skip
    add_method(parser)
    add_outputs(parser)
    options.add_device(parser)
    options.add_compile_cache(parser)
    example = "configs/moving_mnist/video_ldm.yaml"
    options.add_model(parser, "Weights, as `svd train` and `svd convert` write them.", group="model", example=example)
    options.add_sampling(parser, group="sampling", settings=PixelSamplingConfig)
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    check_videos(args)
    if args.frames > MOST_FRAMES:
        raise ConfigError(f"--frames must be at most {MOST_FRAMES}, got {args.frames}")
    options.check_compile_cache(args)
    check_outputs(args)
    model = resolve_model(args)
    if not model.temporal_layers:
        raise ConfigError("the model makes single images, which nothing can extend: give one of videos")
    sampling, weight = options.resolve_sampling(model, args.sampling), weight_of(args)
    overlap = max(sampling.num_frames // 4, 1) if args.overlap is None else args.overlap
    if overlap >= sampling.num_frames:
        raise ConfigError(f"--overlap must be below --sampling.num_frames={sampling.num_frames}, got {overlap}")
    begun = min(args.frames - 1, sampling.num_frames)
    if begun < overlap:
        raise ConfigError(f"--frames must be more than the {overlap} that overlap, got {args.frames}")
    videos = read_videos(args, begun, sampling.height, sampling.width, model.channels)
    pipe = options.load(args, args.model, model)
    start = time.perf_counter()
    long = pipe.extend(videos, args.frames, overlap=overlap, weight=weight, settings=sampling, seed=args.seed)
    writers = video_writers(args.format, side_by_side(long), sampling.fps)
    beside = side_file(parser, args, describe(args.mode, args.model.checkpoint, None))
    written = write_results(args, "extend", writers, beside)
    log(f"{len(long)} x {args.frames - begun} more frames in {time.perf_counter() - start:.1f} s")
    print(*written, sep="\n")


def main(argv: Optional[list[str]] = None, program: str = "extend.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
