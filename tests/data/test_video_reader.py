"""The frames of a file are the right ones at the right times, and what cannot be read is told apart."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import av
import cv2
import numpy as np
import pytest
from training_videos import ffmpeg, frame_numbers, numbered_frames

from svd.data import item_file, video_reader
from svd.data.dataset import BadItem, Unavailable
from svd.data.video_reader import open_video

X264 = ("-c:v", "libx264", "-crf", "6", "-g", "10", "-bf", "2")


# --- which frames, and when ---


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_av1(tmp_path, suffix):
    codec = ("-c:v", "libaom-av1", "-cpu-used", "8", "-g", "5", "-crf", "20")
    ffmpeg(*codec, tmp_path / f"a{suffix}", frames=numbered_frames(12, 64, 96))
    with open_video(str(tmp_path / f"a{suffix}")) as video:
        for start in (0, 3, 5, 9):
            assert frame_numbers(video.read(start, 3, 1, 64, 96).frames) == [start, start + 1, start + 2]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "suffix, disposition",
    [(".mkv", "default"), (".mkv", "0"), (".mkv", "attached_pic"), (".mp4", "attached_pic")],
)
def test_a_picture_beside_the_video(tmp_path, suffix, first, disposition):
    cv2.imwrite(str(tmp_path / "cover.png"), np.full((256, 256, 3), 120, np.uint8))
    ffmpeg(*X264, tmp_path / "video.mp4", frames=numbered_frames(40, 64, 96))
    picture = 0 if first else 1
    maps = ("-map", "1", "-map", "0") if first else ("-map", "0", "-map", "1")
    ffmpeg(
        *("-i", tmp_path / "video.mp4", "-i", tmp_path / "cover.png", *maps, "-c", "copy"),
        *(f"-disposition:{picture}", disposition, f"-disposition:{1 - picture}", "0", tmp_path / f"both{suffix}"),
    )
    with open_video(str(tmp_path / f"both{suffix}")) as video:
        assert frame_numbers(video.read(0, 36, 1, 64, 96).frames) == list(range(36))
        assert frame_numbers(video.read(17, 3, 2, 64, 96).frames) == [17, 19, 21]


WAVY = "settb=1/90000,setpts='if(lt(N,40),N/30/TB,if(lt(N,60),(4/3+(N-40)/5)/TB,(16/3+(N-60)/30)/TB))'"
AS_TIMED = ("-fps_mode", "passthrough", "-enc_time_base", "1/90000")


@pytest.mark.parametrize("name", ["wavy.mp4", "wavy.mkv"])
def test_a_frame_rate_that_changes(tmp_path, name):
    """Thirty frames a second, then five, then thirty: every clip has the frames and the frame rate of its place."""
    ffmpeg("-vf", WAVY, *AS_TIMED, *X264, tmp_path / name, frames=numbered_frames(100, 64, 96))
    with open_video(str(tmp_path / name)) as video:
        for start, rate in ((0, 30), (20, 30), (45, 5), (50, 5), (66, 30), (90, 30)):
            cut = video.read(start, 6, 1, 64, 96)
            assert frame_numbers(cut.frames) == list(range(start, start + 6))
            assert cut.rate == pytest.approx(rate, rel=0.01)
        assert video.read(95, 6, 1, 64, 96) is None and video.length == 100


def test_a_frame_rate_that_holds_is_the_stated_one(tmp_path):
    """Exactly, although an .mkv counts milliseconds."""
    for name in ("a.mp4", "a.mkv"):
        ffmpeg("-r", "24000/1001", *X264, tmp_path / name, frames=numbered_frames(30))
        with open_video(str(tmp_path / name)) as video:
            assert video.fps == 24000 / 1001
            assert {video.read(start, 2, 3, 32, 48).rate for start in range(12)} == {video.fps}


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("b.avi", ("-c:v", "mpeg4", "-bf", "2", "-g", "12", "-q:v", "2")),
        ("b_264.avi", X264),
        ("old.wmv", ("-c:v", "wmv2", "-q:v", "2")),
        ("old.mpg", ("-c:v", "mpeg1video", "-bf", "2", "-q:v", "2")),
        ("old.flv", ("-c:v", "flv1", "-g", "15", "-q:v", "2")),
        ("x264.flv", X264),
        ("vp9.webm", ("-c:v", "libvpx-vp9", "-g", "20", "-auto-alt-ref", "1", "-lag-in-frames", "12")),
        ("live.webm", ("-c:v", "libvpx", "-g", "20", "-live", "1")),
        ("x265.mp4", ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=20:bframes=4")),
        ("fragments.mp4", (*X264, "-movflags", "frag_keyframe+empty_moov")),
        ("refresh.mp4", ("-c:v", "libx264", "-g", "20", "-x264-params", "intra-refresh=1")),
        ("lossless.mkv", ("-c:v", "ffv1")),
        ("moving.gif", ("-filter_complex", "[0]split[a][b];[a]palettegen[p];[b][p]paletteuse")),
    ],
)
def test_frames_of_all_kinds_of_files(tmp_path, name, arguments):
    frames = numbered_frames(60, 64, 96)
    noise = np.random.default_rng(0).integers(-20, 20, frames.shape)
    ffmpeg(*arguments, tmp_path / name, frames=np.clip(frames + noise, 0, 255).astype(np.uint8))
    with open_video(str(tmp_path / name)) as video:
        for start in (0, 1, 2, 11, 19, 20, 21, 38, 56, 0):
            assert frame_numbers(video.read(start, 2, 3, 64, 96).frames) == [start, start + 3]
        assert video.read(57, 2, 3, 64, 96) is None and video.length == 60


def test_an_avi_without_its_index(tmp_path):
    ffmpeg("-c:v", "mjpeg", "-q:v", "2", tmp_path / "a.avi", frames=numbered_frames(40, 64, 96))
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: whole.rindex(b"idx1")])
    with open_video(str(tmp_path / "a.avi")) as video:
        for start in (0, 1, 17, 36):
            assert frame_numbers(video.read(start, 2, 3, 64, 96).frames) == [start, start + 3]


def test_a_stream_that_begins_between_key_frames_and_one_whose_clock_is_set_back(tmp_path):
    ffmpeg("-c:v", "libx264", "-g", "20", tmp_path / "a.ts", frames=numbered_frames(60, 64, 96))
    whole = (tmp_path / "a.ts").read_bytes()
    packets = len(whole) // 188
    (tmp_path / "late.ts").write_bytes(whole[packets // 5 * 188 :])
    (tmp_path / "twice.ts").write_bytes(whole + whole)
    for name in ("late.ts", "twice.ts"):
        with open_video(str(tmp_path / name)) as video:
            there = frame_numbers(np.stack([video.picture(frame).pixels for frame in video.frames()]))
            for start in range(0, len(there) - 5, 7):
                assert frame_numbers(video.read(start, 2, 3, 64, 96).frames) == [there[start], there[start + 3]]


def test_one_thread_is_used(tmp_path):
    """There are as many processes as are wanted."""
    ffmpeg(*X264, tmp_path / "a.mp4", frames=numbered_frames(30, 64, 96))
    script = (
        "import sys, os; from svd.data.video_reader import open_video; import cv2; cv2.setNumThreads(1)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "with open_video(sys.argv[1]) as video:\n"
        "    video.read(12, 3, 1, 32, 48)\n"
        "    print(len(os.listdir('/proc/self/task')) - before)"
    )
    output = subprocess.run([sys.executable, "-c", script, tmp_path / "a.mp4"], capture_output=True, text=True)
    assert output.stdout == "0\n", output.stderr


def test_tracks_that_turn_up_later(tmp_path):
    """PyAV ends with an error where a damaged stream has more of them than its beginning tells."""
    ffmpeg(*X264, tmp_path / "a.ts", frames=numbered_frames(40, 64, 96))
    with open_video(str(tmp_path / "a.ts")) as video:
        container = video._container

        def demux(stream):
            yield from container.demux(stream)
            raise IndexError("list index out of range")

        video._container = SimpleNamespace(demux=demux, close=container.close)
        assert len(list(video.frames())) == 40


# --- what cannot be read ---


def test_files_that_name_others_open_none_of_them(tmp_path):
    ffmpeg(*X264, tmp_path / "a.ts", frames=numbered_frames(30))
    lists = {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/a.ts\n#EXT-X-ENDLIST\n\0",
        "concat.mp4": f"ffconcat version 1.0\nfile {tmp_path}/a.ts\n\0",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(BadItem, match="not a video, or damaged"), open_video(str(tmp_path / name)):
            pass


def test_a_length_beyond_all_bounds(tmp_path, monkeypatch):
    """Is found out by reading, not by making a list of it."""
    ffmpeg(*X264, tmp_path / "a.ts", frames=numbered_frames(30))
    with open_video(str(tmp_path / "a.ts")) as video:
        assert video.read(2**50, 2, 1, 32, 48) is None and video.length == 30


def limited(path: Path, megabytes: int) -> str:
    """What becomes of a clip in a process that may take so much more memory."""
    script = (
        "import resource, sys; import numpy as np; import svd.data.video_reader as reader\n"
        "from svd.data.dataset import BadItem, Unavailable\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[2]) * 2**20,) * 2)\n"
        "try:\n"
        "    with reader.open_video(sys.argv[1]) as video: print('read', video.read(8, 12, 1, 64, 64) is not None)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", script, str(path), str(megabytes)]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    ).stdout


@pytest.mark.parametrize("megabytes", [1, 4, 7, 10, 20])
def test_no_memory_is_not_the_files_fault(tmp_path, megabytes):
    noise = np.random.default_rng(0).integers(0, 256, (24, 540, 960, 3), dtype=np.uint8)
    ffmpeg("-c:v", "libx264", "-preset", "ultrafast", tmp_path / "a.mp4", frames=noise)
    found = limited(tmp_path / "a.mp4", megabytes)
    assert found == "read True\n" or found.startswith("Unavailable") and "no memory" in found, found


def test_a_file_that_asks_for_all_memory_is_damaged(tmp_path, monkeypatch):
    """FFmpeg has no memory for an absurd number in a header, however much there is."""
    ffmpeg(*X264, tmp_path / "a.mp4", frames=numbered_frames(12))
    monkeypatch.setattr(video_reader.av, "open", Mock(side_effect=av.error.MemoryError(12, "Cannot allocate memory")))
    with pytest.raises(BadItem, match="damaged: it asks for more memory"), open_video(str(tmp_path / "a.mp4")):
        pass


def test_an_error_of_the_disk_half_way_is_not_the_files_fault(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3), dtype=np.uint8)
    ffmpeg("-c:v", "libx264", "-crf", "1", tmp_path / "a.mp4", frames=noise)

    class Failing(io.FileIO):
        def read(self, size=-1):
            if self.tell() > 2**19:
                raise OSError(5, "Input/output error")
            return super().read(size)

    monkeypatch.setattr(item_file, "open", lambda path, *_, **__: Failing(path), raising=False)
    with pytest.raises(Unavailable, match="a.mp4: Input/output error"), open_video(str(tmp_path / "a.mp4")) as video:
        video.read(0, 40, 1, 32, 48)


def test_what_opencv_fails_at_is_a_bad_item(tmp_path, monkeypatch):
    ffmpeg(*X264, tmp_path / "a.mp4", frames=numbered_frames(12))
    monkeypatch.setattr(video_reader, "cover", Mock(side_effect=cv2.error("of\nsome kind")))
    refused = pytest.raises(BadItem, match=r"OpenCV cannot scale it \(of some kind\)")
    with refused, open_video(str(tmp_path / "a.mp4")) as video:
        video.read(0, 2, 1, 32, 48)
