"""svd extend and svd reconstruct: what they read and write, and what they refuse."""

import os
from dataclasses import replace

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image
from small_checkpoint import random_tensors, write_checkpoint

import svd
from svd.config import PixelSamplingConfig, VideoDiffusionConfig
from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig
from svd.data.moving_mnist import MovingMNIST
from svd.data.videos import write_video
from svd_tools import extend, reconstruct

SAMPLING = PixelSamplingConfig(num_frames=4, height=16, width=16, sampling_steps=2)
UNET = PixelUNetConfig(1, 32, [1, 2], 1, [2], num_head_channels=16)
VIDEO = VideoDiffusionConfig(UNET, PixelTemporalConfig(FactorisedAttention()), sampling=SAMPLING)
EAGER = ["--mode=1", "--device_target=CPU"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, clips of Moving MNIST, and a folder of a video."""
    folder = tmp_path_factory.mktemp("pixels")
    write_checkpoint(folder / "model.safetensors", random_tensors(VIDEO), VIDEO)
    rng = np.random.default_rng(0)
    np.save(folder / "clips.npy", rng.integers(0, 256, (20, 30, 64, 64), np.uint8))
    (folder / "videos").mkdir()
    frames = rng.integers(0, 256, (5, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(folder / "videos" / "a.mp4", frames, 8)
    return folder


def run(program, folder, tmp_path, capsys, *more: str) -> list[str]:
    source = [f"--model.checkpoint={folder / 'model.safetensors'}", f"--output_dir={tmp_path}", *EAGER]
    code = program.main([*source, "--video", str(folder / "clips.npy"), *more])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out.split()


def frames_of(folder: str) -> np.ndarray:
    """The frames in a folder, [t h w]."""
    paths = sorted(os.listdir(folder))
    return np.stack([np.asarray(Image.open(f"{folder}/{path}"))[..., 0] for path in paths])


def test_videos_are_extended_side_by_side_and_again(eager, folder, tmp_path, capsys):
    options = ["--num_videos=3", "--frames=9", "--seed=3", "--weight=2", "--format", "png"]
    written, beside = run(extend, folder, tmp_path, capsys, *options)
    shown = frames_of(written)
    assert shown.shape == (9, 32, 32) and not shown[:, 16:, 16:].any()
    clips = MovingMNIST(str(folder / "clips.npy"), frames=4, size=16, part="test")
    videos = np.stack([clips.load(index).frames[..., :1] for index in range(3)])
    pipe = svd.load_pipeline(checkpoint=folder / "model.safetensors", device_target="CPU", mode=1)
    expected = pipe.extend(videos, 9, overlap=1, weight=2.0, seed=3, progress=False)
    np.testing.assert_array_equal(shown[:, :16, 16:], expected[1, ..., 0])
    again = tmp_path / "again"
    assert extend.main([f"--config={beside}", f"--output_dir={again}"]) == 0
    np.testing.assert_array_equal(frames_of(capsys.readouterr().out.split()[0]), shown)


def test_videos_of_files_are_extended(eager, folder, tmp_path, capsys):
    options = ["--frames=6", "--method=replacement", "--overlap=2", "--video", str(folder / "videos")]
    mp4, gif, _ = run(extend, folder, tmp_path, capsys, *options)
    assert mp4.endswith(".mp4") and len(imageio.mimread(gif)) == 6


@pytest.mark.parametrize("given", [["--known", "0", "3"], ["--factor=4"], ["--time=0.4"]])
def test_a_video_what_is_given_and_what_is_made_are_shown(eager, folder, tmp_path, capsys, given):
    written, _ = run(reconstruct, folder, tmp_path, capsys, *given, "--num_videos=1", "--format", "png")
    shown = frames_of(written)
    assert shown.shape == (4, 16, 48)
    real, part, made = np.split(shown.astype(int), 3, 2)
    clip = MovingMNIST(str(folder / "clips.npy"), frames=4, size=16, part="test").load(0)
    np.testing.assert_array_equal(real, clip.frames[..., 0])
    if given[0] == "--known":
        np.testing.assert_array_equal(part[[0, 3]], real[[0, 3]])
        np.testing.assert_array_equal(made[[0, 3]], real[[0, 3]])
        assert not part[1:3].any()
    elif given[0] == "--factor=4":
        middle = real.reshape(4, 4, 4, 4, 4)[:, :, 1:3, :, 1:3].mean((2, 4))
        assert np.abs(part[:, ::4, ::4] - middle).max() <= 1 and (part[:, 1::4, 3::4] == part[:, ::4, ::4]).all()
    else:
        assert 20 < np.abs(part - real).mean() < 100
    assert (made[1:3] != real[1:3]).any()


def test_what_cannot_be_is_refused(folder, tmp_path, capsys):
    model, clips = f"--model.checkpoint={folder / 'model.safetensors'}", ["--video", str(folder / "clips.npy")]
    image = replace(VIDEO, temporal=PixelTemporalConfig())
    images = f"--model.checkpoint={write_checkpoint(tmp_path / 'image.safetensors', random_tensors(image), image)}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for program, options, message in (
        (extend, [model], "--video is missing"),
        (extend, clips, "--model.checkpoint is missing"),
        (extend, [model, *clips, "--overlap=4"], "--overlap must be below --sampling.num_frames=4"),
        (extend, [model, *clips, "--frames=1"], "--frames must be more than the 1 that overlap"),
        (extend, [model, *clips, "--weight=-1"], "--weight must be above 0"),
        (extend, [model, *clips, "--weight=1", "--method=replacement"], "--weight is for --method=guidance"),
        (extend, [model, "--video", str(tmp_path / "empty")], "no videos in this folder"),
        (extend, [model, "--video", str(tmp_path / "text.mp4")], "a text file, not a video"),
        (extend, [model, "--video", str(tmp_path / "none.mp4")], "none.mp4"),
        (extend, [images, *clips], "makes single images"),
        (reconstruct, [images, *clips, "--known", "0"], "--known is for models of videos"),
        (reconstruct, [model, *clips], "give either --known, --factor or both, or --time"),
        (reconstruct, [model, *clips, "--time=0.5", "--factor=2"], "give either --known"),
        (reconstruct, [model, *clips, "--time=2"], "--time must be above 0"),
        (reconstruct, [model, *clips, "--time=1", "--weight=1"], "not for --time"),
        (reconstruct, [model, *clips, "--known", "4"], "--known must be among 0 to 3"),
        (reconstruct, [model, *clips, "--factor=3"], "--factor must be 2 or more, and divide 16 x 16"),
        (reconstruct, [model, *clips, "--factor=2", "--method=replacement"], "choose guidance"),
    ):
        assert program.main([*options, f"--output_dir={tmp_path}"]) == 2, message
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1, errors


def test_colours_are_read_where_a_model_has_them(eager, folder, tmp_path, capsys):
    model = replace(VIDEO, unet=replace(UNET, channels=3))
    path = write_checkpoint(tmp_path / "colours.safetensors", random_tensors(model), model)
    options = [f"--model.checkpoint={path}", f"--output_dir={tmp_path}", "--video", str(folder / "videos"), *EAGER]
    assert reconstruct.main([*options, "--known", "0", "--format", "png"]) == 0
    written = capsys.readouterr().out.split()[0]
    first = np.asarray(Image.open(f"{written}/frame_0000.png"))
    assert (first[..., 0] != first[..., 1]).any()
