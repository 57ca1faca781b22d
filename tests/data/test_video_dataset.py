"""Clips hold the right frames at the right size and speed; what is wrong with a CSV or a video is said in one line."""

import os
import pickle
import unicodedata
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from training_videos import ffmpeg, frame_numbers, numbered_frames, write_csv, write_training_videos

from svd.data import csv_rows, video_reader
from svd.data.dataset import BadItem, DatasetError, Unavailable
from svd.data.loader import Loader
from svd.data.video_dataset import Clip, VideoDataset
from svd.data.video_reader import open_video
from svd.data.videos import write_video

SMALL = {"frames": 4, "height": 32, "width": 48}


def one_video(folder: Path, name: str, length: int = 20, **options) -> VideoDataset:
    """A data set of one video."""
    return VideoDataset(str(write_csv(folder / "one.csv", [(name, length, 50)])), **(SMALL | options))


def load(dataset: VideoDataset, index: int = 0, seed: int = 0) -> Clip:
    return dataset.load(index, np.random.default_rng(seed))


# --- frames ---


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("long_groups.mp4", ("-r", "24000/1001", "-c:v", "libx264", "-g", "250", "-bf", "3")),
        ("open_groups.mp4", ("-r", "30", "-c:v", "libx264", "-g", "20", "-bf", "3", "-x264-params", "open-gop=1")),
        ("short_groups.mkv", ("-r", "60", "-c:v", "libx264", "-g", "12", "-bf", "2")),
        ("stream.ts", ("-r", "29.97", "-c:v", "libx264", "-g", "30")),  # seeking is inexact here
        ("late.ts", ("-r", "30", "-c:v", "libx264", "-output_ts_offset", "7.3")),  # and fails here
        ("bare.h264", ("-r", "30", "-c:v", "libx264", "-g", "30")),  # and is passed over here
        ("old.avi", ("-r", "30", "-c:v", "mpeg4", "-bf", "2", "-q:v", "2")),
    ],
)
def test_every_frame_is_the_right_one(tmp_path, name, arguments):
    frames = numbered_frames(100, 64, 96)
    noise = np.random.default_rng(0).integers(-20, 20, frames.shape)
    ffmpeg(*arguments, tmp_path / name, frames=np.clip(frames + noise, 0, 255).astype(np.uint8))
    with open_video(str(tmp_path / name)) as video:
        for start in (0, 1, 2, 3, 11, 12, 13, 20, 25, 47, 90, 94, 5, 0):
            clip = video.read(start, 3, 2, 64, 96)
            assert frame_numbers(clip.frames) == [start, start + 2, start + 4]
        assert video.read(96, 3, 2, 64, 96) is None
        assert video.length == 100


def test_starts_are_spread_over_all_that_are_possible(tmp_path):
    write_training_videos(tmp_path, count=1)
    dataset = one_video(tmp_path, "video_0.mp4", frames=3, step=7)
    clips = [frame_numbers(load(dataset, seed=seed).frames) for seed in range(60)]
    assert {tuple(clip) for clip in clips} == {(s, s + 7, s + 14) for s in range(6)}
    assert max(np.bincount([clip[0] for clip in clips])) < 25
    whole = one_video(tmp_path, "video_0.mp4", frames=20)
    assert frame_numbers(load(whole).frames) == list(range(20))


def test_the_length_in_the_csv_can_leave_out_the_end(tmp_path):
    write_training_videos(tmp_path, count=1)
    dataset = one_video(tmp_path, "video_0.mp4", length=6)
    assert {frame_numbers(load(dataset, seed=seed).frames)[0] for seed in range(30)} == {0, 1, 2}


