"""The table of a run: whole lines, whatever was killed, and a plot of them."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from svd.training.metrics import COLUMNS, LARGEST, Metrics


def row(update: int, **changes) -> dict:
    return {name: 0.1 + index for index, name in enumerate(COLUMNS)} | {"update": update} | changes


def write(folder: Path, updates: list[int], start: int = 0) -> str:
    """A run's lines; returns the table's text."""
    metrics = Metrics(folder, start)
    for update in updates:
        metrics.write(**row(update))
    metrics.close()
    return (folder / "metrics.csv").read_text()


def test_lines_and_plot(tmp_path):
    text = write(tmp_path, [10, 20])
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert text.splitlines()[2].split(",")[:2] == ["20", "1.1"] and text.endswith("\n")
    with Image.open(tmp_path / "loss.png") as plot:
        assert plot.format == "PNG" and min(plot.size) > 300
    assert not list(tmp_path.glob(".*"))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_without_lines_there_is_no_plot(tmp_path):
    assert write(tmp_path, []) == ",".join(COLUMNS) + "\n"
    assert not (tmp_path / "loss.png").exists()


def test_a_run_that_goes_on_keeps_the_lines_before(tmp_path):
    """To the letter, and drops those after."""
    text = write(tmp_path, [10, 20, 30])
    assert write(tmp_path, [], start=30) == text
    assert write(tmp_path, [25], start=20).splitlines()[:3] == text.splitlines()[:3]
    assert pd.read_csv(tmp_path / "metrics.csv")["update"].tolist() == [10, 20, 25]
    assert write(tmp_path, [1]).count("\n") == 2


@pytest.mark.parametrize(
    "half",
    ["2", "20,", "20,1.1,2.1", ",".join(["20"] * len(COLUMNS)), "\0\0\0\0\n", "\n", "20,1\n", "x" + "," * 9 + "\n"],
)
def test_a_line_that_is_not_whole_is_dropped(tmp_path, half):
    """The last of these might lack digits of its last number."""
    text = write(tmp_path, [10])
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write(half)
    assert write(tmp_path, [], start=20) == text


def test_lines_of_overflows_are_kept(tmp_path):
    """The norm of a void update is infinite or not a number."""
    metrics = Metrics(tmp_path)
    for update, norm in ((1, float("inf")), (2, float("nan")), (3, 1.0)):
        metrics.write(**row(update, grad_norm=norm))
    metrics.close()
    write(tmp_path, [], start=3)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["update"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        "20,text,1,1,1,1,1,1,1,1\n",
        "x,1,1,1,1,1,1,1,1,1\n",
        "1" * 400 + ",1,1,1,1,1,1,1,1,1\n",
        "\xff\0\n",
        "20" * 9**6 + "\n",
    ],
    ids=["text", "no update", "400 digits", "bytes", "a long line"],
)
def test_damaged_lines_are_told_of_and_left_out(tmp_path, line):
    text, told = write(tmp_path, [10, 30]), []
    header, first, second = text.splitlines(keepends=True)
    (tmp_path / "metrics.csv").write_text("".join([header, first, line, second]), encoding="latin-1")
    Metrics(tmp_path, 30, report=told.append).close()
    assert (tmp_path / "metrics.csv").read_text() == text
    assert told == ([] if "1" * 400 in line else [f"warning: {tmp_path / 'metrics.csv'}: 1 damaged lines are left out"])


def make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, LARGEST + 1)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, make_large], ids=["a folder", "a pipe", "a large file"])
def test_what_is_no_table_is_left_alone(tmp_path, make):
    """And another is begun beside it, which the next run continues."""
    told = []
    make(tmp_path / "metrics.csv")
    for start, update in ((0, 10), (10, 20)):
        metrics = Metrics(tmp_path, start, report=told.append)
        metrics.write(**row(update))
        metrics.close()
    assert pd.read_csv(tmp_path / "metrics_1.csv")["update"].tolist() == [10, 20]
    assert len(told) == 2 and all("another table is begun beside it" in text for text in told)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "loss.png",
        "metrics.csv",
        "metrics_1.csv",
        "tensorboard",
    ]


def test_a_disk_that_is_full_for_one_line_leaves_no_half_of_it(tmp_path):
    """What comes later is as if it had not been tried."""
    metrics = Metrics(tmp_path)
    metrics.write(**row(1))
    size = (tmp_path / "metrics.csv").stat().st_size
    limit, signals = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7, limit[1]))
    try:
        with pytest.raises(OSError):
            metrics.write(**row(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, signals)
    metrics.write(**row(3))
    metrics.close()
    assert pd.read_csv(tmp_path / "metrics.csv")["update"].tolist() == [1, 3]


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    code = "import sys, os; from svd.files import atomic_write\nwith atomic_write(sys.argv[1]) as aside:\n"
    code += "    aside.touch(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "metrics.csv"], check=True)
    assert len(list(tmp_path.glob(".metrics.*"))) == 1
    write(tmp_path, [1])
    assert not list(tmp_path.glob(".*"))


def events(folder: Path) -> list[tuple[int, dict[str, float], bool]]:
    """Of TensorBoard's file: step, numbers, and whether TensorBoard is to forget what came from there on."""
    (path,) = (folder / "tensorboard").glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:  # a length in 8 bytes and its checksum in 4, the event, and its checksum in 4
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        numbers = {value.tag: value.simple_value for value in event.summary.value}
        found.append((event.step, numbers, event.session_log.status == SessionLog.START))
        data = data[16 + length :]
    return found


def test_tensorboard(tmp_path):
    """The same numbers, but for those that it cannot draw."""
    metrics = Metrics(tmp_path, update=4)
    metrics.write(**row(5))
    metrics.write(**row(6, grad_norm=float("nan")))
    metrics.close()
    version, forget, first, second = events(tmp_path)
    assert forget == (5, {}, True)
    expected = {f"train/{name}": pytest.approx(0.1 + i) for i, name in enumerate(COLUMNS) if name != "update"}
    assert first == (5, expected, False)
    del expected["train/grad_norm"]
    assert second == (6, expected, False)
    assert version[1:] == ({}, False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_a_full_disk_for_tensorboard_costs_no_line(tmp_path):
    """Each is reported as an OSError; nothing hangs, nor does the process when it ends."""
    metrics = Metrics(tmp_path)
    writer = metrics._events._py_recordio_writer
    writer._writer.close()
    writer._writer = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    for update in range(50):
        with pytest.raises(OSError):
            metrics.write(**row(update))
    with suppress(OSError):
        metrics.close()
    assert pd.read_csv(tmp_path / "metrics.csv")["update"].tolist() == list(range(50))
    assert (tmp_path / "loss.png").is_file()
