"""Videos are written whole or not at all, at their size, speed and colours, and never over one another."""

import os
import subprocess
from pathlib import Path
from unittest.mock import Mock

import av
import cv2
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image, ImageSequence

from svd.data import videos
from svd.data.video_reader import open_video
from svd.data.videos import VideoError, write_frames, write_video


def moving(frames: int = 8, height: int = 96, width: int = 160) -> np.ndarray:
    """Coloured waves that travel: uint8 [t h w 3], the red and blue channels clearly different."""
    t, y, x = np.mgrid[:frames, :height, :width]
    red, green, blue = np.sin((x + 3 * t) / 20), np.cos((y - 2 * t) / 15), np.sin((x + y) / 25)
    return (np.stack([160 + 90 * red, 100 + 90 * green, 80 + 60 * blue], -1)).astype(np.uint8)


def read(path: Path) -> tuple[np.ndarray, float]:
    """All frames of a video, uint8 RGB [t h w 3], and its frames per second."""
    with open_video(str(path)) as video:
        return np.stack([video.picture(frame).pixels for frame in video.frames()]), video.fps


def read_with_ffmpeg(path: Path, height: int, width: int) -> np.ndarray:
    """The same frames, as the ffmpeg program reads them."""
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    output = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(output, np.uint8).reshape(-1, height, width, 3)


