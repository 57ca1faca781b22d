"""Encoding the clips of a training: in parts, after interruptions, and with videos that cannot be used."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from training_runs import options
from training_videos import write_csv

from svd.checkpoints.tensor_header import read_header
from svd.data.dataset import BadItem, DatasetError
from svd.data.latents_dataset import TENSORS, EncodedClip, LatentsDataset
from svd.seeds import Purpose, SampleOrder, generator
from svd_tools import encode_latents
from svd_tools.encode_latents import LatentsWriter, Plan
from svd_tools.jobs import work

ROOT = Path(__file__).parents[2]
VIDEOS, PASSES = 4, 2
IN_TWO_FILES = "--shard_mb=0.015"
"""Clips have 3.6 kB each, so that five begin another file."""


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Path:
    """All clips, encoded at once; by the program as it is, with a process that decodes the videos."""
    out = tmp_path_factory.mktemp("whole") / "latents"
    assert encode_latents.main([*arguments(inputs, out), "--train.workers=1"]) == 0
    return out


@pytest.fixture
def here(monkeypatch):
    """Decode in this process, which takes less time than to start another."""

    def process_pending(journal, row_of, folder, processes, unit):
        for key in journal.pending():
            journal.record(row_of(key, folder))

    monkeypatch.setattr(encode_latents, "process_pending", process_pending)


@pytest.fixture
def refuse(capsys):
    """Run the command line on what it must refuse; returns its one line."""

    def run(*arguments: str) -> str:
        assert encode_latents.main(list(arguments)) == 2
        line = capsys.readouterr().err
        assert line.startswith("encode_latents.py: error: ") and line.count("\n") == 1
        return line

    return run


def arguments(inputs: Path, out: Path) -> list[str]:
    return [*options(inputs, out.parent / "run"), f"--out={out}", f"--passes={PASSES}", IN_TWO_FILES]


def clips(folder: Path) -> list[EncodedClip]:
    """Those that the samples of a training take, in their order."""
    dataset, order = LatentsDataset(str(folder)), SampleOrder(0, VIDEOS)
    return [dataset.load(order.index(s), generator(0, s, Purpose.DATA)) for s in range(VIDEOS * PASSES)]


def assert_same_clips(a: list[EncodedClip], b: list[EncodedClip]) -> None:
    for one, other in zip(a, b, strict=True):
        for name in TENSORS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        numbers = [(c.fps, c.motion_bucket_id, c.aug_strength, c.path) for c in (one, other)]
        assert numbers[0] == numbers[1]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "latents").iterdir())


def test_clips_that_differ_are_in_files_of_the_size(whole):
    found = clips(whole)
    assert len({clip.moments.tobytes() for clip in found}) == len({clip.concat.tobytes() for clip in found}) == 8
    assert len({clip.aug_strength for clip in found}) == 8 and {clip.fps for clip in found} == {4}
    assert [clip.moments.dtype for clip in found] == [np.float16] * 8
    assert found[0].moments.shape == (3, 8, 8, 8) and found[0].concat.shape == (4, 8, 8)
    assert len(files(whole)) == 2 and not list(whole.rglob("*.tmp"))


def test_parts_are_the_whole(here, inputs, whole, tmp_path):
    flags = arguments(inputs, tmp_path / "latents")
    assert encode_latents.main([*flags, "--shard=0/2"]) == 0
    with pytest.raises(DatasetError, match=r"of 8 clips are missing; .*all of its shards"):
        LatentsDataset(str(tmp_path / "latents"))
    assert encode_latents.main([*flags, "--shard=1/2"]) == 0
    indices = [pd.read_csv(file) for file in sorted((tmp_path / "latents/index").iterdir())]
    assert [len(index) for index in indices] == [4, 4]  # what the rows' numbers make of it
    assert_same_clips(clips(tmp_path / "latents"), clips(whole))
    shutil.copy(whole / "index/clips.csv", tmp_path / "latents/index/other.csv")
    with pytest.raises(DatasetError, match="8 clips are there twice"):
        LatentsDataset(str(tmp_path / "latents"))


def test_an_engine_makes_the_whole_too(inputs, whole, tmp_path):
    """As in the example of the documentation: every batch is called for by itself, and the rows are written."""
    flags = arguments(inputs, tmp_path / "latents")
    keys = pd.DataFrame({"key": list(Plan(flags).clip_keys())})
    writer = LatentsWriter(flags)
    (tmp_path / "latents/index").mkdir()
    for first in range(0, 8, 3):
        writer(keys[first : first + 3]).to_csv(tmp_path / f"latents/index/{first}.csv", index=False)
    assert len(files(tmp_path / "latents")) == 3
    assert_same_clips(clips(tmp_path / "latents"), clips(whole))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_the_example_of_the_documentation_on_ray(inputs, whole, tmp_path):
    _, example = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data_tools.md").read_text(), re.DOTALL)
    flags = repr(arguments(inputs, tmp_path / "latents"))
    example = re.sub(r"ARGUMENTS = \[.*?\n\]", lambda _: f"ARGUMENTS = {flags}", example, flags=re.DOTALL)
    for documented, here in (
        ('"auto"', "num_cpus=2, include_dashboard=False"),
        ("batch_size=250", "batch_size=3"),
        ("concurrency=8", "concurrency=2"),
        ('    resources={"NPU": 1},\n', ""),
        ('"/shared/latents/index"', repr(str(tmp_path / "latents/index"))),
    ):
        assert example.count(documented) == 1
        example = example.replace(documented, here)
    (tmp_path / "example.py").write_text(example)
    search = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": search, "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=environment, check=True, timeout=600)
    assert len(files(tmp_path / "latents")) > 1 and len(list((tmp_path / "latents/index").iterdir())) > 1
    assert_same_clips(clips(tmp_path / "latents"), clips(whole))


def test_an_interrupted_run_continues(here, inputs, whole, tmp_path, monkeypatch):
    """Killed when the second file is written: what the first has is not done again."""
    flags = arguments(inputs, tmp_path / "latents")
    write, written = LatentsWriter.write, []

    def killed(self, name, clips):
        if written:
            raise KeyboardInterrupt
        written.append(len(clips))
        write(self, name, clips)

    monkeypatch.setattr(LatentsWriter, "write", killed)
    assert encode_latents.main(flags) == 130
    assert len(files(tmp_path / "latents")) == 1 and not (tmp_path / "latents/index").exists()

    monkeypatch.setattr(LatentsWriter, "write", lambda *call: (written.append(len(call[2])), write(*call)))
    assert encode_latents.main(flags) == 0
    assert written == [5, 3]
    assert_same_clips(clips(tmp_path / "latents"), clips(whole))


def test_a_truncated_file_is_reported_and_replaced(inputs, whole, tmp_path, capsys, monkeypatch):
    """Also if its clips are done in another order, so that the file of another name has them."""

    def process_pending(journal, row_of, folder, processes, unit):
        for key in reversed(list(journal.pending())):
            journal.record(row_of(key, folder))

    monkeypatch.setattr(encode_latents, "process_pending", process_pending)
    shutil.copytree(whole, tmp_path / "latents")
    file = files(tmp_path / "latents")[0]
    file.write_bytes(file.read_bytes()[:-100])
    dataset = LatentsDataset(str(tmp_path / "latents"))
    with pytest.raises(BadItem, match="truncated or damaged") as error:
        dataset.load(0, np.random.default_rng(0))
    assert error.value.path == str(file)
    dataset.load(3, np.random.default_rng(0))  # it is in the other file
    assert encode_latents.main(arguments(inputs, tmp_path / "latents")) == 0
    assert "1 files of latents are missing or damaged" in capsys.readouterr().out
    assert not file.exists()
    assert [len(read_header(file).tensors) for file in files(tmp_path / "latents")] == [15, 9]
    assert_same_clips(clips(tmp_path / "latents"), clips(whole))


def test_videos_that_fail_are_listed_and_tried_again(here, inputs, tmp_path, capsys, refuse):
    """Training is told of them as it would be of the videos."""
    out, table = tmp_path / "latents", tmp_path / "videos.csv"
    write_csv(table, [("video_0.mp4", 20, 0), ("video_1.mp4", 20, 10), ("text.mp4", 20, 5)])
    (tmp_path / "text.mp4").write_text("text")
    flags = [*arguments(inputs, out), f"--train.dataset.init_args.metadata={table}"]
    assert "none of the 6 clips could be encoded" in refuse(*flags)

    for name in ("video_0.mp4", "video_1.mp4"):
        shutil.copy(inputs / "videos" / name, tmp_path)
    assert encode_latents.main([*flags, "--retry_failed"]) == 0
    said = capsys.readouterr().out
    assert "4 clips are encoded, 2 failed" in said and "2  a text file, not a video" in said
    assert len(pd.read_csv(out / "failed.csv")) == 2
    dataset = LatentsDataset(str(out))
    assert len(dataset) == 3
    with pytest.raises(BadItem, match=r"text.mp4: a text file, not a video"):
        dataset.load(2, np.random.default_rng(0))
    assert dataset.load(1, np.random.default_rng(0)).path == str(tmp_path / "video_1.mp4")

    shutil.copy(inputs / "videos/video_2.mp4", tmp_path / "text.mp4")
    assert encode_latents.main([*flags, "--retry_failed"]) == 0
    assert not (out / "failed.csv").exists()
    assert LatentsDataset(str(out)).load(2, np.random.default_rng(0)).motion_bucket_id == 5


def test_videos_that_are_away_for_a_while_are_no_failures(inputs, tmp_path, monkeypatch, refuse):
    """What they would be encoded to is left to do, and then done."""
    shutil.copytree(inputs / "videos", tmp_path / "disk")
    table = write_csv(tmp_path / "videos.csv", [(f"disk/video_{index}.mp4", 20, 0) for index in range(2)])
    flags = [*arguments(inputs, tmp_path / "latents"), f"--train.dataset.init_args.metadata={table}"]
    pauses = []

    def process_pending(journal, row_of, folder, processes, unit):
        for index, key in enumerate(journal.pending()):
            if index == 1:
                (tmp_path / "disk").rename(tmp_path / "away")
            journal.record(row_of(key, folder))

    monkeypatch.setattr(encode_latents, "process_pending", process_pending)
    monkeypatch.setattr(work.time, "sleep", pauses.append)
    assert "3 clips cannot be read now, such as" in refuse(*flags)
    assert pauses == list(work.PAUSES)
    (tmp_path / "away").rename(tmp_path / "disk")
    monkeypatch.setattr(work, "_pauses", work.PAUSES)
    monkeypatch.setattr(encode_latents, "process_pending", lambda journal, row_of, *_: [
        journal.record(row_of(key)) for key in list(journal.pending())
    ])  # fmt: skip
    assert encode_latents.main(flags) == 0 and not (tmp_path / "latents/failed.csv").exists()
    assert len(LatentsDataset(str(tmp_path / "latents"))) == 2


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--train.seed=1"], "clips.seed is 0 there and 1 here; choose another folder"),
        (["--train.dataset.init_args.step=1"], "clips.step is 2 there and 1 here"),
        (["--train.loss.noise_aug_std=0.1"], "loss.noise_aug_std is 0.5 there and 0.1 here"),
        (["--passes=0"], "--passes must be positive"),
        (["--shard=2/2"], "--shard 2/2: give i/n"),
        (["--train.pretrained=null"], "--train.pretrained is missing"),
        (["--train.dataset.init_args.height=7"], "height"),
    ],
    ids=str,
)
def test_refusals(inputs, whole, refuse, flags, words):
    assert words in refuse(*arguments(inputs, whole), *flags)


def test_latents_of_latents_are_refused(inputs, whole, refuse):
    flags = [flag for flag in arguments(inputs, whole) if "dataset" not in flag]
    data = ["--train.dataset=LatentsDataset", f"--train.dataset.init_args.folder={whole}"]
    assert "must be a VideoDataset" in refuse(*flags, *data)
