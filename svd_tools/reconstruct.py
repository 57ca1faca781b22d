"""Reconstruct videos with a model in pixel space from a part of what they show: some frames, a lower resolution, noise.

svd reconstruct --model.checkpoint=model.safetensors --video=clip.mp4 --known 0 15
svd reconstruct --model.checkpoint=model.safetensors --video=clip.mp4 --factor=4
svd reconstruct --model.checkpoint=model.safetensors --video=clip.mp4 --time=0.5

Shows each video, what is given of it, and what is made of that side by side.
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("reconstruct")

import time
from typing import Optional

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from svd import cli
from svd.cli import options
from svd.cli.outputs import add_outputs, check_outputs, describe, side_file, video_writers, write_results
from svd.cli.pixels import add_method, resolve_model, side_by_side, weight_of
from svd.cli.video_inputs import add_videos, check_videos, read_videos
from svd.config import ConfigError, PixelSamplingConfig
from svd.console import log


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are the fields of PixelSamplingConfig."""
    parser = options.new_parser(program, __doc__, "File of these options; one is written beside the videos.")
    add_videos(parser, "Videos to reconstruct")
    add = parser.add_argument
    add("--known", nargs="+", type=NonNegativeInt, default=[], help="Numbers of the frames that are given, from 0: "
        "those between are filled in, those after them follow.")  # fmt: skip
    add("--factor", type=Optional[PositiveInt], help="Frames are given at a size that is so many times smaller (with "
        "--known, these frames are given besides).")  # fmt: skip
    add("--time", type=Optional[float], help="Instead: noise videos to this time, above 0 to 1, which is noise alone, "
        "and remove the noise.")  # fmt: skip
    add_method(parser)
    add_outputs(parser)
    options.add_device(parser)
    options.add_compile_cache(parser)
    example = "configs/moving_mnist/video_ldm.yaml"
    options.add_model(parser, "Weights, as `svd train` and `svd convert` write them.", group="model", example=example)
    options.add_sampling(parser, group="sampling", settings=PixelSamplingConfig)
    return parser


def check_given(args: Namespace, sampling: PixelSamplingConfig) -> None:
    """Raise ConfigError unless it is clear what is given of the videos."""
    if (args.time is None) == (not args.known and args.factor is None):
        raise ConfigError("give either --known, --factor or both, or --time: what videos are reconstructed from")
    if args.time is not None and not 0 < args.time <= 1:
        raise ConfigError(f"--time must be above 0, to 1, got {args.time}")
    if args.time is not None and (args.weight is not None or args.method != "guidance"):
        raise ConfigError("--method and --weight are for --known and --factor, not for --time")
    if args.known and max(args.known) >= sampling.num_frames:
        raise ConfigError(f"--known must be among 0 to {sampling.num_frames - 1}, got {max(args.known)}")
    if args.factor is not None:
        sides = sampling.height, sampling.width
        if args.factor < 2 or any(side % args.factor for side in sides):
            raise ConfigError(f"--factor must be 2 or more, and divide {sides[0]} x {sides[1]}, got {args.factor}")
        if args.method == "replacement":
            raise ConfigError("--method=replacement puts known frames in, and --factor gives none: choose guidance")


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    check_videos(args)
    options.check_compile_cache(args)
    check_outputs(args)
    model = resolve_model(args)
    sampling = options.resolve_sampling(model, args.sampling)
    check_given(args, sampling)
    if args.known and not model.temporal_layers:
        raise ConfigError("--known is for models of videos: one of images draws every frame by itself")
    weight = weight_of(args)
    videos = read_videos(args, sampling.num_frames, sampling.height, sampling.width, model.channels)
    pipe = options.load(args, args.model, model)
    start = time.perf_counter()
    shown, made = reconstruct(pipe, videos, args, weight, sampling)
    error = np.mean((videos / 255.0 - made / 255.0) ** 2, (1, 2, 3, 4))
    frames = side_by_side(np.concatenate([videos, shown, made], 3))
    beside = side_file(parser, args, describe(args.mode, args.model.checkpoint, None))
    written = write_results(args, "reconstruct", video_writers(args.format, frames, sampling.fps), beside)
    log(f"{len(videos)} x {len(frames)} frames in {time.perf_counter() - start:.1f} s; PSNR to the videos: "
        f"{np.mean(-10 * np.log10(np.maximum(error, 1e-10))):.2f} dB")  # fmt: skip
    print(*written, sep="\n")


def reconstruct(
    pipe, videos: np.ndarray, args: Namespace, weight: float, sampling: PixelSamplingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """What is given of videos uint8 [b t h w c], for showing, and what is made of it, both of that form."""
    from svd.diffusion.reconstruction import bilinear_rows
    from svd.pipelines.given import Given

    options = {"settings": sampling, "seed": args.seed}
    if args.time is not None:
        noise = np.random.default_rng(args.seed).standard_normal(videos.shape)
        angle = np.pi / 2 * args.time
        noisy = np.cos(angle) * (videos / 127.5 - 1) + np.sin(angle) * noise
        shown = np.round(255 * np.clip((noisy + 1) / 2, 0, 1)).astype(np.uint8)
        return shown, pipe(len(videos), noised=videos, time=args.time, **options)
    shown, low = np.zeros_like(videos), None
    if args.factor is not None:
        rows, columns = (bilinear_rows(side, args.factor) for side in videos.shape[2:4])
        low = np.einsum("ih,bthwc,jw->btijc", rows, videos / np.float32(255), columns, optimize=True)
        shown = np.round(255 * low.repeat(args.factor, 2).repeat(args.factor, 3)).astype(np.uint8)
    shown[:, args.known] = videos[:, args.known]
    frames = videos if args.known else None
    given = Given(frames, args.known, None if low is None else low.clip(0, 1), weight)
    return shown, pipe(len(videos), given=given, **options)


def main(argv: Optional[list[str]] = None, program: str = "reconstruct.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
