"""Make of every frame of a video four, or sixteen (VideoLDM): the same length, at more frames per second.

svd interpolate --model.checkpoint=interpolation.safetensors --video=clip.mp4 --factor=4
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("interpolate")

from pathlib import Path
from typing import Optional

from jsonargparse import ArgumentParser, Namespace

from svd import cli
from svd.cli import options, streamed
from svd.cli.outputs import check_outputs, describe, side_file
from svd.config import ConfigError
from svd.files import sha256

FACTORS = {4: 1, 16: 2}
"""How often interpolation makes four frames of one."""


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside the video.")
    add = parser.add_argument
    add("--video", type=Optional[str], help="Video, of any length and size.")
    add("--factor", type=int, default=4, help="Frames that are made of one: 4, or 16 in two passes.")
    add("--prompt", type=str, default="", help="What is to be seen, if the model has learned from captions.")
    streamed.add_outputs(parser)
    options.add_device(parser)
    options.add_compile_cache(parser)
    add("--model.checkpoint", type=Optional[str], help="Weights of a model for interpolation, as `svd train` writes "
        "them.")  # fmt: skip
    streamed.add_precision(parser)
    streamed.add_sampling(parser, skip={"height", "width", "fps", "guidance"})
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    if not args.model.checkpoint:
        raise ConfigError("--model.checkpoint is missing: the weights, as `svd train` writes them")
    if not args.video:
        raise ConfigError("--video is missing: what frames are added to")
    if args.factor not in FACTORS:
        raise ConfigError(f"--factor must be {' or '.join(map(str, FACTORS))}, got {args.factor}")
    options.check_compile_cache(args)
    check_outputs(args)
    from svd.data.whole_video import inspect

    model = streamed.model_of(args, args.model.checkpoint)
    (sampling,) = streamed.resolve_sampling(args, [model])
    video = inspect(args.video)
    facts = {
        **{name: value for name, value in args.as_dict().items() if name not in streamed.NOT_OF_RESULT},
        "checkpoint sha256": sha256(args.model.checkpoint),
        "video sha256": sha256(args.video),
    }
    work = streamed.Work.of(args.output_dir, f"{Path(args.video).stem}_x{args.factor}", facts)

    def make() -> None:
        from svd.pipelines.given_frames import FramesSampler
        from svd.pipelines.interpolate import interpolation_stages

        pipe = options.load(args, streamed.given(args, args.model.checkpoint), model)
        sampler, passes = FramesSampler(pipe, sampling), FACTORS[args.factor]
        told = args.prompt, sampling.motion_bucket_id
        stages = interpolation_stages(sampler, video, passes, args.seed, told, args.decode_chunk_size)
        beside = side_file(parser, args, describe(args.mode, args.model.checkpoint, None), "video")
        total = video.frames * args.factor
        streamed.write(work, stages, video.fps * args.factor, total, beside, audio=Path(args.video))

    streamed.once(work, make)


def main(argv: Optional[list[str]] = None, program: str = "interpolate.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