def read_gif(path: Path) -> tuple[np.ndarray, list[int], int]:
    """All frames of a GIF, their durations in milliseconds, and how often it is repeated (0: for ever)."""
    with Image.open(path) as image:
        shown = [(np.array(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]
        return np.stack([frame for frame, _ in shown]), [d for _, d in shown], image.info["loop"]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels."""
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


# --- mp4 ---


@pytest.mark.parametrize("fps", [7, 0.5, 23.976, 60])
def test_mp4_reads_back(tmp_path, fps):
    frames = moving()
    write_video(tmp_path / "waves.mp4", frames, fps)
    result, result_fps = read(tmp_path / "waves.mp4")
    assert result.shape == frames.shape
    assert result_fps == pytest.approx(fps, abs=0.01)
    assert psnr(result, frames) > 35
    assert np.abs((result.astype(float) - frames).mean(axis=(0, 1, 2))).max() < 3  # no cast of colour


@pytest.mark.parametrize("frames, height, width", [(1, 64, 64), (3, 63, 65), (14, 16, 16), (2, 1, 1), (2, 2, 50)])
def test_mp4_of_any_size(tmp_path, frames, height, width):
    video = moving(frames, height, width)
    write_video(str(tmp_path / "small.MP4"), video, 7)
    result, _ = read(tmp_path / "small.MP4")
    even = height + height % 2, width + width % 2
    assert result.shape == (frames, *even, 3)
    if min(height, width) > 16:
        assert psnr(result[:, :height, :width], video) > 35
        assert psnr(result[:, -1, :width], video[:, -1]) > 30  # the added row repeats the last


def test_mp4_says_how_its_colours_are_coded(tmp_path):
    write_video(tmp_path / "waves.mp4", moving(2), 7)
    ffmpeg = subprocess.run([get_ffmpeg_exe(), "-i", tmp_path / "waves.mp4"], capture_output=True, text=True)
    assert "h264" in ffmpeg.stderr and "yuv420p(tv, bt709, " in ffmpeg.stderr  # matrix, primaries and transfer
    with av.open(str(tmp_path / "waves.mp4")) as container:
        said = container.streams.video[0].codec_context
        assert [said.colorspace, said.color_primaries, said.color_trc, said.color_range] == [1, 1, 1, 1]


@pytest.mark.parametrize("height, width", [(64, 96), (720, 1280)])
def test_mp4_colours_come_back(tmp_path, height, width):
    colours = np.array([[220, 30, 30], [30, 200, 40], [30, 40, 210], [128, 128, 128], [255, 255, 255], [0, 0, 0]])
    frames = np.broadcast_to(colours[:, None, None], (6, height, width, 3)).astype(np.uint8)
    write_video(tmp_path / "colours.mp4", frames, 7)
    ours, theirs = read(tmp_path / "colours.mp4")[0], read_with_ffmpeg(tmp_path / "colours.mp4", height, width)
    for result in (ours, theirs):
        np.testing.assert_allclose(result.mean(axis=(1, 2)), colours, atol=3)


def test_mp4_names_that_mean_something_to_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("file:a 50%d.mp4", "-y.mp4", "ü.mp4"):
        write_video(name, moving(2), 7)
        assert len(read(tmp_path / name)[0]) == 2
    assert len(os.listdir(tmp_path)) == 3


def test_what_ffmpeg_does_not_finish_is_an_error(tmp_path, monkeypatch):
    for ended in (lambda _: (3, 0.4), Mock(side_effect=RuntimeError("moov atom not found"))):
        monkeypatch.setattr(videos, "count_frames_and_secs", ended)
        with pytest.raises(OSError, match=r"ffmpeg could not write the video; \d+ MB") as error:
            write_video(tmp_path / "waves.mp4", moving(), 7)
        assert "\n" not in str(error.value)
        assert os.listdir(tmp_path) == []


def test_ffmpeg_that_does_not_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "false")
    with pytest.raises(OSError, match="IMAGEIO_FFMPEG_EXE"):
        write_video(tmp_path / "waves.mp4", moving(100), 7)
    assert os.listdir(tmp_path) == []


# --- gif ---


@pytest.mark.parametrize(
    "fps, durations",
    [
        (7, [140, 150, 140, 140, 140, 150, 140, 140]),
        (10, [100] * 8),
        (30, [30, 40, 30, 30, 40, 30, 30, 40]),
        (50, [20] * 8),
        (100, [20] * 8),  # browsers slow down anything shorter
        (0.5, [2000] * 8),
    ],
)
def test_gif_runs_at_the_right_speed_for_ever(tmp_path, fps, durations):
    write_video(tmp_path / "waves.gif", moving(), fps)
    frames, shown, loop = read_gif(tmp_path / "waves.gif")
    assert frames.shape == (8, 96, 160, 3)
    assert np.abs(np.subtract(shown, durations)).max() <= 10
    assert sum(shown) == pytest.approx(sum(durations), abs=10)
    assert loop == 0


def test_gif_colours(tmp_path):
    frames = moving()
    write_video(tmp_path / "waves.gif", frames, 7)
    result, _, _ = read_gif(tmp_path / "waves.gif")
    assert psnr(result, frames) > 26  # 256 colours, dithered
    from_afar = [cv2.blur(frame, (9, 9)) for frame in result], [cv2.blur(frame, (9, 9)) for frame in frames]
    assert psnr(*map(np.stack, from_afar)) > 36


def test_gif_of_few_colours_is_exact_and_what_stands_still_is_shown_longer(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (100, 3), dtype=np.uint8)
    frames = colours[rng.integers(0, 100, (4, 32, 32))]
    frames[2] = frames[1]
    write_video(tmp_path / "few.gif", frames, 10)
    result, shown, _ = read_gif(tmp_path / "few.gif")
    np.testing.assert_array_equal(result, frames[[0, 1, 3]])
    assert shown == [100, 200, 100]


# --- refusals and failures ---


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"waves{suffix}"
    path.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            write_video(path, moving(), 7)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [path.name]
    write_video(path, moving(), 7)
    assert path.read_bytes() != b"old" and os.listdir(tmp_path) == [path.name]


def test_a_full_disk_half_way_through_leaves_nothing(tmp_path, monkeypatch):
    save, saved = Image.Image.save, []

    def save_two(image, path, **options):
        save(image, path, **options)
        saved.append(Path(path))
        if len(saved) in (2, 3):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save_two)
    with pytest.raises(OSError, match="No space left"):
        write_frames(tmp_path / "frames", moving())
    with pytest.raises(OSError, match="No space left"):
        write_video(tmp_path / "waves.gif", moving(), 7)
    assert len(saved) == 3 and all(path.is_relative_to(tmp_path) for path in saved)
    assert os.listdir(tmp_path) == []


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    previous = os.umask(0o022)
    try:
        for name in ("a.mp4", "a.gif"):
            write_video(tmp_path / name, moving(2), 7)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(previous)


@pytest.mark.parametrize(
    "name, frames, fps, message",
    [
        ("a.avi", moving(2), 7, "choose .mp4 or .gif"),
        ("a", moving(2), 7, "choose .mp4 or .gif"),
        ("a.mp4", moving(2), 0, "positive"),
        ("a.mp4", moving(2), float("nan"), "positive"),
        ("a.mp4", moving(2) / 255, 7, "float64"),
        ("a.gif", moving(2)[0], 7, r"\[96, 160, 3\]"),
        ("a.gif", moving(2)[:0], 7, r"\[0, 96, 160, 3\]"),
        ("nowhere/a.mp4", moving(2), 7, "no such folder"),
    ],
)
def test_what_is_refused(tmp_path, name, frames, fps, message):
    with pytest.raises(VideoError, match=message) as error:
        write_video(tmp_path / name, frames, fps)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


# --- frames ---


def test_frames_read_back_bit_for_bit(tmp_path):
    frames = moving(3)
    write_frames(tmp_path / "waves", frames)
    assert os.listdir(tmp_path) == ["waves"]
    files = sorted((tmp_path / "waves").iterdir())
    assert [file.name for file in files] == ["frame_0000.png", "frame_0001.png", "frame_0002.png"]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), frames)
    with pytest.raises(VideoError, match="exists already"):
        write_frames(tmp_path / "waves", frames)
