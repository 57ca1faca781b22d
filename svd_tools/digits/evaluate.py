"""Evaluate a model of moving digits: fidelity to the picture, identity of the digits, and control of motion.

python svd_tools/evaluate.py
python svd_tools/evaluate.py --SVD.checkpoint=digits.safetensors --judge=judge.safetensors --out_dir=outputs/evaluation

Writes metrics.json, contact_sheet.png (real clips, and under each the video made of its first frame) and samples.gif.
The videos are kept in generated/: the same command continues what was stopped, and another judge needs no new ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image

from svd import __version__, cli, runtime
from svd.cli.options import add_device, add_model, add_sampling, new_parser, resolve_model, resolve_sampling
from svd.config import ConfigError, ModelConfig, SamplingConfig
from svd.console import log
from svd.data.moving_digits import MovingDigits
from svd.data.videos import write_video
from svd.files import atomic_write, check_folder, sha256, write_text
from svd.resources import DIGITS
from svd_tools.digits.drawing import VideoMaker, contact_sheet, grid

BUCKETS = (0, 32, 64, 96, 128, 160, 192, 224, 255)
"""Motion buckets that one picture is drawn with after the other."""


def plain(value: Any) -> Any:
    """A value as JSON can have it: NaN is null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(value)
    return value


def build_parser(program: str) -> ArgumentParser:
    """The command line; the sampling flags are those of SamplingConfig, but for the bucket: each clip has its own."""
    parser = new_parser(program, __doc__, "File of these options.")
    add = parser.add_argument
    add("--judge", default=str(DIGITS / "judge.safetensors"), help="Network that judges videos, as "
        "`svd digits train-judge` writes it.")  # fmt: skip
    add("--out_dir", default="outputs/evaluation", help="Folder to write to; an earlier evaluation there is replaced.")
    add("--clips", type=PositiveInt, default=256, help="Real clips of held-out handwriting, whose first frames are "
        "made videos of; and as many others, which both are compared with.")  # fmt: skip
    add("--control_pictures", type=PositiveInt, default=32, help="How many of the first frames are drawn with each of "
        f"the motion buckets {', '.join(map(str, BUCKETS))}.")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="Of the clips and of the noise.")
    add("--batch_size", type=PositiveInt, default=16, help="Videos made at a time; they do not depend on it.")
    add("--image_model", action="store_true", help="Switch the temporal layers off: what the image model does alone.")
    add_device(parser)
    add_model(parser, "Weights of the model.", default=str(DIGITS / "model.safetensors"))
    # each clip has its own motion bucket, and one image; all frames are decoded at once
    add_sampling(parser, skip={"motion_bucket_id", "decode_memory_gb", "fusion"})
    skipped = {"clips", "frames", "size", "fps", "part", "seed"}  # follow from the others
    parser.add_class_arguments(MovingDigits, "data", skip=skipped, help="real clips, as those of the training")
    return parser


def resolve(args: Namespace) -> tuple[ModelConfig, SamplingConfig]:
    """Model and sampling settings: what was given, then the model's configuration."""
    if args.clips < 2:
        raise ConfigError(f"--clips must be 2 or more, got {args.clips}: one has no covariance")
    model = resolve_model(args.SVD, ModelConfig)
    sampling = resolve_sampling(model, args.SVD.clone())  # the report has the options as they were given
    if sampling.height != sampling.width:
        raise ConfigError(f"digits move in a square: give the same --SVD.height and --SVD.width, not {sampling.height} "
                          f"and {sampling.width}")  # fmt: skip
    return model, sampling


