"""Compare models in pixel space of Moving MNIST: Frechet distances of their videos, and of long ones made in windows.

svd digits pixels --source=MNIST --judge=judge.safetensors --checkpoints A/model.safetensors B/model.safetensors

Writes metrics.json, table.md and a .gif of each kind of video of each model. The videos are kept in generated/: the
same command continues what was stopped, and one with more models makes no videos anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Optional

import cv2
import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from svd import __version__, cli, runtime
from svd.checkpoints.model_file import Checkpoint
from svd.cli.options import add_device, new_parser
from svd.config import ConfigError, VideoDiffusionConfig
from svd.console import log
from svd.data.moving_mnist import CANVAS, MovingMNIST
from svd.data.videos import write_video
from svd.files import check_folder, sha256, write_text
from svd.metrics.frechet import frechet_distance
from svd_tools.digits.drawing import grid, in_batches

METHODS = ("guidance", "replacement")


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = new_parser(program, __doc__, "File of these options.")
    add = parser.add_argument
    add("--checkpoints", nargs="+", required=True, help="Weights of the models; each is called by the name of its "
        "folder.")  # fmt: skip
    add("--source", required=True, help="What real clips are made of: a folder of MNIST's idx files.")
    add("--judge", required=True, help=f"Network whose features are compared, for {CANVAS} pixels, as "
        "`svd digits train-judge --source=MNIST` writes it.")  # fmt: skip
    add("--out_dir", default="outputs/moving_mnist/evaluation", help="Folder to write to.")
    add("--videos", type=PositiveInt, default=256, help="Videos of each kind and model.")
    add("--frames", type=NonNegativeInt, default=64, help="Frames of long videos, which begin with held-out clips; 0 "
        "for none.")  # fmt: skip
    add("--overlap", type=Optional[PositiveInt], help="Frames that windows share; a quarter of one if not given.")
    add("--weight", type=Optional[float], help="Of reconstruction guidance; 3 if not given.")
    add("--sampling_steps", type=Optional[PositiveInt], help="Steps of the sampler; the model's own if not given.")
    add("--seed", type=NonNegativeInt, default=0, help="Of the clips and of the noise.")
    add("--batch_size", type=PositiveInt, default=16, help="Videos made at a time; they do not depend on it.")
    add_device(parser)
    return parser


def run(args: Namespace) -> None:
    """The work of the command line."""
    if args.videos < 2:
        raise ConfigError(f"--videos must be 2 or more, got {args.videos}: one has no covariance")
    models = resolve(args)
    check_folder(args.out_dir, "--out_dir")
    from svd.build import load_pipeline  # MindSpore takes seconds to import
    from svd_tools.digits.judge import judge_videos, load_judge

    device = runtime.setup(args.device_target, args.mode)
    judge = load_judge(args.judge, device, CANVAS, args.source)

    def features(videos: np.ndarray) -> np.ndarray:
        return judge_videos(judge, enlarged(videos), args.batch_size).features

    real: dict[tuple[int, int], tuple[np.ndarray, float]] = {}
    rows: dict[str, dict[str, float]] = {}
    for name, (path, model) in models.items():
        sampling = dataclasses.replace(model.sampling, **steps_of(args))
        pipe, row = load_pipeline(model, path, args.device_target, args.mode), {}
        for kind, frames in kinds(args, sampling.num_frames).items():
            size = (frames, sampling.height)
            if size not in real:
                clips, others = (features(real_clips(args, *size, seed)) for seed in (args.seed, args.seed + 1))
                real[size] = clips, frechet_distance(others, clips)
            videos = generate(args, pipe, sampling, kind, frames, path, name)
            row[kind], row[f"real, {frames} frames"] = frechet_distance(features(videos), real[size][0]), real[size][1]
            write_video(Path(args.out_dir) / f"{name}_{kind}.gif", grid(videos), sampling.fps)
        rows[name] = row
        write(args, rows)  # after each model, as all of them take hours


def resolve(args: Namespace) -> dict[str, tuple[str, VideoDiffusionConfig]]:
    """Paths and models by name; raises ConfigError."""
    models = {}
    for path in args.checkpoints:
        model, name = Checkpoint(path).config, Path(path).absolute().parent.name
        if not isinstance(model, VideoDiffusionConfig) or model.conditioned or not model.temporal_layers:
            raise ConfigError(f"--checkpoints {path}: it is no model of videos in pixel space that is told nothing")
        if name in models:
            raise ConfigError(f"--checkpoints: two are in folders called {name}; rename one")
        if model.sampling.height != model.sampling.width or CANVAS % model.sampling.height:
            raise ConfigError(f"--checkpoints {path}: its videos are no squares whose side divides {CANVAS}")
        if 0 < args.frames <= model.sampling.num_frames:
            window = model.sampling.num_frames
            raise ConfigError(f"--frames must be more than the {window} of a window, or 0, got {args.frames}")
        models[name] = path, model
    return models


def steps_of(args: Namespace) -> dict[str, int]:
    return {} if args.sampling_steps is None else {"sampling_steps": args.sampling_steps}


def kinds(args: Namespace, window: int) -> dict[str, int]:
    """Kinds of videos, and their numbers of frames: samples, and long ones by each method."""
    return {"samples": window} | {method: args.frames for method in METHODS if args.frames}


def real_clips(args: Namespace, frames: int, size: int, seed: int, n: Optional[int] = None) -> np.ndarray:
    """Held-out clips, uint8 [n t h w 3]."""
    data = MovingMNIST(args.source, n or args.videos, frames=frames, size=size, part="test", seed=seed)
    return np.stack([data.load(index).frames for index in range(len(data))])


def generate(args: Namespace, pipe, sampling, kind: str, frames: int, path: str, name: str) -> np.ndarray:
    """The videos of a kind, uint8 [n t h w 3]."""
    facts = {
        **{key: args[key] for key in ("seed", "overlap", "weight", "source")},
        **{"sampling": dataclasses.asdict(sampling), "kind": kind, "frames": frames, "checkpoint": sha256(path)},
        **{"svd": __version__, **runtime.describe(args.mode)},
    }
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    begun = None
    if kind != "samples":
        begun = real_clips(args, sampling.num_frames, sampling.height, args.seed + 2)[..., : pipe.config.channels]
    options = {"overlap": args.overlap, **({} if args.weight is None else {"weight": args.weight})}
    if kind == "replacement":
        options["weight"] = 0.0

    def draw(rows: np.ndarray) -> np.ndarray:
        seeds = [[args.seed, int(row)] for row in rows]
        if begun is None:
            videos = pipe(len(rows), settings=sampling, seed=seeds, progress=False)
        else:
            videos = pipe.extend(begun[rows], frames, settings=sampling, seed=seeds, progress=False, **options)
        return np.broadcast_to(videos, (*videos.shape[:-1], 3))

    kept = Path(args.out_dir) / "generated" / digest
    return in_batches(draw, args.videos, args.batch_size, f"{name}: {kind}", kept)


def enlarged(videos: np.ndarray) -> np.ndarray:
    """uint8 [n t h w 3] at the size that the judge has learned."""
    n, t, h, w, _ = videos.shape
    if h == CANVAS:
        return videos
    frames = videos.reshape(n * t, h, w, 3)
    large = [cv2.resize(frame, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC) for frame in frames]
    return np.stack(large).reshape(n, t, CANVAS, CANVAS, 3)


def write(args: Namespace, rows: dict[str, dict[str, float]]) -> None:
    """Write metrics.json and table.md, and print the table."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        cells = [f"{row[column]:.2f}" if column in row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    report: dict[str, Any] = {
        "options": args.as_dict(),
        "frechet": rows,
        "sha256": {path: sha256(path) for path in [*args.checkpoints, args.judge]},
        "versions": {"svd": __version__, **runtime.describe(args.mode)},
    }
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(report, indent=1) + "\n")
    write_text(folder / "table.md", "\n".join(lines) + "\n")
    log("\n".join(lines))


def main(argv: Optional[list[str]] = None, program: str = "svd digits pixels") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
