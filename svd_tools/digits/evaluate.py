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
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image
from tqdm import tqdm

from svd import __version__, cli, runtime
from svd.cli.options import add_device, add_model, add_sampling, new_parser, resolve_sampling
from svd.config import ConfigError, ModelConfig, SamplingConfig
from svd.console import log
from svd.data.moving_digits import MovingDigits
from svd.data.videos import write_video
from svd.files import atomic_write, check_folder, sha256, write_text
from svd.resources import DIGITS

if TYPE_CHECKING:
    from svd.pipelines.image_to_video import ImageToVideo

BUCKETS = (0, 32, 64, 96, 128, 160, 192, 224, 255)
"""Motion buckets that one picture is drawn with after the other."""
SHEET_CLIPS, SHEET_FRAMES, GIF_SIDE = 6, 14, 6
GREY = 64
"""Of the lines between frames."""


class VideoMaker:
    """Generates videos in batches of one size, with one graph per network.

    A clip's noise follows from the seed and the clip's number, whatever its batch and its bucket. `image_only` leaves
    the temporal layers out.
    """

    def __init__(
        self, pipe: ImageToVideo, settings: SamplingConfig, batch_size: int, seed: int, image_only: bool = False
    ):
        self.pipe, self.batch_size, self.seed, self.image_only = pipe, batch_size, seed, image_only
        # All frames of a clip are decoded at once, whatever the free memory: the same result on every machine.
        self.settings = dataclasses.replace(
            settings, decode_chunk_size=settings.decode_chunk_size or settings.num_frames
        )

    def __call__(
        self, pictures: np.ndarray, buckets: np.ndarray, numbers: np.ndarray, what: str, kept: Optional[Path] = None
    ) -> np.ndarray:
        """Pictures uint8 [n h w 3], their motion buckets [n] and clips' numbers [n] -> uint8 [n t h w 3].

        Batches are written to the folder `kept`, and read if they are there already.
        """
        n, videos = len(pictures), []
        with tqdm(total=n, desc=what, unit="video") as bar:
            for start in range(0, n, self.batch_size):
                rows = np.minimum(np.arange(start, start + self.batch_size), n - 1)  # the last batch is padded
                path = kept and kept / f"{start:06d}.npz"
                if path and path.exists():
                    videos.append(np.load(path)["videos"])
                else:
                    videos.append(self._batch(pictures[rows], buckets[rows], numbers[rows])[: n - start])
                    if path:
                        with atomic_write(path, need=videos[-1].nbytes) as aside, open(aside, "wb") as file:
                            np.savez_compressed(file, videos=videos[-1])
                bar.update(len(videos[-1]))
        return np.concatenate(videos)

    def _batch(self, pictures: np.ndarray, buckets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        options = {"settings": self.settings, "image_only": self.image_only, "progress": False}
        seeds = [(self.seed, int(number)) for number in numbers]
        latents = self.pipe(pictures, motion_bucket_id=buckets, seed=seeds, output="latents", **options)
        videos = [self.pipe.decode(clip[None], **options)[0] for clip in latents]
        return np.round(255 * np.stack(videos)).astype(np.uint8)


def contact_sheet(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """A picture [y x 3] of some clips' frames side by side: each real clip, and under it the generated one."""
    step = math.ceil(real.shape[1] / SHEET_FRAMES)
    pairs = np.stack([real, generated], 1)[:SHEET_CLIPS, :, ::step]  # [n 2 t h w 3]
    framed = np.pad(pairs, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=GREY)
    n, _, t, h, w, _ = framed.shape
    return framed.transpose(0, 1, 3, 2, 4, 5).reshape(2 * n * h, t * w, 3)


def grid(videos: np.ndarray) -> np.ndarray:
    """Videos [n t h w 3] beside and below each other, as many as make full rows: [t y x 3]"""
    columns = min(GIF_SIDE, len(videos))
    rows = min(GIF_SIDE, len(videos) // columns)
    _, t, h, w, _ = videos.shape
    tiles = videos[: rows * columns].reshape(rows, columns, t, h, w, 3)
    return tiles.transpose(2, 0, 3, 1, 4, 5).reshape(t, rows * h, columns * w, 3)


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
    # each clip has its own motion bucket; all frames are decoded at once
    add_sampling(parser, skip={"motion_bucket_id", "decode_memory_gb"})
    skipped = {"clips", "frames", "size", "fps", "part", "seed"}  # follow from the others
    parser.add_class_arguments(MovingDigits, "data", skip=skipped, help="real clips, as those of the training")
    return parser


def resolve(args: Namespace) -> tuple[ModelConfig, SamplingConfig]:
    """Model and sampling settings: what was given, then the model's configuration."""
    if args.clips < 2:
        raise ConfigError(f"--clips must be 2 or more, got {args.clips}: one has no covariance")
    model, sampling = resolve_sampling(args)
    if sampling.height != sampling.width:
        raise ConfigError(f"digits move in a square: give the same --SVD.height and --SVD.width, not {sampling.height} "
                          f"and {sampling.width}")  # fmt: skip
    return model, sampling


def run(args: Namespace) -> None:
    """The work of the command line."""
    model, sampling = resolve(args)
    check_folder(args.out_dir, "--out_dir")
    size, frames = sampling.height, sampling.num_frames
    options = {**args.data.as_dict(), "frames": frames, "size": size, "fps": sampling.fps, "part": "test"}
    real, other = (MovingDigits(args.clips, **options, seed=seed) for seed in (args.seed, args.seed + 1))

    from svd.build import load_pipeline  # MindSpore takes seconds to import
    from svd_tools.digits.judge import MIN_FRAMES, judge_videos, load_judge
    from svd_tools.digits.scores import Clips, motion_control, scores

    if frames < MIN_FRAMES:
        raise ConfigError(f"--SVD.num_frames must be {MIN_FRAMES} or more for motion to be judged, got {frames}")
    judge = load_judge(args.judge, runtime.setup(args.device_target, args.mode), size, args.data.source)
    pipe = load_pipeline(model, args.SVD.checkpoint, args.device_target, args.mode, args.SVD.amp_level)
    make = VideoMaker(pipe, sampling, args.batch_size, args.seed, args.image_model)
    clips, others = Clips.of(real), Clips.of(other)
    digest, versions = sha256(args.SVD.checkpoint), {"svd": __version__, **runtime.describe(args.mode)}
    settings = {
        **{name: args[name] for name in ("clips", "control_pictures", "seed", "batch_size", "image_model")},
        "data": args.data.as_dict(),
        "model": dataclasses.asdict(model),
        "sampling": dataclasses.asdict(sampling),
        "amp_level": args.SVD.amp_level,
        "checkpoint": digest,
        "versions": versions,
    }
    name = hashlib.sha256(json.dumps(plain(settings)).encode()).hexdigest()[:16]
    kept = Path(args.out_dir) / "generated" / name  # a folder for each settings: nothing has to be deleted
    log("the first videos compile the networks, once")
    rows = np.arange(args.clips)
    generated = make(clips.pictures, clips.buckets, rows, "drawing a video for each clip", kept / "clips")
    still = np.repeat(clips.videos[:, :1], frames, axis=1)

    columns = {"generated": generated, "still": still, "real": clips.videos}
    compared = judge_videos(judge, others.videos, args.batch_size)
    table = pd.DataFrame({
        name: scores(videos, judge_videos(judge, videos, args.batch_size), clips, compared)
        for name, videos in columns.items()
    })  # fmt: skip
    rows = np.repeat(np.arange(min(args.control_pictures, args.clips)), len(BUCKETS))
    buckets = np.resize(BUCKETS, len(rows))
    videos = make(clips.pictures[rows], buckets, rows, "drawing pictures with every bucket", kept / "every_bucket")
    judged = judge_videos(judge, videos, args.batch_size)
    speeds, correlations = motion_control(videos, judged, buckets, rows, clips.count[rows] == 1)

    report = {
        "options": args.as_dict(),
        "sampling": dataclasses.asdict(sampling),
        "sha256": {"checkpoint": digest, "judge": sha256(args.judge)},
        "versions": versions,
        "scores": table.to_dict(),
        "motion_control": {"speed_by_bucket": speeds.to_dict(), "rank_correlation": correlations},
    }
    write(Path(args.out_dir), report, contact_sheet(clips.videos, generated), grid(generated), sampling.fps)
    show(table, speeds, correlations)


def write(folder: Path, report: dict[str, Any], sheet: np.ndarray, samples: np.ndarray, fps: int) -> None:
    """Write metrics.json, contact_sheet.png and samples.gif, each of them whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "contact_sheet.png", need=sheet.nbytes) as aside:
        Image.fromarray(sheet).save(aside, format="png")
    write_video(folder / "samples.gif", samples, fps)
    write_text(folder / "metrics.json", json.dumps(plain(report), indent=1, allow_nan=False) + "\n")


def show(table: pd.DataFrame, speeds: pd.DataFrame, correlations: dict[str, float]) -> None:
    """Print the numbers."""
    from svd_tools.digits.scores import title

    print(table.rename(index=title).to_string(float_format="%.3f", na_rep="-"))
    print("\nspeed by motion bucket, pixels per frame: clips of 1 by centres, all by the judge")
    print(speeds.T.to_string(float_format="%.2f", na_rep="-"))
    for name, value in correlations.items():
        print(
            f"rank correlation of speed and bucket, by the {name.replace('_', ' ', 1).replace('_', ' ')}: {value:.3f}"
        )


def main(argv: Optional[list[str]] = None, program: str = "evaluate.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
