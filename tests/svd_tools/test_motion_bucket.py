"""Motion scores: of videos whose speed is known, and over many files, whatever happens to the run."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from training_videos import ffmpeg

from svd.data.dataset import DatasetError, Unavailable
from svd.data.video_dataset import VideoDataset
from svd.data.videos import write_video
from svd_tools import motion_bucket
from svd_tools.jobs import work
from svd_tools.jobs.journal import Journal
from svd_tools.jobs.motion_score import COLUMNS, motion, score_row, score_video
from svd_tools.jobs.work import Shard, find_files, process_pending

ROOT = Path(__file__).parents[2]
SPEEDS = [0, 0.1, 0.25, 0.5, 0.8, 1.2, 1.7, 2.4, 3.2, 4]
"""In sixteenths of the shortest side per half a second."""


def moving(path: Path, speed: float, size=(64, 96), fps: float = 8, frames: int = 9, down: bool = False) -> Path:
    """Write a video of blots that move to the left, or up, at this speed."""
    height, width = size
    blots = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    scene = cv2.resize(blots, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC)
    way = speed * min(size) / 16 / (fps / 2) * np.arange(frames)
    shifts = [np.float32([[1, 0, -x * (not down)], [0, 1, -x * down]]) for x in way]
    write_video(path, np.stack([cv2.warpAffine(scene, shift, (width, height)) for shift in shifts]), fps)
    return path


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A folder of ten videos, one for each speed, and three files that are none."""
    folder = tmp_path_factory.mktemp("videos")
    for index, speed in enumerate(SPEEDS):
        (folder / "a-b" / "c").mkdir(parents=True, exist_ok=True)
        (folder / "a").mkdir(exist_ok=True)
        moving(folder / ("a", "a-b", "a-b/c")[index % 3] / f"{index}.mp4", speed)
    (folder / "a" / "damaged.mp4").write_bytes(b"\0\1\2" * 400)
    (folder / "text.webm").write_text("text")
    (folder / "empty.mkv").touch()
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture(scope="session")
def expected(videos, tmp_path_factory) -> Path:
    """What two processes make of the folder: (the CSV file)."""
    out = tmp_path_factory.mktemp("expected") / "clips.csv"
    assert motion_bucket.main([str(videos), f"--out={out}", "--processes=2"]) == 0
    return out


@pytest.fixture
def refuse(capsys):
    """Run the command line on what it must refuse; returns its one line."""

    def run(*arguments: object) -> str:
        assert motion_bucket.main([str(argument) for argument in arguments]) == 2
        line = capsys.readouterr().err
        assert line.startswith("motion_bucket.py: error: ") and line.count("\n") == 1
        return line

    return run


def rows_of(path: Path) -> list[dict]:
    lines = [line.split(",") for line in path.read_text().splitlines()]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


@pytest.mark.parametrize("size, fps, down", [((64, 96), 8, False), ((240, 180), 12, True)])
def test_scores_are_the_speeds(tmp_path, size, fps, down):
    scores = [
        score_video(moving(tmp_path / "x.mp4", speed, size, fps, int(fps) + 1, down))["score"] for speed in SPEEDS
    ]
    assert scores[0] == 0
    assert np.all(np.diff(scores) > 0)  # a rank correlation of 1
    np.testing.assert_allclose(scores, SPEEDS, rtol=0.12, atol=0.03)


def test_a_thing_that_moves_before_a_still_background(tmp_path):
    scores = []
    for speed in SPEEDS:
        frames = np.full((9, 64, 96, 3), 40, np.uint8)
        for t, frame in enumerate(frames):
            x = round(speed * t)
            frame[20:44, 8 + x : 32 + x] = 220
        write_video(tmp_path / "x.mp4", frames, 8)
        scores.append(score_video(str(tmp_path / "x.mp4"))["score"])
    assert scores[0] == 0 and np.all(np.diff(scores) > 0)


def test_rounding_is_no_motion():
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 250, (4, 7), np.uint8), (28, 16))
    assert motion(frame, frame + rng.integers(0, 2, frame.shape, np.uint8)) == 0
    assert motion(frame, frame + rng.integers(0, 4, frame.shape, np.uint8)) > 0