@pytest.mark.parametrize("fps, step, expected", [(8, 1, 8), (30, 4, 7.5), (24000 / 1001, 3, 8000 / 1001)])
def test_fps_is_that_of_the_clip(tmp_path, fps, step, expected):
    write_training_videos(tmp_path, count=2, fps=fps)
    rows = [("video_0.mp4", 20, 1, ""), ("video_1.mp4", 20, 127.5, 12)]
    csv = write_csv(tmp_path / "fps.csv", rows, "path,length,motion_bucket_id,fps")
    dataset = VideoDataset(str(csv), step=step, **SMALL)
    assert load(dataset, 0).fps == pytest.approx(expected, rel=1e-4)
    assert load(dataset, 1).fps == 12 / step
    assert (load(dataset, 0).motion_bucket_id, load(dataset, 1).motion_bucket_id) == (1, 127.5)


def test_a_file_without_a_frame_rate_needs_one_in_the_csv(tmp_path, monkeypatch):
    """Such as one that states no time and no rate; of most, the frames say when they are shown."""
    write_training_videos(tmp_path, count=1)
    monkeypatch.setattr(video_reader.Video, "_stated_rate", lambda video: None)
    assert load(one_video(tmp_path, "video_0.mp4")).fps == pytest.approx(8)
    monkeypatch.setattr(video_reader.Video, "_rate", lambda video, times, step: None)
    with pytest.raises(BadItem, match="no frame rate; give one in a column fps"):
        load(one_video(tmp_path, "video_0.mp4"))
    csv = write_csv(tmp_path / "fps.csv", [("video_0.mp4", 20, 1, 9)], "path,length,motion_bucket_id,fps")
    assert load(VideoDataset(str(csv), **SMALL)).fps == 9


def test_the_fps_of_the_csv_is_for_the_stated_one(tmp_path):
    """Where the frame rate changes within the file, that of a clip is changed likewise."""
    write_video(tmp_path / "even.mp4", numbered_frames(60), 30)
    slower = "settb=1/90000,setpts='if(lt(N,30),N/30/TB,(1+(N-30)/5)/TB)'"
    as_timed = ("-fps_mode", "passthrough", "-enc_time_base", "1/90000")
    ffmpeg("-i", tmp_path / "even.mp4", "-vf", slower, *as_timed, tmp_path / "uneven.mp4")
    with video_reader.open_video(str(tmp_path / "uneven.mp4")) as video:
        stated = video.fps
    csv = write_csv(tmp_path / "two.csv", [("uneven.mp4", 60, 1, ""), ("uneven.mp4", 60, 1, 2 * stated)],
                    "path,length,motion_bucket_id,fps")  # fmt: skip
    dataset, seen = VideoDataset(str(csv), **SMALL), set()
    for seed in range(20):
        plain, doubled = load(dataset, 0, seed), load(dataset, 1, seed)
        first, last = frame_numbers(plain.frames)[:: SMALL["frames"] - 1]
        if last < 30 or first >= 30:
            seen.add(expected := 30 if last < 30 else 5)
            assert (plain.fps, doubled.fps) == pytest.approx((expected, 2 * expected), rel=0.02)
    assert seen == {5, 30}


def test_a_mirrored_clip_is_the_same_clip(tmp_path):
    write_training_videos(tmp_path, count=1)
    plain, flipped = (one_video(tmp_path, "video_0.mp4", horizontal_flip=flip) for flip in (False, True))
    mirrored = 0
    for seed in range(40):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        a, b = plain.load(0, rngs[0]).frames, flipped.load(0, rngs[1]).frames
        mirrored += not np.array_equal(a, b)
        assert np.array_equal(a, b) or np.array_equal(a[:, :, ::-1], b)
        assert rngs[0].random() == rngs[1].random()  # the option takes no random numbers from what comes later
    assert 10 < mirrored < 30


def test_a_turned_video_is_upright(tmp_path):
    write_video(tmp_path / "lying.mp4", numbered_frames(20), 8)
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "lying.mp4", "-c", "copy", tmp_path / "turned.mp4")
    frames = load(one_video(tmp_path, "turned.mp4", frames=20, height=48, width=32)).frames
    assert frame_numbers(np.rot90(frames, -1, axes=(1, 2))) == list(range(20))


