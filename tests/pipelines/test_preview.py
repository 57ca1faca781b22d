"""Previews: a video of each image, the same every time, by the weights of now."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_model import build_small_pipe, fill

from svd.data.images import ImageError
from svd.pipelines.preview import Preview

SAMPLING = {"num_frames": 3, "height": 16, "width": 24, "seed": 3, "sampling_steps": 2}


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of two images."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("cat.png", "dog.png"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / name)
    return folder


def frames(path: Path) -> np.ndarray:
    """The frames of a GIF, [t h w 3]."""
    with Image.open(path) as gif:
        shown = []
        for index in range(gif.n_frames):
            gif.seek(index)
            shown.append(np.asarray(gif.convert("RGB")))
    return np.stack(shown)


def test_previews(eager, tmp_path, images):
    """One video per image, in a folder that is made; equal in every bit until the weights change."""
    pipe, folder = build_small_pipe(), tmp_path / "run" / "previews"
    preview = Preview(pipe, [str(images)], folder, "gif", SAMPLING)
    assert not folder.exists()
    first = preview("update_00000002")
    assert first == [folder / f"update_00000002_{name}.gif" for name in ("cat", "dog")]
    for path in first:
        assert frames(path).shape == (3, 16, 24, 3)
    assert first[0].read_bytes() != first[1].read_bytes()

    again = preview("update_00000004")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in first]
    assert len(list(folder.iterdir())) == 4

    fill(pipe.denoiser.network, seed=9)
    changed = preview("update_00000006")
    assert changed[0].read_bytes() != first[0].read_bytes()


def test_single_images_and_mp4(eager, tmp_path, images):
    preview = Preview(build_small_pipe(), [str(images / "dog.png")], tmp_path, "mp4", SAMPLING)
    assert preview("update_00000001") == [tmp_path / "update_00000001_dog.mp4"]
    assert (tmp_path / "update_00000001_dog.mp4").stat().st_size > 100


def test_images_are_looked_at_at_once(eager, tmp_path):
    """Not after hours of training."""
    with pytest.raises(ImageError):
        Preview(build_small_pipe(), [str(tmp_path / "missing.png")], tmp_path, "gif", SAMPLING)