@pytest.mark.parametrize("size, fps, frames", [
    ((64, 96), 29.97, 45), ((64, 96), 8, 2), ((128, 192), 12, 13), ((12, 18), 8, 9), ((64, 96), 1, 3), ((64, 96), 3, 6),
])  # fmt: skip
def test_size_frame_rate_and_length_do_not_matter(tmp_path, size, fps, frames):
    row = score_video(moving(tmp_path / "x.mp4", 1.5, size, fps, frames))
    assert row["length"] == frames and row["fps"] == pytest.approx(fps, abs=1e-3)
    assert row["score"] == pytest.approx(1.5, rel=0.12)


def test_frames_are_counted(tmp_path):
    """A file that was cut off has fewer frames than it states."""
    path = tmp_path / "x.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 8, (96, 64))
    for frame in np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3), np.uint8):
        writer.write(frame)
    writer.release()
    os.truncate(path, path.stat().st_size // 2)
    assert 5 < score_video(str(path))["length"] < 12


def test_the_file_is_read_by_training(videos, expected):
    assert expected.read_text().startswith("path,length,motion_bucket_id,score,fps\n")
    rows = rows_of(expected)
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows) and len(rows) == len(SPEEDS)
    ids = {row["path"][-5]: int(row["motion_bucket_id"]) for row in rows}
    assert [ids[str(index)] for index in range(10)] == [256 * index // 10 for index in range(10)]
    dataset = VideoDataset(str(expected), str(videos), frames=9, height=32, width=48)
    clip = dataset.load(3, np.random.default_rng(0))
    assert len(dataset) == 10 and clip.note is None and clip.fps == 8
    assert clip.motion_bucket_id == int(rows[3]["motion_bucket_id"])


def test_failures_are_listed_and_summed_up(videos, expected, tmp_path, capsys):
    assert expected.with_suffix(".failed.csv").read_text() == (
        'path,why\na/damaged.mp4,"not a video, or damaged"\nempty.mkv,an empty file\n'
        'text.webm,"a text file, not a video"\n'
    )
    shutil.copy(f"{expected}.journal", tmp_path / "clips.csv.journal")  # nothing is left to do
    assert motion_bucket.main([str(videos), f"--out={tmp_path / 'clips.csv'}"]) == 0
    assert (tmp_path / "clips.csv").read_bytes() == expected.read_bytes()
    printed = capsys.readouterr().out
    assert "10 videos are scored, 3 failed" in printed and "       1  an empty file\n" in printed


def test_shards_make_the_same_file(videos, expected, tmp_path, refuse):
    out = tmp_path / "clips.csv"
    parts = [tmp_path / f"clips.shard-{index}-of-3.csv" for index in range(3)]
    for index, part in enumerate(parts[:2]):
        assert motion_bucket.main([str(videos), f"--out={out}", f"--shard={index}/3", "--processes=1"]) == 0
        assert part.exists() and not out.exists()
    assert "1 of the 3 shards are missing, such as 2/3" in refuse("--merge", *parts[:2], "--out", out)
    assert "no such file" in refuse("--merge", *parts, "--out", out).lower()
    assert motion_bucket.main([str(videos), f"--out={out}", "--shard=2/3", "--processes=1"]) == 0
    assert motion_bucket.main(["--merge", *map(str, reversed(parts)), f"--out={out}"]) == 0
    for suffix in (".csv", ".failed.csv"):
        assert out.with_suffix(suffix).read_bytes() == expected.with_suffix(suffix).read_bytes()
    assert "has more than one row" in refuse("--merge", *parts, parts[0], "--out", tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


def test_what_is_known_is_not_scored_again(videos, expected, tmp_path):
    """New videos are scored, those that are gone are left out, and failures wait for --retry_failed."""
    folder, out = shutil.copytree(videos, tmp_path / "videos"), tmp_path / "clips.csv"

    def run(*arguments: str) -> dict[str, dict]:
        assert motion_bucket.main([str(folder), f"--out={out}", "--processes=1", *arguments]) == 0
        return {row["path"]: row for row in rows_of(out)}

    first = run()
    (folder / "a/3.mp4").write_bytes(b"\0 damaged since then")
    (folder / "a/0.mp4").unlink()
    shutil.copy(folder / "a/6.mp4", folder / "new.mp4")
    shutil.copy(folder / "a/6.mp4", folder / "a/damaged.mp4")
    second = run()
    assert second.keys() == first.keys() - {"a/0.mp4"} | {"new.mp4"}
    assert second["a/3.mp4"]["score"] == first["a/3.mp4"]["score"]
    assert second["new.mp4"]["score"] == first["a/6.mp4"]["score"]
    third = run("--retry_failed", "--scale=4")
    assert third.keys() == second.keys() | {"a/damaged.mp4"}
    assert all(int(row["motion_bucket_id"]) == min(round(255 * float(row["score"]) / 4), 255) for row in third.values())


HELD = """
if __name__ == "__main__":  # before the threads that libraries start when they are imported
    from svd.cli import begin
    begin("motion_bucket.py", "the same command continues")

import os, sys, time
from pathlib import Path
from svd_tools.jobs import work
from svd_tools import motion_bucket
from svd_tools.jobs.motion_score import score_row

def held(path, folder):
    with open("log", "a") as log:
        log.write(path + "\\n")
    run = os.getppid()
    while Path("log").read_text().count("\\n") == int(os.environ["END_AT"]) and os.getppid() == run:
        time.sleep(0.01)  # until the run is ended
    return score_row(path, folder)

motion_bucket.score_row = held
if __name__ == "__main__":
    sys.exit(motion_bucket.main(sys.argv[1:]))
"""


def test_a_run_that_is_ended_continues(videos, expected, tmp_path):
    """Killed first, then asked to stop, then left alone: the same file, and no video scored twice without need."""
    (tmp_path / "held.py").write_text(HELD)
    command = [sys.executable, "held.py", str(videos), "--out=clips.csv", "--processes=1"]
    log = tmp_path / "log"
    for how, after in ((signal.SIGKILL, 3), (signal.SIGTERM, 7), (None, 0)):
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "END_AT": str(after)},
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and (not log.exists() or log.read_text().count("\n") < after):
            time.sleep(0.01)
        if how:
            time.sleep(0.5)  # one video is under way and stays so; those before it are recorded by now
            process.send_signal(how)
        _, errors = process.communicate(timeout=600)
        if how:
            assert process.returncode != 0 and not (tmp_path / "clips.csv").exists()
        if how == signal.SIGTERM:
            assert process.returncode == 143 and "the same command continues" in errors
    assert process.returncode == 0, errors
    assert (tmp_path / "clips.csv").read_bytes() == expected.read_bytes()
    assert len(log.read_text().splitlines()) == 13 + 2  # each once, and again what was under way


def row_of_a_deadly_video(path: str, folder: str) -> dict:
    first = not (Path(folder) / path).exists()
    (Path(folder) / path).touch()
    if path == "deadly.mp4" or (path == "once.mp4" and first):
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"path": path, "why": "", "score": 1.0}


