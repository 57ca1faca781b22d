"""Measure how continuous videos are: cuts, jumps at seams, warp error, motion, drift of the picture, identity.

svd continuity --videos outputs/long.mp4
svd continuity --videos outputs --out_dir outputs/continuity --seams 13 26 39

Writes continuity.json (the numbers of all videos together, and of each), curves.csv (all curves, frame by frame),
drift.png (their plot), and continuity.yaml, which repeats the run.
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("continuity")

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from svd import cli, runtime
from svd.checkpoints.model_file import Checkpoint
from svd.cli.options import add_device, new_parser
from svd.config import ConfigError
from svd.data.dataset import BadItem, DatasetError, Unavailable
from svd.data.video_reader import open_video
from svd.files import atomic_write, check_folder, write_text
from svd.metrics.continuity import PER_FRAME, PER_TRANSITION, SCORES, Curves, Judge, Report, measure
from svd_tools.jobs.work import VIDEO_SUFFIXES, find_files


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = new_parser(program, __doc__, "File of these options, such as the continuity.yaml that a run has written.")
    add = parser.add_argument
    add("--videos", nargs="+", type=str, help="Video file, folder of videos (searched with all below it), or several "
        "of both. They are read once, a few frames at a time, however long they are.")  # fmt: skip
    add("--seams", nargs="+", type=PositiveInt, help="Frames, counted from 0, at which all of these videos were put "
        "together, each the first of a new piece; steps there are compared with those elsewhere.")  # fmt: skip
    add("--judge", type=Optional[str], help="For videos of moving digits: the network that reads them, such as "
        "assets/digits/judge.safetensors. Identity is whether a frame shows the digits of the first.")  # fmt: skip
    add("--out_dir", type=str, default="outputs/continuity", help="Folder to write to; what an earlier run wrote there "
        "is replaced.")  # fmt: skip
    add_device(parser, "Where the judge runs")
    return parser


def run(parser: ArgumentParser, args: Namespace) -> None:
    """The work of the command line."""
    if not args.videos:
        raise ConfigError("--videos is missing: a video, a folder of videos, or several of both")
    check_folder(args.out_dir, "--out_dir")
    paths = find_videos(args.videos)
    judge = None if args.judge is None else _judge(args)
    curves = {}
    for path in tqdm(paths, "measuring", unit="video", disable=None):  # no bar unless the output is a terminal
        try:
            curves[str(path)] = measure(frames_of(path), args.seams or (), judge, str(path))
        except (BadItem, Unavailable, ValueError) as error:
            raise DatasetError(str(error)) from error
    write(Path(args.out_dir), Report(curves), parser.dump(args))


def find_videos(given: list[str]) -> list[Path]:
    """The videos of these files and folders; raises DatasetError for a path that does not exist, or has none."""
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = [path / name for name, fault in find_files(str(path), VIDEO_SUFFIXES) if not fault]
            if not inside:
                known = ", ".join(sorted(VIDEO_SUFFIXES))
                raise DatasetError(f"{path}: no videos in it or below; they are known by {known}")
            found += inside
        elif os.path.exists(path):
            found.append(path)
        else:
            raise DatasetError(f"{path}: no such file or folder; check the path")
    return list(dict.fromkeys(found))


def frames_of(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, uint8 RGB [h w 3]; raises BadItem or Unavailable."""
    with open_video(str(path)) as video:
        for frame in video.frames():
            yield video.picture(frame).pixels


def write(folder: Path, report: Report, options: str) -> None:
    """Write the report into the folder, each file whole or not at all, and print its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.concat([table(name, curves) for name, curves in report.curves.items()])
    with atomic_write(folder / "curves.csv") as aside:
        rows.to_csv(aside, index=False, float_format="%.6g")
    report.plot(folder / "drift.png")
    each = {
        name: {**_plain(curves.scores), "cuts_at": curves.cuts, "seams": list(curves.seams)}
        for name, curves in report.curves.items()
    }
    text = json.dumps({"together": _plain(report.scores), "each": each, "meaning": SCORES}, indent=1, allow_nan=False)
    write_text(folder / "continuity.json", text + "\n")
    write_text(folder / "continuity.yaml", options)
    known = {SCORES[name]: value for name, value in report.scores.items() if not math.isnan(value)}
    print(pd.Series(known).to_string(float_format="%.4g"))
    print(*(folder / name for name in ("continuity.json", "curves.csv", "drift.png", "continuity.yaml")), sep="\n")


def table(name: str, curves: Curves) -> pd.DataFrame:
    """The curves of a video, a row for each frame; those of transitions at the frame after it."""
    columns: dict[str, Any] = {"video": name, "frame": np.arange(len(curves.brightness))}
    columns |= {name: np.append(np.nan, getattr(curves, name)) for name in PER_TRANSITION}
    return pd.DataFrame(columns | {name: getattr(curves, name) for name in PER_FRAME})


def _plain(scores: dict[str, float]) -> dict[str, Optional[float]]:
    """Scores as JSON can have them."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _judge(args: Namespace) -> Judge:
    """The judge of digits; raises CheckpointError."""
    size = Checkpoint(args.judge).metadata.get("size", "")
    from svd_tools.digits.identity import identity_judge  # MindSpore takes seconds to import
    from svd_tools.digits.judge import load_judge

    device = runtime.setup(args.device_target, args.mode)
    judge = identity_judge(load_judge(args.judge, device, int(size) if size.isdecimal() else 0))

    def alike(frames: np.ndarray, first: np.ndarray) -> np.ndarray:
        if frames.shape[1:3] != (int(size), int(size)):
            raise ValueError(
                f"{args.judge} judges frames of {size} x {size}, not of {frames.shape[1]} x {frames.shape[2]}"
            )
        return judge(frames, first)

    return alike


def main(argv: Optional[list[str]] = None, program: str = "continuity.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    parser = build_parser(program)
    return cli.run(parser, lambda args: run(parser, args), argv)
