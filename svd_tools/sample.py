"""Draw videos, or images, with a model in pixel space (Video Diffusion Models).

svd sample --model.checkpoint=models/video_diffusion.safetensors --num_samples=16
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("sample")

import time
from typing import Optional

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from svd import cli
from svd.cli import options
from svd.cli.outputs import add_outputs, check_outputs, describe, image_writers, side_file, video_writers, write_results
from svd.cli.pixels import resolve_model, side_by_side
from svd.config import ConfigError, PixelSamplingConfig
from svd.console import log

MOST_SAMPLES = 1024
"""Of one run."""


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are the fields of PixelSamplingConfig."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside the samples.")
    parser.add_argument("--num_samples", type=PositiveInt, default=1, help="How many to draw; several are shown side "
        "by side in one video, or (of one frame) in one .png.")  # fmt: skip
    add_outputs(parser)
    options.add_device(parser)
    options.add_compile_cache(parser)
    example = "configs/video_diffusion/xdiffusion_vdm.yaml"
    options.add_model(parser, "Weights, as `svd convert` writes them.", group="model", example=example)
    options.add_sampling(parser, group="sampling", settings=PixelSamplingConfig)
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    if args.num_samples > MOST_SAMPLES:
        raise ConfigError(f"--num_samples must be at most {MOST_SAMPLES}, got {args.num_samples}")
    options.check_compile_cache(args)
    check_outputs(args)
    model = resolve_model(args)
    sampling = options.resolve_sampling(model, args.sampling)
    pipe = options.load(args, args.model, model)
    start = time.perf_counter()
    frames = side_by_side(pipe(args.num_samples, settings=sampling, seed=args.seed))
    writers = image_writers(frames[0]) if len(frames) == 1 else video_writers(args.format, frames, sampling.fps)
    beside = side_file(parser, args, describe(args.mode, args.model.checkpoint, None))
    written = write_results(args, "sample", writers, beside)
    log(f"{args.num_samples} x {len(frames)} frames in {time.perf_counter() - start:.1f} s")
    print(*written, sep="\n")


def main(argv: Optional[list[str]] = None, program: str = "sample.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
