"""`svd long-video` and `svd interpolate`: what is written, that killed work goes on, one line for whatever is wrong.

In this process and in pynative mode, with tiny random models, which are kept from run to run.
"""

import errno
import os
import re
import signal
import subprocess
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image
from small_text_model import write_text_checkpoint
from text_training import TINY_VIDEO
from training_videos import numbered_frames

from svd import build
from svd.config import TemporalConfig, TextSamplingConfig, VideoLDMLayers
from svd.data.segments import SegmentedVideo
from svd.data.video_reader import open_video
from svd.data.videos import write_video
from svd.data.whole_video import inspect
from svd_tools import interpolate, long_video

ROOT = Path(__file__).parents[1]
LAYERS = VideoLDMLayers(frames=True, fps=True, motion=True)
SAMPLING = TextSamplingConfig(num_frames=6, height=8, width=8, fps=16, sampling_steps=1, spacing="trailing")
KEYS = replace(TINY_VIDEO, temporal=TemporalConfig(video_ldm=LAYERS), sampling=SAMPLING)
BETWEEN = replace(
    KEYS,
    temporal=TemporalConfig(video_ldm=replace(LAYERS, motion=False, rates=[4, 16])),
    sampling=replace(SAMPLING, num_frames=17),
)
PLAIN = replace(KEYS, temporal=TemporalConfig(video_ldm=VideoLDMLayers()))
CONFIGS = {"prediction": KEYS, "interpolation": BETWEEN, "plain": PLAIN}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = {name: write_text_checkpoint(folder / f"{name}.safetensors", config) for name, config in CONFIGS.items()}
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "three.png")
    write_video(folder / "clip.mp4", numbered_frames(6, 17, 26), 5)
    write_video(folder / "one.mp4", numbered_frames(1), 5)
    return paths | {"folder": folder}


@pytest.fixture(scope="module")
def kept() -> dict:
    return {}


@pytest.fixture
def cli(eager, models, kept, monkeypatch, capsys, tmp_path):
    """cli(program, *flags) runs a program with its tiny models: (exit code, paths, lines of standard error)."""
    load_pipeline = build.load_pipeline

    def load(config, checkpoint, *args, **options):
        if checkpoint not in kept:
            kept[checkpoint] = load_pipeline(config, checkpoint, *args, **options)
        pipe = copy(kept[checkpoint])
        pipe.config = config
        return pipe

    monkeypatch.setattr(build, "load_pipeline", load)

    def run(program, *flags: str) -> tuple[int, list[Path], list[str]]:
        code = program.main([*arguments(program, models, tmp_path / "out"), *map(str, flags)])
        captured = capsys.readouterr()
        return code, list(map(Path, captured.out.splitlines())), re.split("[\r\n]+", captured.err.strip("\r\n"))

    return run


def arguments(program, models: dict[str, Path], out: Path) -> list[str]:
    flags = ["--mode=1", f"--output_dir={out}"]
    if program is interpolate:
        return [*flags, f"--model.checkpoint={models['interpolation']}", f"--video={models['folder'] / 'clip.mp4'}"]
    flags += [f"--model.{name}={models[name]}" for name in long_video.MODELS]
    return [*flags, f"--image={models['folder'] / 'three.png'}", "--seconds=4"]


def frames_of(path: Path) -> np.ndarray:
    video = inspect(str(path))
    with open_video(str(path)) as file:
        return file.read(0, video.frames, 1, video.height, video.width).frames


