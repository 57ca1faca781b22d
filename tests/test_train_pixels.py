"""Models in pixel space, trained as a user does: images, temporal layers over them, videos and images together."""

from pathlib import Path

import numpy as np
import pytest
from device import TRAINING
from safetensors.numpy import load_file
from training_runs import train_here

from svd.config import PixelSamplingConfig, VideoDiffusionConfig, dump_config
from svd.config.pixel_networks import FactorisedAttention, PixelTemporalConfig, PixelUNetConfig, PixelVideoLDMLayers
from svd_tools import initialize

UNET = PixelUNetConfig(1, 32, [1], 1, [1], num_head_channels=32)
SAMPLING = PixelSamplingConfig(num_frames=3, height=8, width=8, sampling_steps=2)
MODELS = {
    "image": PixelTemporalConfig(),
    "video_ldm": PixelTemporalConfig(video_ldm=PixelVideoLDMLayers(distance=3)),
    "video": PixelTemporalConfig(FactorisedAttention(distance=3)),
}
CLIPS = "train.dataset.init_args.dataset"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    for name, temporal in MODELS.items():
        (folder / f"{name}.yaml").write_text(dump_config(VideoDiffusionConfig(UNET, temporal, sampling=SAMPLING)))
    np.save(folder / "clips.npy", np.random.default_rng(0).integers(0, 256, (3, 20, 64, 64), np.uint8))
    return folder


def begin(folder: Path, name: str, *more: str) -> Path:
    out = folder / f"{name}_initial.safetensors"
    assert initialize.main(["--config", str(folder / f"{name}.yaml"), "--out", str(out), "--overwrite", *more]) == 0
    return out


def options(folder: Path, pretrained: Path, run: Path, data: str = "train.dataset", mode: int = 1) -> list[str]:
    return [
        f"--environment.mode={mode}",
        *TRAINING,
        "--train.task=pixels",
        f"--train.pretrained={pretrained}",
        f"--train.output_dir={run}",
        "--train.updates=2",
        "--train.batch_size=2",
        "--train.workers=0",
        "--train.optimizer.learning_rate=1e-2",
        "--train.optimizer.warmup_updates=0",
        "--train.optimizer.ema_decay=0",
        f"--{data}.class_path=MovingMNIST",
        f"--{data}.init_args.source={folder / 'clips.npy'}",
        f"--{data}.init_args.frames=3",
        f"--{data}.init_args.size=8",
    ]


def changed(before: Path, after: Path) -> set[str]:
    before, after = load_file(before), load_file(after)
    return {name for name in after if name not in before or not np.array_equal(before[name], after[name])}


def test_temporal_layers_alone_are_trained_over_the_image_model(eager, folder, tmp_path, capsys):
    initial = begin(folder, "image")
    outcome = train_here(*options(folder, initial, tmp_path / "image"), "--train.temporal_only=false")
    assert outcome.code == 0 and "svd sample --model.checkpoint=" in outcome.err[-1], outcome.err
    image = tmp_path / "image" / "model.safetensors"
    assert len(changed(initial, image)) > 10
    video = begin(folder, "video_ldm", "--image_model", str(image))
    new = changed(image, video)
    assert new and all(".temporal." in name or ".blend." in name for name in new)
    assert train_here(*options(folder, video, tmp_path / "video")).code == 0
    trained = changed(video, tmp_path / "video" / "model.safetensors")
    assert trained and trained <= new
    capsys.readouterr()
    other = ["--config", str(folder / "video.yaml"), "--out", str(tmp_path / "no.safetensors"), "--overwrite"]
    other += ["--image_model"]
    for source, message in ((image, ""), (video, "must have temporal layers, the other none")):
        assert (initialize.main([*other, str(source)]) == 2) == bool(message)
        assert message in capsys.readouterr().err


def test_videos_and_images_are_trained_together_with_dropout(eager, folder, tmp_path):
    """In a graph; a run that is stopped and continued ends the same."""
    initial = begin(folder, "video")
    flags = [
        "--train.dataset.class_path=ClipsWithImages",
        "--train.dataset.init_args.images=2",
        *options(folder, initial, tmp_path / "run", CLIPS, mode=0),
        "--train.temporal_only=false",
        "--train.dropout=0.1",
        "--train.checkpoint_every=1",
    ]
    assert train_here(*flags).code == 0
    ends = load_file(tmp_path / "run" / "model.safetensors")
    assert any("temporal.keys" in name for name in changed(initial, tmp_path / "run" / "model.safetensors"))
    first = next((tmp_path / "run" / "checkpoints").glob("*1"))
    again = [*flags, f"--train.output_dir={tmp_path / 'again'}", f"--train.resume={first}"]
    assert train_here(*again).code == 0
    for name, value in load_file(tmp_path / "again" / "model.safetensors").items():
        np.testing.assert_array_equal(value, ends[name])