def test_a_process_that_dies_takes_one_video_with_it(tmp_path):
    """And that only if it dies again."""
    with Journal("", {"score": "REAL"}, "rows") as journal:
        journal.register((name, "") for name in ("a.mp4", "deadly.mp4", "once.mp4"))
        process_pending(journal, row_of_a_deadly_video, str(tmp_path), 1, "video")
        assert [row["path"] for row in journal.rows()] == ["a.mp4", "once.mp4"]
        (row,) = journal.failures()
        assert row["path"] == "deadly.mp4" and "died, twice (signal 11" in row["why"]


def row_of_a_name(path: str, folder: str) -> dict:
    return {"path": path, "why": "", "score": 1.0}


def test_rows_that_are_ready_together_are_recorded_in_their_order(monkeypatch):
    """So that the same work writes the same files."""
    names, recorded = [f"{index:02d}.mp4" for index in range(32)], []
    monkeypatch.setattr(work, "wait", lambda waiting, **_: (set(futures.wait(waiting).done), set()))
    monkeypatch.setattr(Journal, "record", lambda self, row: recorded.append(row["path"]))
    with Journal("", {"score": "REAL"}, "rows") as journal:
        journal.register((name, "") for name in names)
        process_pending(journal, row_of_a_name, "", 2, "video")
    assert recorded == names