def test_colours(tmp_path):
    colour = np.array([200, 120, 40], np.uint8)
    write_video(tmp_path / "orange.mp4", np.broadcast_to(colour, (20, 32, 48, 3)), 8)
    clip = load(one_video(tmp_path, "orange.mp4"))
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == (4, 32, 48, 3)
    np.testing.assert_allclose(clip.frames.mean(axis=(0, 1, 2)), colour, atol=4)


# --- size ---


def test_a_clip_is_scaled_and_cropped(tmp_path):
    write_video(tmp_path / "wide.mp4", numbered_frames(20, 64, 200), 8)
    frames = load(one_video(tmp_path, "wide.mp4", height=32, width=48)).frames
    assert frames.shape == (4, 32, 48, 3)
    whole = load(one_video(tmp_path, "wide.mp4", height=32, width=100)).frames
    np.testing.assert_array_equal(frames, whole[:, :, 26:74])


# --- videos that cannot be used, or only in part ---


@pytest.fixture
def bad(tmp_path) -> Path:
    """A folder of files that are no usable videos."""
    write_video(tmp_path / "short.mp4", numbered_frames(3), 8)
    write_video(tmp_path / "good.mp4", numbered_frames(20), 8)
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "damaged.mp4").write_bytes(whole[:100] + bytes(len(whole) - 100))
    (tmp_path / "words.mp4").write_text("these are words\nand more\n" * 100)
    (tmp_path / "words.txt").write_bytes("schöne Wörter\n".encode("latin-1") * 200)  # ffmpeg shows text as a video
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.wav")
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((32, 48, 3), np.uint8))
    return tmp_path


REASONS = {
    "absent.mp4": "no such file",
    "folder.mp4/in.mp4": "no such file",
    "good.mp4/in.mp4": "Not a directory",
    "folder.mp4": "a folder, not a video",
    "pipe.mp4": "no ordinary file",
    "empty.mp4": "an empty file",
    "words.mp4": "a text file, not a video",
    "words.txt": "a text file, not a video",
    "sound.mp4": "not a video, or damaged",
    "sound.wav": "not a video, or damaged",
    "cut.mp4": "not a video, or damaged",
    "damaged.mp4": "not a video, or damaged",
    "picture.png": "too short: 4 frames with step 1 need 4, and it",
    "short.mp4": "too short: 4 frames with step 1 need 4, and it has 3",
    "x" * 300: "File name too long",
}


def test_what_is_no_usable_video_is_said_and_nothing_else(bad, capfd):
    for name, reason in REASONS.items():
        with pytest.raises(BadItem) as error:
            load(one_video(bad, name))
        assert error.value.path == str(bad / name)
        assert error.value.reason.startswith(reason), name
        copy = pickle.loads(pickle.dumps(error.value))
        assert str(copy) == str(error.value) == f"{copy.path}: {copy.reason}" and "\n" not in str(copy)
    assert capfd.readouterr() == ("", "")  # OpenCV and ffmpeg keep quiet


def test_a_length_that_lies_is_noted_if_enough_frames_are_there(tmp_path):
    write_training_videos(tmp_path, count=1)
    clips = [load(one_video(tmp_path, "video_0.mp4", length=1000, frames=18), seed=seed) for seed in range(20)]
    assert {frame_numbers(clip.frames)[0] for clip in clips} == {0, 1, 2}
    assert {clip.note for clip in clips} == {"has 20 frames, and its length in the CSV is 1000"}
    assert load(one_video(tmp_path, "video_0.mp4")).note is None
    with pytest.raises(BadItem, match="too short: 21 frames with step 1 need 21, and it has 20"):
        load(one_video(tmp_path, "video_0.mp4", length=1000, frames=21))


