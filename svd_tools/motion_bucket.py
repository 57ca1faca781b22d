"""Score how much the videos of a folder move, and write the CSV file that training reads.

python svd_tools/motion_bucket.py videos --out clips.csv
"""

from __future__ import annotations

if __name__ == "__main__":  # signals are handled from here on, also during imports
    from svd.cli import start

    start("motion-bucket")

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Optional

import numpy as np
from jsonargparse import ArgumentParser

from svd import cli
from svd.data.csv_rows import CsvRows
from svd.data.dataset import DatasetError
from svd_tools.jobs.journal import Journal, Row, report, write_csv
from svd_tools.jobs.motion_score import COLUMNS, score_row
from svd_tools.jobs.work import VIDEO_SUFFIXES, Shard, check_all_done, find_files, process_pending

BUCKETS = 256
_REMEDY = "give a CSV file of this program"


def build_parser(program: str) -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", nargs="?", type=Optional[str], help="Folder of videos, searched with all below it.")
    add("--out", required=True, type=str, help="CSV file to write, with paths relative to the folder.")
    add("--scale", default="quantiles", type=str, help="Scores to buckets. quantiles: 256 x the share of the videos "
        "that move less. A number: the score that is bucket 255, and 0 is 0. A CSV file written before: the buckets "
        "that its scores have.")  # fmt: skip
    add("--processes", default=_cores(), type=int, help="Processes that score videos.")
    add("--shard", type=Optional[str], help="i/n: score the i-th (from 0) of n parts of the videos, and write "
        "OUT.shard-i-of-n.csv for --merge.")  # fmt: skip
    add("--merge", nargs="+", type=str, help="Score nothing: take the rows of these CSV files instead of a folder, "
        "such as those of all shards.")  # fmt: skip
    add("--retry_failed", action="store_true", help="Try videos again that could not be scored.")
    return parser