def test_only_failures(videos, tmp_path, refuse):
    (tmp_path / "bad").mkdir()
    shutil.copy(videos / "text.webm", tmp_path / "bad")
    assert "none of the 1 videos could be scored" in refuse(tmp_path / "bad", f"--out={tmp_path / 'x.csv'}")
    assert "text.webm" in (tmp_path / "x.failed.csv").read_text() and not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("arguments, words", [
    (["{empty}"], "no videos in it or below; they are known by .3gp"),
    (["{empty}/nothing"], "No such file or directory; give a folder"),
    ([], "give a folder of videos, or --merge"),
    (["{videos}", "--merge", "x.csv"], "and not both"),
    (["{videos}", "--processes=0"], "must be at least 1, got 0"),
    (["{videos}", "--shard=4/4"], "give i/n with i from 0 to n - 1"),
    (["{videos}", "--shard=0/4", "--scale=3"], "--scale belongs to --merge"),
    (["{videos}", "--scale=-1"], "must be positive"),
    (["{videos}", "--scale=most"], "most: no such file"),
    (["{videos}", "--scale={empty}/../ids.csv"], "line 2: motion_bucket_id must be a whole number below 256"),
    (["--merge", "{videos}/notes.txt"], "no column path and no column length and no column fps and no column score"),
    (["--merge", "{empty}/../ids.csv"], "line 2: length must be a number, 0 or more, got 'many'"),
    (["--merge", "{empty}/../header.csv"], "no rows; score some videos first"),
    (["--merge", "{videos}/a/0.mp4"], "not a CSV file in UTF-8"),
])  # fmt: skip
def test_what_is_refused(videos, tmp_path, refuse, arguments, words):
    (tmp_path / "empty").mkdir()
    header = "path,length,fps,score,motion_bucket_id\n"
    (tmp_path / "header.csv").write_text(header)
    (tmp_path / "ids.csv").write_text(header + "x.mp4,many,8,1,256\n")
    places = {"videos": videos, "empty": tmp_path / "empty"}
    out = tmp_path / "out" / "clips.csv"
    assert words in refuse(*(argument.format(**places) for argument in arguments), f"--out={out}")
    assert not out.parent.exists()


def test_journals_that_cannot_be_used(videos, tmp_path, refuse):
    journal = tmp_path / "clips.csv.journal"
    arguments = (videos, f"--out={tmp_path / 'clips.csv'}")
    with Journal(journal, COLUMNS, "motion scores of another folder"):
        assert "another run has it open" in refuse(*arguments)
    assert "holds motion scores of another folder, not" in refuse(*arguments)
    journal.write_text("something else, and long enough to be read as the head of a file" * 9)
    assert "file is not a database" in refuse(*arguments)


