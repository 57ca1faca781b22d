"""svd sample: what it writes, and what it refuses."""

from dataclasses import replace

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image
from small_checkpoint import random_tensors, write_checkpoint

import svd
from svd.checkpoints.tensor_header import CheckpointError
from svd.cli.pixels import side_by_side
from svd.config import ConfigError, PixelSamplingConfig, VideoDiffusionConfig
from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig
from svd_tools.sample import main

SAMPLING = PixelSamplingConfig(num_frames=2, height=16, width=16, sampling_steps=2)
UNET = PixelUNetConfig(1, 32, [1, 2], 1, [2], num_head_channels=16)
VIDEO = VideoDiffusionConfig(UNET, PixelTemporalConfig(FactorisedAttention()), sampling=SAMPLING)
EAGER = ["--mode=1", "--device_target=CPU"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("pixels") / "model.safetensors", random_tensors(VIDEO), VIDEO)


def test_samples_are_side_by_side_in_one_video_that_can_be_repeated(eager, tmp_path, checkpoint, capsys):
    options = [f"--model.checkpoint={checkpoint}", "--format", "gif", "png", *EAGER]
    assert main([*options, f"--output_dir={tmp_path}", "--num_samples=3", "--sampling.gamma=0.5", "--seed=4"]) == 0
    gif, frames, beside = capsys.readouterr().out.split()
    assert np.stack(imageio.mimread(gif)).shape[:3] == (2, 32, 32)
    shown = np.asarray(Image.open(f"{frames}/frame_0001.png"))
    pipe = svd.load_pipeline(checkpoint=checkpoint, device_target="CPU", mode=1)
    videos = pipe(3, seed=4, gamma=0.5, progress=False)
    np.testing.assert_array_equal(shown[:16, 16:], videos[1, 1].repeat(3, -1))
    assert not shown[16:, 16:].any()
    assert main([f"--config={beside}", f"--output_dir={tmp_path / 'again'}"]) == 0
    again = capsys.readouterr().out.split()
    np.testing.assert_array_equal(np.asarray(Image.open(f"{again[1]}/frame_0001.png")), shown)


def test_images_are_pictures(eager, tmp_path, capsys):
    config = replace(VIDEO, temporal=PixelTemporalConfig(), sampling=replace(SAMPLING, num_frames=1))
    path = write_checkpoint(tmp_path / "image.safetensors", random_tensors(config), config)
    assert main([f"--model.checkpoint={path}", f"--output_dir={tmp_path}", "--num_samples=2", *EAGER]) == 0
    picture = capsys.readouterr().out.split()[0]
    assert picture.endswith(".png") and np.asarray(Image.open(picture)).shape == (16, 32, 3)


def test_a_model_in_pixels_has_no_decoder_to_replace(eager, checkpoint):
    with pytest.raises(CheckpointError, match="of a model in pixel space, which has no decoder"):
        svd.load_pipeline(checkpoint=checkpoint, decoder=checkpoint, device_target="CPU", mode=1)
    with pytest.raises(ConfigError, match="no temporal layers that could stay"):
        svd.load_pipeline(checkpoint=checkpoint, spatial=checkpoint, device_target="CPU", mode=1)


def test_side_by_side_is_row_by_row():
    videos = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1, 1) + 1
    np.testing.assert_array_equal(side_by_side(videos)[0, :, :, 0], [[1, 2, 3], [4, 5, 0]])


def test_what_cannot_be_is_refused(tmp_path, checkpoint, capsys):
    reading = replace(VIDEO, unet=replace(UNET, context_dim=8))
    text = write_checkpoint(tmp_path / "text.safetensors", random_tensors(reading), reading)
    for options, message in (
        ([], "--model.checkpoint is missing"),
        ([f"--model.checkpoint={checkpoint}", "--num_samples=0"], "num_samples"),
        ([f"--model.checkpoint={checkpoint}", "--num_samples=2000"], "--num_samples must be at most 1024"),
        ([f"--model.checkpoint={checkpoint}", "--sampling.height=9"], "multiples of 2"),
        ([f"--model.checkpoint={text}"], "text as embeddings"),
        ([f"--model.checkpoint={checkpoint}", "--model.config=configs/svd.yaml"], "turns images into videos"),
    ):
        assert main([*options, f"--output_dir={tmp_path}"]) == 2
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1, errors