@pytest.mark.parametrize("name, options", [("cut.mp4", ("-movflags", "faststart")), ("cut.mkv", ())])
def test_of_a_video_that_is_cut_off_the_rest_is_used(tmp_path, name, options):
    noise = np.random.default_rng(0).integers(0, 60, (60, 64, 96, 3), dtype=np.uint8)
    x264 = ("-c:v", "libx264", "-g", "15")
    ffmpeg(*x264, *options, tmp_path / name, frames=numbered_frames(60, 64, 96) // 2 + 50 + noise)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    dataset = one_video(tmp_path, name, length=60)
    clips = [load(dataset, seed=seed) for seed in range(30)]
    notes = {clip.note for clip in clips} - {None}
    (note,) = notes
    there = int(note.removeprefix("ends after ").removesuffix(" of 60 frames"))
    assert 30 < there < 50
    starts = [frame_numbers(clip.frames)[0] for clip in clips]
    assert [frame_numbers(clip.frames) for clip in clips] == [list(range(s, s + 4)) for s in starts]
    assert max(starts) <= there - 4 and len(set(starts)) > 10
    with pytest.raises(BadItem, match=f"too short: 55 frames .* and it ends after {there} of 60 frames"):
        load(one_video(tmp_path, name, length=60, frames=55))


def test_a_changing_frame_rate_is_no_damage(tmp_path):
    write_video(tmp_path / "even.mp4", numbered_frames(90), 30)
    slower = "setpts='if(lt(N,60),N/60/TB,(1+(N-60)/5)/TB)'"
    as_timed = ("-fps_mode", "vfr", "-enc_time_base", "1/1000")
    ffmpeg("-i", tmp_path / "even.mp4", "-vf", slower, *as_timed, tmp_path / "uneven.mp4")
    dataset = one_video(tmp_path, "uneven.mp4", length=90)
    for seed in range(20):
        clip = load(dataset, seed=seed)
        first = frame_numbers(clip.frames)[0]
        assert frame_numbers(clip.frames) == list(range(first, first + 4)) and clip.note is None


def test_bad_videos_among_good_ones_in_the_loader(bad):
    rows = [(name, 20, 1) for name in REASONS if len(name) < 300] + [("good.mp4", 25, 1)]
    dataset = VideoDataset(str(write_csv(bad / "mixed.csv", rows)), **SMALL)
    results = []
    for workers in (0, 2):
        with Loader(dataset, seed=0, batch_size=2, workers=workers) as loader:
            batches = list(islice(loader, 10))
        assert {Path(clip.path).name for batch in batches for clip in batch.items} == {"good.mp4"}
        results.append([(batch.samples, batch.failures, [c.frames.tolist() for c in batch.items]) for batch in batches])
    assert results[0] == results[1]
    failures = [path for _, found, _ in results[0] for path, _ in found]
    assert sorted(failures) == sorted(str(bad / name) for name, *_ in rows)  # the good one's length lies


def test_a_folder_that_is_away_is_no_fault_of_its_videos(tmp_path):
    """And one that was never there is; so is a file that is missing in a folder that is there."""
    (tmp_path / "disk").mkdir()
    write_training_videos(tmp_path / "disk", count=1)
    rows = [("disk/video_0.mp4", 20, 1), ("disk/video_1.mp4", 20, 1), ("dsik/video_0.mp4", 20, 1)]
    dataset = VideoDataset(str(write_csv(tmp_path / "videos.csv", rows)), **SMALL)
    for away in (True, False):
        (tmp_path / "disk").rename(tmp_path / "away") if away else (tmp_path / "away").rename(tmp_path / "disk")
        with pytest.raises(BadItem, match="no such file: there is no folder .*/dsik"):
            load(dataset, 2)
        with pytest.raises(Unavailable if away else BadItem, match="is not there" if away else "no such file"):
            load(dataset, 1)
        if away:
            copy = pickle.loads(pickle.dumps(dataset))  # as a process that begins then gets it
            with pytest.raises(Unavailable, match=r"disk/video_0.mp4: its folder .*/disk is not there"):
                load(copy)
            (tmp_path / "disk").mkdir()  # as where a disk is mounted
            with pytest.raises(Unavailable, match=r"disk/video_0.mp4: its folder .*/disk is empty"):
                load(copy)
            (tmp_path / "disk").rmdir()
    assert frame_numbers(load(dataset, 0).frames)


def test_a_folder_that_is_empty_from_the_start(tmp_path):
    (tmp_path / "disk").mkdir()
    dataset = VideoDataset(str(write_csv(tmp_path / "videos.csv", [("disk/video_0.mp4", 20, 1)])), **SMALL)
    with pytest.raises(BadItem, match="no such file"):
        load(dataset)


def test_folders_are_not_looked_for_without_end(tmp_path, monkeypatch):
    rows = [(f"{index}/a.mp4", 20, 1) for index in range(20)]
    monkeypatch.setattr("svd.data.video_dataset.MOST_FOLDERS", 10)
    dataset = VideoDataset(str(write_csv(tmp_path / "videos.csv", rows)), **SMALL)
    with pytest.raises(Unavailable, match="its folder .* is not there"):
        load(dataset)


def test_no_memory_for_a_clip_is_not_the_videos_fault(tmp_path, monkeypatch):
    write_training_videos(tmp_path, count=1)
    monkeypatch.setattr("svd.data.video_reader.cover", Mock(side_effect=MemoryError))
    with pytest.raises(Unavailable, match="video_0.mp4: there is no memory left to read it"):
        load(one_video(tmp_path, "video_0.mp4"))


# --- the CSV ---


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_as_other_systems_spell_them(tmp_path, form):
    """Backslashes, and accents of their own or joined, where no file has the very name."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    folder = tmp_path / unicodedata.normalize(form, "Möwen")
    folder.mkdir()
    for name in ("Café.mp4", r"a\b.mp4"):
        write_video(tmp_path / "video.mp4", numbered_frames(20), 8)
        (tmp_path / "video.mp4").rename(
            tmp_path / unicodedata.normalize(form, "Möwen") / unicodedata.normalize(form, name)
        )
    names = [unicodedata.normalize(other, "Möwen\\Café.mp4"), unicodedata.normalize(form, "Möwen/a\\b.mp4")]
    dataset = VideoDataset(str(write_csv(tmp_path / "videos.csv", [(name, 20, 1) for name in names])), **SMALL)
    paths = [os.path.relpath(load(dataset, index).path, tmp_path) for index in (0, 1)]
    assert paths == [unicodedata.normalize(form, "Möwen/Café.mp4"), names[1]]


def test_paths_and_columns(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name in ("NA", "1", "with, comma.mp4", "ü.mp4"):
        write_video(tmp_path / "video.mp4", numbered_frames(4), 8)
        (tmp_path / "video.mp4").rename(folder / name)
    csv = tmp_path / "videos.csv"
    lines = ["caption, motion_bucket_id ,path,length", "x,1,NA,4", "", '"a, b",2, 1,4.0', ',3,"with, comma.mp4",4']
    lines += [f"y,4,{folder / 'ü.mp4'},4", "y,4,ü.mp4,4", "", ""]
    csv.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    dataset = VideoDataset(str(csv), str(folder), **SMALL)
    assert [Path(dataset.name(index)).name for index in range(len(dataset))] == [
        "NA", "1", "with, comma.mp4", "ü.mp4", "ü.mp4",
    ]  # fmt: skip
    assert [load(dataset, index).motion_bucket_id for index in range(len(dataset))] == [1, 2, 3, 4, 4]


def test_paths_are_relative_to_the_csv_by_default(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_training_videos(tmp_path / "data", count=1)
    monkeypatch.chdir(tmp_path)
    dataset = VideoDataset("data/videos.csv", **SMALL)
    monkeypatch.chdir("/")
    assert load(dataset).path == str(tmp_path / "data" / "video_0.mp4")


def test_millions_of_rows_are_cheap_to_send(tmp_path):
    csv = write_csv(tmp_path / "many.csv", [(f"video_{i}.mp4", 20, 1) for i in range(10_000)])
    dataset = VideoDataset(str(csv))
    assert len(pickle.dumps(dataset)) < 10_000 * 60
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.name(9_999) == dataset.name(9_999) == str(tmp_path / "video_9999.mp4")


HEADER = "path,length,motion_bucket_id\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "videos.csv: empty; give a CSV file with the columns path, length, motion_bucket_id"),
        ("\n\n", "videos.csv: no column path|videos.csv: empty"),
        (HEADER, "no rows under the header"),
        (HEADER + "\n\n", "no rows under the header"),
        ("path,frames,motion_bucket_id\na.mp4,4,1\n", "no column length; found path, frames, motion_bucket_id; give"),
        ("a.mp4,4,1\n", "no column path and no column length and no column motion_bucket_id; found a.mp4, 4, 1"),
        (HEADER + "a.mp4,20,1\n,20,1\n", "path must not be empty; found '' in line 3"),
        (HEADER + "a.mp4,20,1\n\nb.mp4,long,1\n", "length must be a whole .* found 'long' in line 4"),
        (HEADER + "a.mp4,0,1\n", "found '0' in line 2"),
        (HEADER + "a.mp4,2.5,1\n", "found '2.5' in line 2"),
        (HEADER + "a.mp4,-4,1\n", "length must be"),
        (HEADER + "a.mp4,inf,1\n", "length must be"),
        (HEADER + "a.mp4\n", "length must be a whole .* found '' in line 2"),
        (HEADER + "a.mp4,20,fast\n", "motion_bucket_id must be a number, 0 or more .*; found 'fast' in line 2"),
        (HEADER + "a.mp4,20,\n", "motion_bucket_id must be"),
        (HEADER + "a.mp4,20,nan\n", "motion_bucket_id must be"),
        (HEADER + "a.mp4,20,inf\n", "motion_bucket_id must be"),
        (HEADER + "a.mp4,20,-1\n" * 9, "found '-1' in line 2, '-1' in line 3, '-1' in line 4 and 6 more"),
        (
            "path,length,motion_bucket_id,fps\na.mp4,20,1,0\n",
            "fps must be a positive number, 0.001 to 1000, or empty; found '0'",
        ),
        ("path,length,motion_bucket_id,fps\na.mp4,20,1,x\n", "fps must be"),
        (HEADER + "a, b.mp4,20,1\n", "more fields than the header"),
        (HEADER + "a.mp4,20,1\na, b.mp4,20,1\n", "line 3 has more fields than the header; put paths"),
        (HEADER + '"a.mp4,20,1\n', "not a CSV file"),
        (
            HEADER + "a.mp4,20,1\nb.mp4,50,1\n",
            "every video is too short: 99 frames .* the longest has 50;",
        ),
    ],
)
def test_csv_files_that_are_refused(tmp_path, text, message):
    (tmp_path / "videos.csv").write_text(text)
    frames = 99 if "every video" in message else 4
    with pytest.raises(DatasetError, match=message) as error:
        VideoDataset(str(tmp_path / "videos.csv"), frames=frames)
    assert "\n" not in str(error.value)


def test_what_is_no_csv_file(tmp_path, monkeypatch):
    (tmp_path / "video.mp4").write_bytes(os.urandom(10_000))
    for path, message in (
        (tmp_path / "absent.csv", "absent.csv: no such file; give a CSV file with the columns"),
        (tmp_path, "a folder, not a CSV file"),
        (tmp_path / "video.mp4", "video.mp4: not a CSV file"),
    ):
        with pytest.raises(DatasetError, match=message) as error:
            VideoDataset(str(path))
        assert "\n" not in str(error.value)
    monkeypatch.setattr(csv_rows, "open", Mock(side_effect=PermissionError(13, "denied")), raising=False)
    with pytest.raises(DatasetError, match="may not be read; change its permissions"):
        VideoDataset(str(write_csv(tmp_path / "secret.csv", [("a.mp4", 20, 1)])))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"frames": 1}, "frames must be at least 2"),
        ({"step": 0}, "step must be positive, got 0"),
        ({"frames": 10**9}, "frames must be 1024 at most"),
        ({"height": 10**9}, "height must be 8192 at most"),
        ({"height": 0}, "height must be positive"),
        ({"width": -8}, "width must be positive"),
        ({"data_dir": "/no/such/folder"}, "data_dir /no/such/folder: no such folder"),
    ],
)
def test_arguments_that_are_refused(tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        VideoDataset(str(write_csv(tmp_path / "videos.csv", [("a.mp4", 20, 1)])), **options)
