"""How many videos a second get a motion score, by number of processes, and what a video's time is spent on.

    python scripts/bench_motion.py                       # a minute and 20 MB in the temporary folder
    python scripts/bench_motion.py --processes 1 8 16 --clips 2000

Writes H.264 videos of 4 seconds with moving content, and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from statistics import median
from timeit import repeat

import cv2
import numpy as np

from svd.data.videos import write_video
from svd_tools.jobs.journal import Journal
from svd_tools.jobs.motion_score import COLUMNS, motion, score_row, score_video
from svd_tools.jobs.work import find_files, process_pending

SIZES = ((360, 640), (576, 1024), (1080, 1920))
FPS, SECONDS = 24, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=48, help="videos that are scored, for each number (default: 48)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="processes (default: 1 2)")
    options = parser.parse_args()
    if min(options.clips, *options.processes) < 1:
        parser.error("--clips and --processes must be at least 1")
    print(f"Videos of {SECONDS} s at {FPS} fps scored per second, the start of the processes included")
    print(f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})\n")
    print("| H.264 video | processes: " + " | ".join(map(str, options.processes)) + " | one video |")
    print("|---" * (2 + len(options.processes)) + "|")
    for height, width in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write_videos(folder, height, width, options.clips)
            rates = [clips_per_second(folder, processes) for processes in options.processes]
            alone = milliseconds(lambda: score_video(f"{folder}/0.mp4"))
        print(
            f"| {width} x {height} | " + " | ".join(f"{rate:.1f}" for rate in rates) + f" | {alone:.0f} ms |",
            flush=True,
        )
    before, after = np.random.default_rng(0).integers(0, 256, (2, 16, 28), np.uint8)
    print(f"\nThe flow between two frames takes {milliseconds(lambda: motion(before, after)):.1f} ms.")


def write_videos(folder: str, height: int, width: int, clips: int) -> None:
    """Write a video of a picture that moves, and hard links to it under other names."""
    blots = np.random.default_rng(0).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    scene = cv2.resize(blots, (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
    frames = [scene[t : t + height, 2 * t : 2 * t + width] for t in range(FPS * SECONDS)]
    write_video(f"{folder}/0.mp4", np.stack(frames), FPS)
    for number in range(1, clips):
        os.link(f"{folder}/0.mp4", f"{folder}/{number}.mp4")


def clips_per_second(folder: str, processes: int) -> float:
    with Journal("", COLUMNS, "rows") as journal:
        journal.register(find_files(folder, {".mp4"}))
        start = time.perf_counter()
        process_pending(journal, score_row, folder, processes, "video")
        return journal.count() / (time.perf_counter() - start)


def milliseconds(work: Callable) -> float:
    """Median time of a call, with one thread as in a process that scores."""
    cv2.setNumThreads(1)
    return 1000 * median(repeat(work, repeat=5, number=1))


if __name__ == "__main__":
    main()
