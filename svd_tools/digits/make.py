"""Write videos of handwritten digits that bounce in a square.

python svd_tools/make_digits.py --out_dir outputs/digits/videos --clips 2000
python svd_tools/motion_bucket.py outputs/digits/videos --out outputs/digits/videos.csv

The folder gets a file videos.csv, too, which says of every video what it shows and how fast that is, as it was drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, get_args

import cv2
import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from svd import cli
from svd.data.dataset import DatasetError
from svd.data.handwriting import Look
from svd.data.latents_dataset import differences
from svd.data.moving_digits import MovingDigits
from svd.data.videos import write_video
from svd.files import check_folder, write_text
from svd.records import RecordError, read_json


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out_dir", required=True, type=str, help="Folder to write to. Videos that are there already stay as they "
        "are: the same command continues what was stopped, and refuses a folder with videos of another.")  # fmt: skip
    add("--clips", default=2000, type=PositiveInt, help="How many videos.")
    add("--frames", default=42, type=PositiveInt, help="Frames of a video.")
    add("--digits", nargs="+", default=[1, 2], type=PositiveInt, help="Numbers of digits that a video may have.")
    add("--speed", nargs=2, default=[0.0, 4.0], type=float, help="Slowest and fastest, in pixels per frame.")
    add("--direction", type=Optional[float], help="Where all move, in degrees from the right towards the "
        "bottom, without reaching an edge; by default each moves its own way.")  # fmt: skip
    add("--varied", default=0.0, type=float, help="Share of the digits that are turned, slanted, made smaller and of "
        "thinner or thicker strokes.")  # fmt: skip
    add("--natural", default=0.0, type=float, help="Instead: share of the videos that are drawn as people's pictures "
        "are: digits of 20 to 32 pixels, strokes of all widths, soft or hard edges, grey on a background that is not "
        "quite black.")  # fmt: skip
    add("--looks", nargs="+", choices=get_args(Look), default=["plain"], help="Looks that a video may have: thick or "
        "italic strokes, or black on white.")  # fmt: skip
    add("--fps", default=7, type=PositiveInt, help="Frames per second.")
    add("--source", default="sklearn", type=str, help="Handwriting: sklearn, or a folder with MNIST's idx files; or "
        "mnist_test_seq.npy, the published clips of Moving MNIST, as they are: of the other options --clips, --fps and "
        "--frames (at most their 20) alone have a say then.")  # fmt: skip
    add("--part", choices=("train", "test"), default="train", help="Handwriting in test is by other people.")
    add("--seed", default=0, type=NonNegativeInt, help="Decides everything about the videos.")
    return parser


def run(args: Namespace) -> None:
    """Write clip_000000.mp4, ... and videos.csv into a folder.

    Raises:
        DatasetError: an argument is wrong, or the handwriting cannot be read.
        VideoError, OSError: the folder cannot be written to.
    """
    clips, dataset, settings = args.clips, None, {name: args[name] for name in ("frames", "fps", "source")}
    if args.source.endswith(".npy"):
        clips, frames_of = _published(args.source, clips, args.frames)
    else:
        settings |= {name: args[name] for name in ("digits", "speed", "direction", "varied", "part", "seed")}
        # earlier versions had no others
        settings |= {"natural": args.natural} if args.natural else {}
        settings |= {"looks": args.looks} if args.looks != ["plain"] else {}
        dataset = MovingDigits(clips, **settings)

        def frames_of(index: int) -> np.ndarray:
            return dataset.load(index).frames

    check_folder(args.out_dir, "--out_dir")
    folder = Path(args.out_dir)
    _keep_settings(folder, settings, clips)
    cv2.setNumThreads(1)

    def write(index: int) -> None:
        path = folder / _name(index)
        if not path.exists():
            write_video(path, frames_of(index), args.fps)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # the videos' encoder is a process of its own
        written = threads.map(write, range(clips))
        # disable=None: no bar unless the output is a terminal
        for _ in tqdm(written, desc="writing", unit="video", total=clips, disable=None):
            pass
    if dataset is not None:
        _write_table(folder / "videos.csv", dataset)


def _write_table(path: Path, dataset: MovingDigits) -> None:
    """Write the CSV file of the videos of a dataset."""
    rows = []
    for index in range(len(dataset)):
        clip = dataset.load(index)
        rows.append((_name(index), len(clip.frames), f"{clip.motion_bucket_id:.6g}", clip.fps, clip.caption))
    table = pd.DataFrame(rows, columns=["path", "length", "motion_bucket_id", "fps", "caption"])
    write_text(path, table.to_csv(index=False))


def _name(index: int) -> str:
    return f"clip_{index:06d}.mp4"


def _keep_settings(folder: Path, settings: dict[str, Any], clips: int) -> None:
    """Write what the videos depend on; raises DatasetError if the folder has others, or more than are wanted."""
    path, there = folder / "settings.json", len(list(folder.glob("clip_*.mp4")))
    try:
        found = read_json(path)
        lines = differences(found if isinstance(found, dict) else {}, settings)
    except (OSError, RecordError):
        lines = [f"no {path.name} says how they were made"] if there else []
    if there > clips:
        lines.append(f"{there} are there, and --clips is {clips}")
    if lines:
        raise DatasetError(f"--out_dir {folder} has other videos: {'; '.join(lines)}; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(settings, indent=2))


def _published(path: str, clips: int, frames: int) -> tuple[int, Callable[[int], np.ndarray]]:
    """How many of the clips in Moving MNIST's file are wanted, and their frames [t h w 3]."""
    try:
        if not os.path.isfile(path):  # a named pipe would be waited for for ever
            raise FileNotFoundError("there is no such file")
        videos = np.lib.format.open_memmap(path, mode="r")  # of np.load's formats this one alone
    except Exception as error:  # a damaged header can raise almost anything
        raise DatasetError(f"{path}: not a NumPy array ({error}); give the published mnist_test_seq.npy") from error
    if videos.ndim != 4 or videos.dtype != np.uint8:
        raise DatasetError(f"{path}: {videos.dtype} {list(videos.shape)} is not uint8 [frames clips height width]")
    return min(clips, videos.shape[1]), lambda index: np.repeat(np.array(videos[:frames, index, ..., None]), 3, -1)


def main(argv: Optional[list[str]] = None, program: str = "make_digits.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), run, argv)