def _cores() -> int:
    """Cores available to this process: a job often gets a part of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score_folder(
    folder: str,
    out: str,
    scale: str = "quantiles",
    processes: int = 1,
    shard: Optional[str] = None,
    retry_failed: bool = False,
) -> None:
    """Score the videos of a folder that have no score yet, and write `out`.

    The arguments are those of the command line (`--help`). Progress is kept in OUT.journal, and failures are
    listed in OUT.failed.csv.

    Raises:
        DatasetError: an argument is invalid, there are no videos, or none could be scored.
    """
    if processes < 1:
        raise DatasetError(f"--processes must be at least 1, got {processes}")
    part = Shard.parse(shard) if shard is not None else None
    if part and scale != "quantiles":
        raise DatasetError("--scale belongs to --merge, not to --shard, whose rows have no buckets yet")
    edges = _given_edges(scale)
    if next(find_files(folder, VIDEO_SUFFIXES), None) is None:
        raise DatasetError(f"{folder}: no videos in it or below; they are known by {', '.join(sorted(VIDEO_SUFFIXES))}")
    target = part.name(out) if part else out
    with Journal(f"{target}.journal", COLUMNS, f"motion scores of {os.path.realpath(folder)}") as journal:
        found = find_files(folder, VIDEO_SUFFIXES)
        journal.register((item for item in found if part is None or part.contains(item[0])), retry_failed)
        process_pending(journal, score_row, folder, processes, "video")
        check_all_done(journal, "videos")
        if part:
            write_csv(Path(target), ("path", "why", *COLUMNS), journal.rows("why IS NOT NULL"))
            _report(journal, target)
        else:
            _report(journal, target)
            _write_buckets(journal, target, edges)


def merge_scores(files: list[str], out: str, scale: str = "quantiles") -> None:
    """Write `out` from the rows of CSV files; raises DatasetError for invalid, missing or repeated files."""
    edges = _given_edges(scale)
    _check_shards(files)
    with Journal("", COLUMNS, "rows") as journal:
        for file in files:
            journal.add(read_rows(file))
        if journal.count("true") == 0:
            raise DatasetError(f"{', '.join(files[:3])}: no rows; score some videos first")
        _report(journal, out)
        _write_buckets(journal, out, edges)


def read_rows(file: str) -> Iterator[Row]:
    """Rows of a CSV file with the columns path, length, fps, score and, where some failed, why; raises DatasetError."""
    rows = CsvRows(file, ("path", *COLUMNS), ("why",), _REMEDY)
    for line, (path, *cells, why) in rows:
        if why:
            yield {"path": path, "why": why, **dict.fromkeys(COLUMNS)}
            continue
        numbers = [_number(rows, name, cell, f"{file}, line {line}") for name, cell in zip(COLUMNS, cells)]
        yield {"path": path, "why": "", **dict(zip(COLUMNS, numbers))}


def quantile_edges(scores: Iterable[float], count: int) -> np.ndarray:
    """Edges of 256 quantile buckets of `count` ascending scores, for `bucket`.

    Bucket k begins above edge k - 1: an id is 256 x the share of lower scores, rounded down.
    """
    ranks = [-(-k * count // BUCKETS) - 1 for k in range(1, BUCKETS)]
    edges = []
    for rank, score in enumerate(scores):
        edges += [score] * (bisect_right(ranks, rank) - len(edges))
    return np.array(edges)


def linear_edges(top: float) -> np.ndarray:
    """Edges of buckets of equal width: an id is 255 x score / top, rounded, and 255 at most."""
    return (np.arange(1, BUCKETS) - 0.5) / (BUCKETS - 1) * top


def known_edges(pairs: Iterable[tuple[float, int]]) -> np.ndarray:
    """Edges that reproduce every known (score, motion_bucket_id)."""
    highest = np.full(BUCKETS, -np.inf)
    for score, number in pairs:
        highest[number] = max(highest[number], score)
    return np.maximum.accumulate(highest)[:-1]


def bucket(score: float, edges: np.ndarray) -> int:
    """The motion_bucket_id of a score: how many of the 255 edges lie below it."""
    return int(np.searchsorted(edges, score))


def _given_edges(scale: str) -> Optional[np.ndarray]:
    """The edges that --scale gives, or None for the quantiles of the scores; raises DatasetError."""
    if scale == "quantiles":
        return None
    try:
        top = float(scale)
    except ValueError:
        return known_edges(_read_pairs(scale))
    if not 0 < top < np.inf:
        raise DatasetError(f"--scale {scale}: the score that is bucket 255 must be positive")
    return linear_edges(top)


def _read_pairs(file: str) -> Iterator[tuple[float, int]]:
    """(score, motion_bucket_id) of every row of a CSV file."""
    rows = CsvRows(file, ("score", "motion_bucket_id"), (), _REMEDY)
    for line, (score, number) in rows:
        where = f"{file}, line {line}"
        bucket = _number(rows, "motion_bucket_id", number, where)
        if bucket >= BUCKETS or bucket % 1:
            raise DatasetError(f"{where}: motion_bucket_id must be a whole number below {BUCKETS}")
        yield _number(rows, "score", score, where), int(bucket)


def _number(rows: CsvRows, name: str, cell: str, where: str) -> float:
    number = rows.number(cell)
    if not 0 <= number < np.inf:
        raise DatasetError(f"{where}: {name} must be a number, 0 or more, got {cell!r}")
    return number


def _check_shards(files: list[str]) -> None:
    """Raise DatasetError if some shards of a run are among the files and others are not."""
    names = [Path(file).name for file in files]
    for name in names:
        if match := re.fullmatch(r"(.*)\.shard-\d+-of-(\d+)(\.\w+)?", name):
            stem, count, suffix = match[1], int(match[2]), match[3] or ""
            shards = (Shard(index, count) for index in range(count))
            missing = [shard for shard in shards if shard.name(stem + suffix) not in names]
            if missing:
                some = ", ".join(f"{shard.index}/{count}" for shard in missing[:5])
                raise DatasetError(f"{len(missing)} of the {count} shards are missing, such as {some}; run those first")


def _write_buckets(journal: Journal, target: str, edges: Optional[np.ndarray]) -> None:
    if edges is None:
        scores = (row["score"] for row in journal.rows(order="score"))
        edges = quantile_edges(scores, journal.count())
    rows = (row | {"motion_bucket_id": bucket(row["score"], edges)} for row in journal.rows())
    write_csv(Path(target), ("path", "length", "motion_bucket_id", "score", "fps"), rows)


def _report(journal: Journal, target: str) -> None:
    """Print how many videos have a score, and list the others beside the target; raises DatasetError if none has."""
    listing = Path(target).with_suffix(".failed.csv")
    report(journal, listing, ("path", "why"), journal.failures(), "videos", "scored")


def main(argv: Optional[list[str]] = None, program: str = "motion_bucket.py") -> int:
    """The command line; returns 0, or 2 after one error line on stderr."""
    return cli.run(build_parser(program), lambda args: _score_or_merge(**vars(args)), argv)


def _score_or_merge(folder: Optional[str], merge: Optional[list[str]], **options) -> None:
    if (folder is None) == (merge is None):
        raise DatasetError("give a folder of videos, or --merge and CSV files, and not both")
    if merge:
        merge_scores(merge, options["out"], options["scale"])
    else:
        score_folder(folder, **options)
