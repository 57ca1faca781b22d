"""How fast clips for training are loaded, by number of worker processes, and what a clip's time is spent on.

    python scripts/bench_data.py                   # a minute or two and 50 MB in the temporary folder
    python scripts/bench_data.py --workers 0 8 16 --clips 200

Writes H.264 videos with moving content, loads clips from them as training does, and prints Markdown tables.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import cycle
from pathlib import Path
from statistics import median
from timeit import repeat

import cv2
import numpy as np

from svd.data.dataset import Dataset
from svd.data.loader import Loader
from svd.data.video_dataset import Clip, VideoDataset
from svd.data.videos import write_video

SIZES = ((576, 1024), (720, 1280), (1080, 1920))
"""Of the videos: the clip's own, and two that have to be scaled."""
LENGTH = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24, help="clips that are timed, for each row (default: 24)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of workers (default: 0 1 2)")
    parser.add_argument("--videos", type=int, default=2, help="videos of each size (default: 2)")
    parser.add_argument("--frames", type=int, default=14, help="frames of a clip (default: 14)")
    parser.add_argument("--height", type=int, default=576, help="pixels of a clip's height (default: 576)")
    parser.add_argument("--width", type=int, default=1024, help="pixels of a clip's width (default: 1024)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metadata = {size: write_videos(Path(folder), *size, options.videos) for size in SIZES}
        shape = {"frames": options.frames, "height": options.height, "width": options.width}
        print(f"Clips of {options.frames} x {options.height} x {options.width} per second")
        print(f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})\n")
        print("| H.264 video | workers: " + " | ".join(map(str, options.workers)) + " |")
        print("|---" * (1 + len(options.workers)) + "|")
        for (height, width), path in metadata.items():
            dataset = VideoDataset(str(path), **shape)
            rates = [clips_per_second(dataset, workers, options.clips) for workers in options.workers]
            print(f"| {width} x {height} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |", flush=True)
        print("\nMilliseconds per clip, in one process\n\n| H.264 video | decode | scale |\n|---|---|---|")
        for (height, width), path in metadata.items():
            decode = milliseconds(VideoDataset(str(path), frames=options.frames, height=height, width=width))
            both = milliseconds(VideoDataset(str(path), **shape))
            print(f"| {width} x {height} | {decode:.0f} | {max(both - decode, 0):.0f} |")
        rate = clips_per_second(Ready(**shape), 1, options.clips)
        print(f"\nTo bring a clip from a worker to this process takes {1000 / rate:.0f} ms.")


class Ready(Dataset):
    """One clip that is there already."""

    def __init__(self, frames: int, height: int, width: int):
        self._shape = (frames, height, width, 3)

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "clip"

    def load(self, index: int, rng: np.random.Generator) -> Clip:
        return Clip(np.zeros(self._shape, np.uint8), 7.0, 127.0, "clip")


def write_videos(folder: Path, height: int, width: int, count: int) -> Path:
    """Write videos whose content moves, and turns new once a second, and the CSV file that lists them."""
    rng = np.random.default_rng(0)
    rows = ["path,length,motion_bucket_id"]
    for index in range(count):
        frames = np.empty((LENGTH, height, width, 3), np.uint8)
        for t in range(LENGTH):
            if t % 25 == 0:
                blots = rng.integers(0, 256, (18, 32, 3), dtype=np.uint8)
                scene = cv2.resize(blots, (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
                grain = rng.integers(0, 24, scene.shape, dtype=np.uint8)
                scene = cv2.add(scene, cv2.blur(grain, (3, 3)))
            x, y = 3 * t, 2 * t
            frames[t] = scene[y : y + height, x : x + width]
        name = f"{width}x{height}_{index}.mp4"
        write_video(folder / name, frames, 25)
        rows.append(f"{name},{LENGTH},127")
    path = folder / f"{width}x{height}.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def clips_per_second(dataset: Dataset, workers: int, clips: int) -> float:
    """The rate at which batches of one arrive, the processes running and those loaded ahead used up."""
    with Loader(dataset, seed=0, batch_size=1, workers=workers) as loader:
        for _ in range(2 * workers + 1):
            next(loader)
        start = time.perf_counter()
        for _ in range(clips):
            next(loader)
        return clips / (time.perf_counter() - start)


def milliseconds(dataset: Dataset) -> float:
    """Median time of loading a clip in this process, with one thread as in a worker."""
    cv2.setNumThreads(1)
    indices, rng = cycle(range(len(dataset))), np.random.default_rng(0)
    return 1000 * median(repeat(lambda: dataset.load(next(indices), rng), repeat=8, number=1))


if __name__ == "__main__":
    main()