def test_buckets():
    scores = np.sort(np.random.default_rng(0).gamma(1, size=1000).round(2))  # some of them are equal
    edges = motion_bucket.quantile_edges(iter(scores), len(scores))
    ids = [motion_bucket.bucket(score, edges) for score in scores]
    assert ids == [256 * int((scores < score).sum()) // 1000 for score in scores]
    known = motion_bucket.known_edges(zip(scores[::-1], ids[::-1]))
    assert [motion_bucket.bucket(score, known) for score in scores] == ids
    still = motion_bucket.quantile_edges([0.0] * 5, 5)
    assert motion_bucket.bucket(0.0, still) == 0 and motion_bucket.bucket(0.1, still) == 255


def test_the_buckets_of_another_file(expected, tmp_path):
    rows = rows_of(expected)
    few = tmp_path / "few.csv"
    few.write_text("path,length,fps,score\n" + "".join(f"{row['path']},9,8,{row['score']}\n" for row in rows[::3]))
    assert motion_bucket.main(["--merge", str(few), f"--out={tmp_path / 'x.csv'}", f"--scale={expected}"]) == 0
    ids = [row["motion_bucket_id"] for row in rows_of(tmp_path / "x.csv")]
    assert ids == [row["motion_bucket_id"] for row in rows[::3]]


def test_files_are_found_in_order(tmp_path, monkeypatch):
    for path in ("a/z.mp4", "a-b/x.MP4", "a.mp4", "a0.mp4", ".b/x.mp4", ".c.mp4", "shut/x.mp4", "d.txt", "é/y.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a-b")
    (tmp_path / " in front.mp4").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).touch()
    scan = os.scandir

    def guarded(folder):
        if str(folder).endswith("shut/"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    found = list(find_files(str(tmp_path), {".mp4"}))
    usable = [path for path, why in found if not why]
    assert usable == sorted(usable) == ["a-b/x.MP4", "a.mp4", "a/z.mp4", "a0.mp4", "link/x.MP4", "é/y.mp4"]
    assert {path: why for path, why in found if why} == {
        " in front.mp4": "its name has a space in front or a control character; rename it",
        "shut/": "a folder that cannot be read (Permission denied)",
        "\\xff.mp4": "its name is not in UTF-8; rename it",
    }


def test_shards_share_the_paths_out():
    paths = [f"{number}.mp4" for number in range(400)]
    parts = [[path for path in paths if Shard(index, 4).contains(path)] for index in range(4)]
    assert sorted(sum(parts, [])) == sorted(paths) and all(70 < len(part) < 130 for part in parts)


def test_memory_does_not_grow(tmp_path):
    def peak(count: int) -> int:
        tracemalloc.start()
        with Journal(tmp_path / f"{count}", COLUMNS, "rows") as journal:
            journal.register((f"{number:06d}.mp4", "") for number in range(count))
            for path in journal.pending():
                journal.record({"path": path, "why": "", "length": 9, "fps": 8.0, "score": hash(path) % 1000})
            motion_bucket._write_buckets(journal, tmp_path / "x.csv", None)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2500)  # what stays in memory from the first time on
    assert peak(10000) < 1.3 * peak(2499)


def test_processes_start_without_mindspore():
    script = "import sys, svd_tools.motion_bucket; print({'mindspore', 'torch', 'pandas'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert shown.stdout == "set()\n", shown.stderr


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_the_example_of_the_documentation_on_ray(videos, expected, tmp_path):
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data_tools.md").read_text(), re.DOTALL)
    assert example.count('"videos", "rows"') == 1 and "num_cpus=2" in example
    (tmp_path / "example.py").write_text(
        example.replace('"videos", "rows"', repr((str(videos), str(tmp_path / "rows"))))
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=environment, check=True, timeout=600)
    files = [str(path) for path in (tmp_path / "rows").iterdir()]
    assert len(files) > 1
    assert motion_bucket.main(["--merge", *files, f"--out={tmp_path / 'clips.csv'}"]) == 0
    for name in ("clips.csv", "clips.failed.csv"):
        assert (tmp_path / name).read_bytes() == expected.with_name(name).read_bytes()


def test_a_frame_rate_that_changes(tmp_path):
    """Motion is that of half a second, wherever in the file."""
    moving(tmp_path / "even.mp4", 1.5, fps=24, frames=97)
    # the second half again, at a quarter of the speed: what moved by 1.5 then moves by 0.375
    slower = "settb=1/90000,setpts='if(lt(N,48),N/24/TB,(2+(N-48)/6)/TB)'"
    ffmpeg("-i", tmp_path / "even.mp4", "-vf", slower, "-fps_mode", "passthrough", "-enc_time_base", "1/90000",
           tmp_path / "uneven.mp4")  # fmt: skip
    even, uneven = (score_video(str(tmp_path / name)) for name in ("even.mp4", "uneven.mp4"))
    assert even["length"] == uneven["length"] == 97
    assert even["score"] == pytest.approx(1.5, rel=0.12)
    assert uneven["score"] == pytest.approx((4 * 1.5 + 16 * 0.375) / 20, rel=0.15)


