"""Previews: a video of each image, the same every time, by the weights of now."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_model import build_small_pipe, fill

from svd.data.images import ImageError
from svd.pipelines.preview import Preview, named_prompts, prepared_images

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
    preview = Preview(pipe, prepared_images([str(images)], 16, 24), folder, "gif", SAMPLING)
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
    given = prepared_images([str(images / "dog.png")], 16, 24)
    preview = Preview(build_small_pipe(), given, tmp_path, "mp4", SAMPLING)
    assert preview("update_00000001") == [tmp_path / "update_00000001_dog.mp4"]
    assert (tmp_path / "update_00000001_dog.mp4").stat().st_size > 100


def test_images_are_looked_at_at_once(tmp_path):
    """Not after hours of training."""
    with pytest.raises(ImageError):
        prepared_images([str(tmp_path / "missing.png")], 16, 24)


def test_prompts_have_names_and_images_are_png(tmp_path):
    inputs = named_prompts(["A three!", "", "a three"])
    assert inputs == {"0_a-three": "A three!", "1": "", "2_a-three": "a three"}
    seen = []

    def pipe(prompt: str, progress: bool, seed: int) -> np.ndarray:
        seen.append((prompt, seed))
        return np.full((8, 8, 3), len(prompt), np.uint8)

    paths = Preview(pipe, inputs, tmp_path, "mp4", {"seed": 3})("update_00000001")
    assert [path.name for path in paths] == [f"update_00000001_{name}.png" for name in inputs]
    assert seen == [("A three!", 3), ("", 3), ("a three", 3)]
    assert np.asarray(Image.open(paths[0]))[0, 0, 0] == 8