def run(args: Namespace) -> None:
    """The work of the command line."""
    model, sampling = resolve(args)
    check_folder(args.out_dir, "--out_dir")
    frames = sampling.num_frames
    options = {**args.data.as_dict(), "frames": frames, "size": sampling.height, "fps": sampling.fps, "part": "test"}
    real, other = (MovingDigits(args.clips, **options, seed=seed) for seed in (args.seed, args.seed + 1))

    from svd.build import load_pipeline  # MindSpore takes seconds to import
    from svd_tools.digits.judge import MIN_FRAMES, judge_videos, load_judge
    from svd_tools.digits.scores import Clips, confusion, fastest, motion_control, right_by_frame, scores

    if frames < MIN_FRAMES:
        raise ConfigError(f"--SVD.num_frames must be {MIN_FRAMES} or more for motion to be judged, got {frames}")
    device = runtime.setup(args.device_target, args.mode)
    judge = load_judge(args.judge, device, sampling.height, args.data.source)
    pipe = load_pipeline(model, args.SVD.checkpoint, args.device_target, args.mode, args.SVD.amp_level)
    make = VideoMaker(pipe, sampling, args.batch_size, args.seed, args.image_model)
    clips, others = Clips.of(real), Clips.of(other)
    facts = describe(args, model, sampling)
    name = hashlib.sha256(json.dumps(plain(facts)).encode()).hexdigest()[:16]
    kept = Path(args.out_dir) / "generated" / name  # a folder for each settings: nothing has to be deleted
    log("the first videos compile the networks, once")
    rows = np.arange(args.clips)
    generated = make(clips.pictures, clips.buckets, rows, "drawing a video for each clip", kept / "clips")
    still = np.repeat(clips.videos[:, :1], frames, axis=1)

    columns = {"generated": generated, "still": still, "real": clips.videos}
    compared = judge_videos(judge, others.videos, args.batch_size)
    seen = {name: judge_videos(judge, videos, args.batch_size) for name, videos in columns.items()}
    table = pd.DataFrame({name: scores(columns[name], seen[name], clips, compared) for name in columns})
    confused = confusion(seen["generated"], clips)
    rows = np.repeat(np.arange(min(args.control_pictures, args.clips)), len(BUCKETS))
    buckets = np.resize(BUCKETS, len(rows))
    videos = make(clips.pictures[rows], buckets, rows, "drawing pictures with every bucket", kept / "every_bucket")
    judged = judge_videos(judge, videos, args.batch_size)
    speeds, correlations = motion_control(videos, judged, buckets, rows, clips.count[rows] == 1)

    report = {
        "options": args.as_dict(),
        "sampling": facts["sampling"],
        "sha256": {"checkpoint": facts["checkpoint"], "judge": sha256(args.judge)},
        "versions": facts["versions"],
        "scores": table.to_dict(),
        "right_by_frame": {name: right_by_frame(judged, clips) for name, judged in seen.items()},
        "confusion": confused.to_dict("index"),
        "motion_control": {
            "speed_by_bucket": speeds.to_dict(),
            "part_of_fastest": fastest(speeds),
            "rank_correlation": correlations,
        },
    }
    write(Path(args.out_dir), report, contact_sheet(clips.videos, generated), grid(generated), sampling.fps)
    show(table, confused, speeds, correlations)


def describe(args: Namespace, model: ModelConfig, sampling: SamplingConfig) -> dict[str, Any]:
    """All that the generated videos depend on."""
    return {
        **{name: args[name] for name in ("clips", "control_pictures", "seed", "batch_size", "image_model")},
        "data": args.data.as_dict(),
        "model": dataclasses.asdict(model),
        "sampling": dataclasses.asdict(sampling),
        "amp_level": args.SVD.amp_level,
        "checkpoint": sha256(args.SVD.checkpoint),
        "versions": {"svd": __version__, **runtime.describe(args.mode)},
    }


def write(folder: Path, report: dict[str, Any], sheet: np.ndarray, samples: np.ndarray, fps: int) -> None:
    """Write metrics.json, contact_sheet.png and samples.gif, each of them whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "contact_sheet.png", need=sheet.nbytes) as aside:
        Image.fromarray(sheet).save(aside, format="png")
    write_video(folder / "samples.gif", samples, fps)
    write_text(folder / "metrics.json", json.dumps(plain(report), indent=1, allow_nan=False) + "\n")


def show(table: pd.DataFrame, confused: pd.DataFrame, speeds: pd.DataFrame, correlations: dict[str, float]) -> None:
    """Print the numbers."""
    from svd_tools.digits.scores import fastest, title

    print(table.rename(index=title).to_string(float_format="%.3f", na_rep="-"))
    print("\nwhat the last frames of clips of one digit show, by digit")
    print(confused.to_string())
    print("\nspeed by motion bucket, pixels per frame: clips of 1 by centres, all by the judge")
    print(speeds.T.to_string(float_format="%.2f", na_rep="-"))
    for name, value in fastest(speeds).items():
        print(f"speed at bucket 255, by the {name}, in parts of what it means: {value:.2f}")
    for name, value in correlations.items():
        print(f"rank correlation of speed and bucket, by the {name.replace('_', ' ')}: {value:.3f}")


def main(argv: Optional[list[str]] = None, program: str = "evaluate.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
