"""What clips become before a network sees them."""

import numpy as np
import pytest
from PIL import Image

from svd.conditioning.clip_preprocess import CLIP_MEAN, CLIP_STD
from svd.metrics import c3d, clip_similarity, inception
from svd.metrics.i3d import cropped, squeezed
from svd.metrics.resizing import bilinear

RNG = np.random.default_rng(0)


def clips(height: int, width: int, frames: int = 2) -> np.ndarray:
    return RNG.integers(0, 256, (1, frames, height, width, 3), dtype=np.uint8)


def test_what_has_the_size_is_scaled_alone():
    frames = clips(224, 224)
    expected = np.moveaxis(frames, -1, 2) / 127.5 - 1
    for prepared in (cropped, squeezed):
        result = prepared(frames)
        assert result.dtype == np.float32 and result == pytest.approx(expected, abs=1e-6)


def test_one_crops_the_centre_and_the_other_squeezes():
    frames = np.zeros((1, 1, 224, 448, 3), np.uint8)
    frames[..., 112:336, :] = 255
    assert cropped(frames).min() == 1
    assert squeezed(frames).mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("height, width", [(64, 64), (96, 128), (240, 161), (120, 57)])
def test_sizes(height, width):
    frames = clips(height, width)
    for prepared in (cropped, squeezed):
        assert prepared(frames).shape == (1, 2, 3, 224, 224)
    assert inception.prepared(frames[0]).shape == (2, 3, 299, 299)
    assert clip_similarity.prepared(frames[0]).shape == (2, 3, 224, 224)


def test_bilinear_without_antialiasing():
    """A row of 4 becomes one of 2: with pixels' centres in place, halves; with corners in place, ends."""
    row = np.array([[0, 1, 10, 100]], np.float32)
    assert bilinear(row, 1, 2).tolist() == [[0.5, 55]]
    assert bilinear(row, 1, 2, align_corners=True).tolist() == [[0, 100]]
    assert bilinear(row, 1, 8)[0, :3] == pytest.approx([0, 0.25, 0.75])


def test_c3d_sees_blue_first_less_the_mean_of_each_frame():
    frames = np.zeros((1, 16, 112, 112, 3), np.uint8)
    frames[..., 2] = 255
    mean = np.arange(16, dtype=np.float32)[:, None, None, None] + np.zeros((16, 3, 112, 112), np.float32)
    result = c3d.prepared(frames, mean)
    assert result[0, :, 0, 0, 0] == pytest.approx(256 - np.arange(16), abs=1e-4)
    assert result[0, :, 2, 0, 0] == pytest.approx(-np.arange(16), abs=1e-4)


def test_clip_crops_the_centre_of_pillows_picture():
    frame = clips(80, 112)[0, 0]
    resized = np.asarray(Image.fromarray(frame).resize((313, 224), Image.Resampling.BICUBIC))[:, 44:268]
    expected = (np.moveaxis(resized, -1, 0) / 255 - CLIP_MEAN) / CLIP_STD
    assert clip_similarity.prepared(frame[None])[0] == pytest.approx(expected, abs=1e-5)