def test_pixels_that_are_not_square_and_interlacing(tmp_path):
    path = moving(tmp_path / "square.mp4", 1.5, (96, 192), 16, 33)
    ffmpeg("-i", path, "-vf", "scale=96:96,setsar=2", "-crf", "10", tmp_path / "narrow.mp4")
    ffmpeg("-i", path, "-vf", "interlace=scan=tff:lowpass=off", "-flags", "+ildct+ilme", "-x264opts", "tff=1",
           "-crf", "10", tmp_path / "interlaced.mp4")  # fmt: skip
    for name in ("square.mp4", "narrow.mp4", "interlaced.mp4"):
        assert score_video(str(tmp_path / name))["score"] == pytest.approx(1.5, rel=0.12), name


def test_videos_that_cannot_be_read_for_a_moment(tmp_path, monkeypatch):
    """Are waited for, and have the score that they have."""
    path = moving(tmp_path / "a.mp4", 1)
    expected, pauses = score_row("a.mp4", str(tmp_path)), []
    path.parent.rename(tmp_path.parent / "away")

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            (tmp_path.parent / "away").rename(tmp_path)

    monkeypatch.setattr(work.time, "sleep", pause)
    assert score_row("a.mp4", str(tmp_path)) == expected and expected["why"] == ""
    assert pauses == list(work.PAUSES[:3])


def row_of_a_disk_that_is_away(path: str, folder: str) -> dict:
    return {"path": path, "why": "", "score": 1.0} if path == "a.mp4" else {"path": path, "why": None}


def test_videos_that_cannot_be_read_now_are_left_to_do(tmp_path, monkeypatch):
    """No failure is written down, no buckets without them, and one wait is enough for all."""
    (tmp_path / "in").mkdir()
    moving(tmp_path / "in" / "a.mp4", 1)
    pauses = []
    monkeypatch.setattr(work.time, "sleep", pauses.append)
    rows = [score_row(name, str(tmp_path / "away")) for name in ("x.mp4", "y.mp4")]
    assert [row["why"] for row in rows] == [None, None] and pauses == list(work.PAUSES)
    assert score_row("a.mp4", str(tmp_path / "in"))["why"] == ""  # and the next wait is a full one
    score_row("x.mp4", str(tmp_path / "away"))
    assert pauses == 2 * list(work.PAUSES)
    score_row("a.mp4", str(tmp_path / "in"))
    with Journal("", {"score": "REAL"}, "rows") as journal:
        journal.register((name, "") for name in ("a.mp4", "b.mp4", "c.mp4"))
        process_pending(journal, row_of_a_disk_that_is_away, str(tmp_path), 1, "video")
        assert [row["path"] for row in journal.rows()] == ["a.mp4"] and list(journal.failures()) == []
        assert list(journal.pending()) == ["b.mp4", "c.mp4"]
        with pytest.raises(DatasetError, match="2 videos cannot be read now, such as b.mp4: .* the same command"):
            work.check_all_done(journal, "videos")
    pool = SimpleNamespace(load=Mock(side_effect=Unavailable("x.mp4", "its disk does not answer")))
    assert work._row(pool, "x.mp4") == {"path": "x.mp4", "why": None}


def test_tables_as_excel_saves_them(expected, tmp_path):
    """Scores that were looked at in a German Excel are still scores."""
    cells = [line.split(",") for line in expected.read_text().splitlines()]
    text = "\r\n".join(";".join(cell if "/" in cell else cell.replace(".", ",") for cell in line) for line in cells)
    (tmp_path / "excel.csv").write_text(text, encoding="utf-8-sig")
    assert motion_bucket.main(["--merge", str(tmp_path / "excel.csv"), f"--out={tmp_path / 'x.csv'}"]) == 0
    assert (tmp_path / "x.csv").read_bytes() == expected.read_bytes()
