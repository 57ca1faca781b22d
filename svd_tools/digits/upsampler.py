"""Evaluate an upsampler on moving digits: fidelity against cubic interpolation, and the video against the image model.

svd digits upsampler --checkpoint outputs/upsampler/video/model.safetensors --out_dir outputs/upsampler/evaluation
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from svd import __version__, cli, runtime
from svd.cli.options import add_device, add_sampling, new_parser, resolve_model, resolve_sampling
from svd.config import ConfigError, UpsamplerConfig, UpsamplingConfig
from svd.data.moving_digits import MovingDigits
from svd.data.pictures import scaled
from svd.data.videos import write_video
from svd.files import check_folder, sha256, write_text
from svd.resources import DIGITS

SHOWN = 6
"""Clips of samples.gif."""
MOST = 100.0
"""Decibels of videos that are equal: JSON has no infinity."""


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are the fields of UpsamplingConfig."""
    parser = new_parser(program, __doc__, "File of these options.")
    add = parser.add_argument
    add("--checkpoint", required=True, help="Weights of an upsampler.")
    add("--judge", default=str(DIGITS / "judge.safetensors"), help="Network that judges videos, as "
        "`svd digits train-judge` writes it: its features are those of the Frechet distance.")  # fmt: skip
    add("--out_dir", default="outputs/upsampler_evaluation", help="Folder to write to; an earlier evaluation there is "
        "replaced.")  # fmt: skip
    add("--clips", type=PositiveInt, default=256, help="Held-out clips that are made small and upsampled, and as many "
        "others, which their features are compared with.")  # fmt: skip
    add("--frames", type=PositiveInt, default=14, help="Frames of a clip.")
    add("--size", type=PositiveInt, default=64, help="Pixels of a clip's height and width.")
    add("--tiled_clips", type=NonNegativeInt, default=16, help="How many of the clips are upsampled in tiles, too, of "
        "half their height and width, and compared with the whole ones.")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="Of the clips and of the noise.")
    add("--source", default="sklearn", help="Handwriting that the judge has learned: sklearn, or MNIST's folder.")
    add_device(parser)
    add_sampling(parser, ("tile", "tile_overlap"), "sampling", UpsamplingConfig)
    return parser


def run(args: Namespace) -> None:
    """The work of the command line."""
    if args.clips < 2:
        raise ConfigError(f"--clips must be 2 or more, got {args.clips}: one has no covariance")
    check_folder(args.out_dir, "--out_dir")
    model = resolve_model(Namespace(config=None, checkpoint=args.checkpoint), UpsamplerConfig)
    settings = resolve_sampling(model, args.sampling.clone())
    factor, multiple = model.low_resolution.factor, 2 * model.size_multiple
    if args.size % multiple:
        raise ConfigError(f"--size must be a multiple of {multiple}, so that it can be halved, got {args.size}")

    from svd.build import load_pipeline  # MindSpore takes seconds to import
    from svd.training.tasks.upsampling import lowered
    from svd_tools.digits.judge import MIN_FRAMES, judge_videos, load_judge

    if args.frames < MIN_FRAMES:
        raise ConfigError(f"--frames must be {MIN_FRAMES} or more for motion to be judged, got {args.frames}")
    device = runtime.setup(args.device_target, args.mode)
    judge = load_judge(args.judge, device, args.size, args.source)
    pipe = load_pipeline(model, args.checkpoint, args.device_target, args.mode)
    options = {"frames": args.frames, "size": args.size, "part": "test", "source": args.source}
    real, others = (
        np.stack([data.load(index).frames for index in range(args.clips)])
        for data in (MovingDigits(args.clips, **options, seed=seed) for seed in (args.seed, args.seed + 1))
    )
    low = np.stack([lowered(clip, factor) for clip in real])

    def upsampled(what: str, clips: np.ndarray, **more: Any) -> np.ndarray:
        options = {"settings": settings, "progress": False, **more}
        return each(what, clips, lambda number, clip: pipe(clip, seed=(args.seed, number), **options))

    made = {"bicubic": np.stack([[scaled(frame, args.size, args.size) for frame in clip] for clip in low])}
    made["image"] = upsampled("image model", low, image_only=model.temporal is not None)
    if model.temporal is not None:
        made["video"] = upsampled("video model", low)
    best = list(made)[-1]
    compared = judge_videos(judge, others).features
    table = pd.DataFrame(
        {
            name: scores(videos, real) | {"frechet_distance": distance(judge_videos(judge, videos).features, compared)}
            for name, videos in (made | {"real": real}).items()
        }
    )
    report = {"options": args.as_dict(), "scores": table.to_dict(), "checkpoint": sha256(args.checkpoint)}
    report |= {"judge": sha256(args.judge), "svd": __version__}
    if args.tiled_clips:
        some = low[: args.tiled_clips]
        tiled = upsampled("in tiles", some, tile=args.size // factor // 2 // tile_step(model) * tile_step(model))
        report["tiled_against_whole"] = scores(tiled, made[best][: len(some)])
    write(Path(args.out_dir), report, made | {"real": real}, low)
    print(table.to_string(float_format="%.4f"))
    if args.tiled_clips:
        print(f"{best} model in tiles against whole: {json.dumps(report['tiled_against_whole'])}")


def tile_step(model: UpsamplerConfig) -> int:
    """What tiles are multiples of."""
    return model.size_multiple // model.low_resolution.factor


def each(what: str, clips: np.ndarray, make: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """What is made of each clip [n t h w 3] and its number."""
    return np.stack([make(number, clip) for number, clip in enumerate(tqdm(clips, desc=what, unit="video"))])


def scores(videos: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Nearness of videos to the real ones, uint8 [n t h w 3]: PSNR, SSIM, and flicker, the mean difference of their
    steps from frame to frame, in grey levels.
    """
    from svd.metrics.fidelity import psnr, ssim

    steps = (np.diff(x.astype(np.float32), axis=1) for x in (videos, real))
    flicker = float(np.abs(np.subtract(*steps)).mean())
    return {"psnr": min(psnr(videos, real), MOST), "ssim": ssim(videos, real), "flicker": flicker}


def distance(features: np.ndarray, compared: np.ndarray) -> float:
    from svd.metrics.frechet import frechet_distance

    return frechet_distance(features, compared)


def write(folder: Path, report: dict[str, Any], made: dict[str, np.ndarray], low: np.ndarray) -> None:
    """Write metrics.json, and samples.gif: a row each of the given clips, what is made of them, and the real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    times = next(iter(made.values())).shape[2] // low.shape[2]
    rows = [low.repeat(times, 2).repeat(times, 3), *made.values()]
    count = min(SHOWN, len(low))
    shown = [np.concatenate(list(videos[:count]), axis=2) for videos in rows]
    write_video(folder / "samples.gif", np.concatenate(shown, axis=1), 7)


def main(argv: Optional[list[str]] = None, program: str = "svd digits upsampler") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