def test_a_long_video(cli, models, tmp_path):
    code, paths, err = cli(long_video)
    assert code == 0, err
    assert [path.suffix for path in paths] == [".mp4", ".yaml"] and paths[0].name.startswith("three_seed0_")
    made = inspect(str(paths[0]))
    assert (made.frames, made.fps, made.height, made.width) == (64, 16, 8, 8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    before = paths[0].read_bytes(), paths[0].stat().st_mtime_ns
    assert cli(long_video)[1] == paths  # there already
    assert (paths[0].read_bytes(), paths[0].stat().st_mtime_ns) == before
    side = yaml.safe_load(paths[1].read_text())
    assert side["seconds"] == 4 and paths[1].read_text().startswith("# Repeat this video with:")
    code, again, err = cli(long_video, f"--config={paths[1]}", f"--output_dir={tmp_path}/again")
    assert code == 0 and again[0].read_bytes() == before[0]


def test_options_change_the_result(cli, tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text("- {time: 0.5, motion: 255}\n- {time: 1, prompt: a cat}\n")
    for_itself = {
        "nothing": [],
        "seed": ["--seed=1"],
        "labels": [f"--labels={labels}"],
        "guidance": ["--context_guidance=2"],
        "noise": ["--context_noise=200"],
        "prompt": ["--prompt=the dog"],
        "words": ["--image=", "--prompt=the dog"],
        "guided": ["--image=", "--prompt=the dog", "--sampling.guidance=2"],
        "motion": ["--sampling.motion_bucket_id=3"],
        "steps": ["--sampling.sampling_steps=2"],
    }
    videos = {}
    for name, flags in for_itself.items():
        code, paths, err = cli(long_video, "--seconds=1.5", *flags)
        assert code == 0, err
        videos[name] = frames_of(paths[0]).astype(int)
    names = list(videos)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert np.abs(videos[one] - videos[other]).max() > 1, (one, other)
    assert np.array_equal(videos["labels"][:1], videos["nothing"][:1])  # they begin later


class Killed(BaseException):
    pass


def stop_after(monkeypatch, appends: int) -> None:
    """Let the n-th segment be written in half, and nothing after that."""
    append, count = SegmentedVideo.append, iter(range(10**6))

    def half(self, frames):
        if len(frames) and next(count) == appends:
            with open(self.path, "ab") as file:
                file.write(b"\0\0\1half a segment")
            raise Killed
        return append(self, frames)

    monkeypatch.setattr(SegmentedVideo, "append", half)


@pytest.mark.parametrize(("program", "segments"), [(long_video, 4), (interpolate, 2)])
def test_stopped_work_ends_with_the_same_bytes(cli, monkeypatch, tmp_path, program, segments):
    flags = ["--decode_chunk_size=16"] if program is long_video else ["--decode_chunk_size=12"]
    code, paths, err = cli(program, *flags)
    assert code == 0, err
    whole = paths[0].read_bytes()
    for appends in range(segments):
        out = f"--output_dir={tmp_path}/stopped{appends}"
        with monkeypatch.context() as patch:
            stop_after(patch, appends)
            with pytest.raises(Killed):
                cli(program, *flags, out)
        left = [path.suffix for path in (tmp_path / f"stopped{appends}").iterdir()]
        assert left == [".part"]
        code, paths, err = cli(program, *flags, out)
        assert code == 0 and any("continuing after" in line for line in err) == (appends > 0)
        assert paths[0].read_bytes() == whole


def test_a_killed_process(cli, models, tmp_path):
    """kill -9 while it writes; the same command continues, in another process."""
    argv = [sys.executable, "-m", "svd", "long-video", *arguments(long_video, models, tmp_path / "out"), "--seconds=20"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        sizes = set()
        while len(sizes) < 3:  # nothing, a segment, and another one, before which the first was recorded
            sizes |= {path.stat().st_size for path in tmp_path.glob("out/*.part/frames.h264")}
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
    code, paths, err = cli(long_video, "--seconds=20")
    assert code == 0 and any("continuing after" in line for line in err), err
    code, whole, err = cli(long_video, "--seconds=20", f"--output_dir={tmp_path}/whole")
    assert code == 0 and not any("continuing after" in line for line in err)
    assert paths[0].read_bytes() == whole[0].read_bytes()


def test_an_interpolated_video(cli, models, tmp_path):
    """Four times the frames in the same time; sides that the model does not take are padded, and cropped again."""
    code, paths, err = cli(interpolate)
    assert code == 0, err
    made = inspect(str(paths[0]))
    assert (made.frames, made.fps, made.height, made.width) == (24, 20, 18, 26)  # 17 pixels are 18 in the given file
    code, sixteen, err = cli(interpolate, "--factor=16")
    assert code == 0 and inspect(str(sixteen[0])).frames == 96
    given = frames_of(sixteen[0])[::16].astype(int) - frames_of(paths[0])[::4]
    assert np.abs(given).mean() < 10  # given frames are the same, but for the compression


def test_audio_is_kept(cli, models, tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=5), container.add_stream("aac", rate=8000)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for frame in numbered_frames(6):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(video.encode())
        samples = np.sin(np.arange(9600) / 5).astype(np.float32)[None]
        for start in range(0, 9600, 1024):
            part = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = 8000, start
            container.mux(sound.encode(part))
        container.mux(sound.encode())
    code, paths, err = cli(interpolate, f"--video={path}")
    assert code == 0, err
    heard = []
    for source in (path, paths[0]):
        with av.open(str(source)) as container:
            heard.append(np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1))
    np.testing.assert_array_equal(*heard)
    assert inspect(str(paths[0])).frames == 24


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds=0"], "--seconds must be positive, got 0"),
        (["--seconds=.nan"], "--seconds must be positive, got nan"),
        (["--seconds=.inf"], "--seconds must be positive, got inf"),
        (["--image="], "--image or --prompt is missing"),
        (["--image=nowhere.png"], "nowhere.png"),
        (["--model.prediction="], "--model.prediction is missing: the weights, as `svd train --train.task=prediction`"),
        (["--model.interpolation={plain}"], "is of a model that is given no frames"),
        (["--context_noise=1001"], r"context_noise must be 0 to 1000, got 1001 \(--context_noise\)"),
        (["--context_guidance=-1"], r"context_guidance must be 0 to 1000, got -1.0 \(--context_guidance\)"),
        (["--sampling.height=9", "--sampling.fps=0"], "fps must be positive"),
        (["--sampling.guidance=3"], "--sampling.guidance is for a first frame that is drawn from words"),
        (["--labels=nowhere.yaml"], "--labels nowhere.yaml cannot be read"),
    ],
)
def test_what_a_long_video_cannot_be_of(cli, models, tmp_path, flags, message):
    code, out, err = cli(long_video, *(flag.format(**models) for flag in flags))
    assert code == 2 and not out and re.search(message, err[-1]), err
    assert not list(tmp_path.glob("out/*.mp4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "has to be a list of 1 to"),
        ("time: 3", "has to be a list of 1 to"),
        ("- {time: 3}", "label 1 has to have a time, and a prompt or motion"),
        ("- {time: 3, colour: red}", "label 1 has to have a time, and a prompt or motion"),
        ("- {time: -1, motion: 3}", "time has to be a number from 0"),
        ("- {time: 3, motion: fast}", "motion has to be a number from 0"),
        ("- {time: 3, prompt: [a]}", "prompt has to be text"),
        ("- {time: 3, motion: 1}\n- {time: 3, motion: 2}", "label 2: time 3 does not follow 3"),
    ],
)
def test_labels_that_cannot_be(cli, tmp_path, text, message):
    (tmp_path / "labels.yaml").write_text(text)
    code, _, err = cli(long_video, f"--labels={tmp_path}/labels.yaml")
    assert code == 2 and message in err[-1], err


