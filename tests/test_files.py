"""Files are whole or not there, and nobody's name is taken twice."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from svd import files
from svd.errors import UserError
from svd.files import atomic_write, check_folder, free_name, shortened, write_text


def test_text(tmp_path, monkeypatch):
    write_text(tmp_path / "waves.yaml", "image: ü.png\n")
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "waves.yaml", "other")
    assert os.listdir(tmp_path) == ["waves.yaml"]
    assert (tmp_path / "waves.yaml").read_bytes() == b"image: \xc3\xbc.png\n"


def test_too_little_space_is_said_at_once(tmp_path):
    with (
        pytest.raises(UserError, match="no space for .*: 1000000000.00 GB needed"),
        atomic_write(tmp_path / "x", 10**18),
    ):
        raise AssertionError("not reached")


@pytest.mark.parametrize("folder", [False, True])
def test_what_stood_there_is_replaced_only_at_the_end(tmp_path, folder):
    target = tmp_path / "target"

    def fill(path: Path, text: str):
        if folder:
            path.mkdir()
            path = path / "inside"
        path.write_text(text)

    fill(target, "old")
    content = target / "inside" if folder else target
    with pytest.raises(KeyboardInterrupt), atomic_write(target, 1) as temporary:
        fill(temporary, "new")
        raise KeyboardInterrupt
    assert content.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with atomic_write(target, 1) as temporary:
        fill(temporary, "new")
    assert content.read_text() == "new" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", "夜" * 83 + ".mp4"])
def test_the_longest_names_can_be_written(tmp_path, name):
    with atomic_write(tmp_path / name) as aside:
        assert aside.suffix == ".mp4"
        aside.touch()
    assert os.listdir(tmp_path) == [name]


def test_left_overs_of_killed_processes_go_with_the_next_run_of_the_same_target(tmp_path):
    """Those of processes that run, of other targets, and of users stay."""
    killed = (
        "import os, signal, sys; from svd.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for name in ("mine.txt", "other.txt"):
        subprocess.run([sys.executable, "-c", killed, tmp_path / name], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert len(os.listdir(tmp_path)) == 2
    at_work = f".mine.{files._HOST}-{os.getppid()}.tmp.txt"
    elsewhere = ".mine.ffffff-1.tmp.txt" if files._HOST != "ffffff" else ".mine.eeeeee-1.tmp.txt"
    for name in (at_work, elsewhere, ".mine.tmp.txt"):
        (tmp_path / name).touch()
    write_text(tmp_path / "mine.txt", "whole")
    left = set(os.listdir(tmp_path)) - {"mine.txt", at_work, elsewhere, ".mine.tmp.txt"}
    assert len(left) == 1 and left.pop().startswith(".other.")
    os.utime(tmp_path / elsewhere, (0, 0))  # of another computer, and older than a day
    write_text(tmp_path / "mine.txt", "whole")
    assert not (tmp_path / elsewhere).exists() and (tmp_path / at_work).exists()


ROOT = Path(__file__).parents[1]


def test_a_name_is_free_with_every_suffix(tmp_path):
    folder = tmp_path / "new" / "folder"
    suffixes = [".yaml", ".mp4", "_frames"]
    with free_name(folder, "cat", suffixes) as name:
        assert name == "cat"
        (folder / "cat.yaml").write_text("seed: 0")
    (folder / "cat_1_frames").mkdir()
    (folder / "cat_2.mp4").touch()
    with free_name(folder, "cat", suffixes) as name:
        assert name == "cat_3"
    assert (folder / "cat.yaml").read_text() == "seed: 0"


def test_a_failure_keeps_what_is_finished_and_gives_the_name_back(tmp_path):
    (tmp_path / "cat.mp4").write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt), free_name(tmp_path, "cat", [".yaml", ".mp4"]) as name:
        write_text(tmp_path / f"{name}.mp4", "a whole video")
        raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["cat.mp4", "cat_1.mp4"]
    assert (tmp_path / "cat.mp4").read_bytes() == b"earlier"


@pytest.mark.parametrize("stem", ["x" * 300, "夜景のお城と花火" * 20])
def test_a_name_that_is_too_long_is_cut(tmp_path, stem):
    names = []
    for _ in range(12):
        with free_name(tmp_path, stem, [".yaml", ".mp4", "_frames"]) as name:
            write_text(tmp_path / f"{name}.yaml", "")
            (tmp_path / f"{name}_frames").mkdir()
            names.append(name)
    assert len(set(names)) == 12 and all(stem.startswith(name.split("_")[0]) for name in names)


def test_names_are_cut_between_characters():
    assert shortened("夜景", 5) == "夜" and shortened("caf\udce9", 4) == "caf\udce9" and shortened("abc", 3) == "abc"


def test_names_are_not_given_twice_at_the_same_time(tmp_path):
    def take(_) -> str:
        with free_name(tmp_path, "cat", [".yaml", ".mp4"]) as name:
            (tmp_path / f"{name}.yaml").write_text("seed: 0")
            return name

    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(take, range(50)))
    assert sorted(names) == sorted({"cat", *(f"cat_{n}" for n in range(1, 50))})


def test_a_name_taken_while_looking_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "cat.yaml").touch()
    monkeypatch.setattr(os.path, "lexists", lambda path: False)  # as if it appeared right after the look
    with free_name(tmp_path, "cat", [".yaml"]) as name:
        assert name == "cat_1"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new" / "folder", "--out")
    with pytest.raises(UserError, match="--out .*file is a file; choose another folder"):
        check_folder(tmp_path / "file" / "folder", "--out")
