"""Evaluate a model of words to moving digits: whether videos show the digits of their captions, and move as they say.

svd digits words --checkpoint outputs/words/text_to_video/model.safetensors --out_dir outputs/words/evaluation
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from svd import __version__, cli, runtime
from svd.cli.options import add_device, new_parser
from svd.config import ConfigError
from svd.data.handwriting import SIDE
from svd.data.moving_digits import FAST, SLOW, MovingDigits
from svd.data.videos import write_video
from svd.files import check_folder, sha256, write_text
from svd.resources import DIGITS
from svd_tools.digits.drawing import grid, in_batches
from svd_tools.digits.motion import brightness_centres, deviation, speed

SPEEDS = ("slow", "", "fast")
"""Words of captions."""


def build_parser(program: str) -> ArgumentParser:
    """The command line; sampling is as the model's configuration says."""
    parser = new_parser(program, __doc__, "File of these options.")
    add = parser.add_argument
    add("--checkpoint", required=True, help="Weights of a model of videos.")
    add("--spatial", type=Optional[str], help="Another image model, of which the spatial layers are taken.")
    add("--inverted", action="store_true", help="It draws black on white: the judge is shown the negative.")
    add("--judge", default=str(DIGITS / "judge.safetensors"), help="Network that judges videos, as "
        "`svd digits train-judge` writes it.")  # fmt: skip
    add("--out_dir", default="outputs/words_evaluation", help="Folder to write to; an earlier evaluation there is "
        "replaced.")  # fmt: skip
    add("--clips", type=PositiveInt, default=200, help="Captions of one digit, and as many of two.")
    add("--seed", type=NonNegativeInt, default=0, help="Of the captions and of the noise.")
    add("--batch_size", type=PositiveInt, default=10, help="Videos made at a time; they do not depend on it.")
    add("--source", default="sklearn", help="Handwriting that the judge has learned: sklearn, or MNIST's folder.")
    add_device(parser)
    return parser


def run(args: Namespace) -> None:
    """The work of the command line."""
    check_folder(args.out_dir, "--out_dir")
    from svd.build import load_pipeline  # MindSpore takes seconds to import
    from svd_tools.digits.judge import MIN_FRAMES, judge_videos, load_judge

    device = runtime.setup(args.device_target, args.mode)
    pipe = load_pipeline(None, args.checkpoint, args.device_target, args.mode, spatial=args.spatial)
    sampling = pipe.config.sampling
    if sampling.num_frames < MIN_FRAMES:
        raise ConfigError(f"the judge needs videos of {MIN_FRAMES} frames, and the model makes {sampling.num_frames}")
    judge = load_judge(args.judge, device, sampling.height, args.source)
    report: dict[str, Any] = {}
    frames = {"frames": sampling.num_frames, "part": "test", "seed": args.seed, "source": args.source}
    for digits in (1, 2):
        data = MovingDigits(args.clips, digits=[digits], **frames)
        clips = [data.load(index) for index in range(args.clips)]
        videos = make(pipe, [clip.caption for clip in clips], args.seed, args.batch_size)
        seen = {"made": 255 - videos if args.inverted else videos, "real": np.stack([clip.frames for clip in clips])}
        report[f"digits_{digits}"] = {
            name: scores(shown, judge_videos(judge, shown, args.batch_size), clips) for name, shown in seen.items()
        }
        write_samples(Path(args.out_dir), f"digits_{digits}", videos, [clip.caption for clip in clips], sampling.fps)
    report |= {"options": args.as_dict(), "checkpoint": sha256(args.checkpoint), "svd": __version__}
    write_text(Path(args.out_dir) / "metrics.json", json.dumps(report, indent=1) + "\n")
    for name in ("digits_1", "digits_2"):
        print(pd.DataFrame(report[name]).drop("right").to_string(header=[f"{name}, made", "real clips"]))


def make(pipe, prompts: list[str], seed: int, batch_size: int) -> np.ndarray:
    """A video for each prompt, uint8 [n t h w 3]."""

    def draw(rows: np.ndarray) -> np.ndarray:
        return pipe([prompts[row] for row in rows], seed=[(seed, int(row)) for row in rows], progress=False)

    return in_batches(draw, len(prompts), batch_size, "drawing")


def scores(videos: np.ndarray, judged, clips: list) -> dict[str, Any]:
    """Shares of videos whose frames show the digits of their captions and no others: of all frames, the first and the
    last; speeds by word, pixels per frame; and for single digits how far their paths are from bouncing ones, pixels.
    """
    from svd_tools.digits.judge import classes_present

    present = classes_present([clip.digits for clip in clips])
    buckets = np.array([clip.motion_bucket_id for clip in clips])
    words = np.digitize(buckets, (SLOW, FAST))
    right = [float(judged.shows(present, frame).mean()) for frame in range(videos.shape[1])]
    result: dict[str, Any] = {"right": right, "right_first": right[0], "right_last": right[-1]}
    for word in np.unique(words):
        result[f"speed_{SPEEDS[word] or 'neither'}"] = float(judged.speed[words == word].mean())
    if len(clips[0].digits) == 1:
        paths = brightness_centres(videos)
        walls = ((SIDE - 1) / 2, videos.shape[2] - (SIDE + 1) / 2)
        deviations = np.array([deviation(path, walls) for path in paths])
        known = deviations[~np.isnan(deviations)]
        result["deviation_median"] = float(np.median(known)) if len(known) else None
        result["lost"] = float(np.isnan(speed(paths)).mean())
    return result


def write_samples(folder: Path, name: str, videos: np.ndarray, captions: list[str], fps: int) -> None:
    """Write NAME.gif, a grid of videos, and NAME.txt, the captions of its rows from left to right."""
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / f"{name}.gif", grid(videos), fps)
    write_text(folder / f"{name}.txt", "\n".join(captions) + "\n")


def main(argv: Optional[list[str]] = None, program: str = "svd digits words") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