def test_absurd_lengths_are_refused_with_what_they_would_take(cli, tmp_path):
    code, _, err = cli(long_video, "--seconds=1e9")
    assert code == 2
    extent = r"seconds is 1e\+09: 16,000,000,000 frames would take about .* (years|days) and make a file of about .* GB"
    assert re.search(extent + r"; at most 24 hours are made", err[-1]), err[-1]
    assert not list((tmp_path / "out").iterdir())


def test_a_full_drive(cli, monkeypatch):
    def full(self, frames):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SegmentedVideo, "append", full)
    code, _, err = cli(long_video)
    assert code == 2 and "No space left on device; make room there, and the same command continues" in err[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--factor=3"], "--factor must be 4 or 16, got 3"),
        (["--video="], "--video is missing"),
        (["--video=nowhere.mp4"], "nowhere.mp4"),
        (["--video={folder}/one.mp4"], "one.mp4: has 1 frame: nothing is between frames"),
        (["--video={folder}/three.png"], "three.png"),
        (["--video={folder}/damaged.mp4"], "damaged.mp4: damaged: frame 4 cannot be decoded"),
        (["--model.checkpoint={plain}"], "is of a model that is given no frames"),
        (["--sampling.motion_bucket_id=3"], "the model is not told how much moves"),
    ],
)
def test_what_cannot_be_interpolated(cli, models, flags, message):
    source = models["folder"] / "clip.mp4"
    with av.open(str(source)) as container:
        (packet,) = [p for p in container.demux(video=0) if p.size and round(float(p.pts * p.time_base) * 5) == 3]
        place = packet.pos
    damaged = bytearray(source.read_bytes())
    damaged[place : place + packet.size] = b"\xff" * packet.size
    (models["folder"] / "damaged.mp4").write_bytes(damaged)
    code, out, err = cli(interpolate, *(flag.format(**models) for flag in flags))
    assert code == 2 and not out and re.search(message, err[-1]), err
