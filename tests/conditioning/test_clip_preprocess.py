"""CLIP's preprocessing against the values of the published code, and against PyTorch at odd sizes."""

from pathlib import Path

import numpy as np
import pytest

from svd.conditioning.clip_preprocess import CLIP_MEAN, CLIP_STD, clip_preprocess, resize_matrix

GOLDEN = Path(__file__).parents[1] / "golden" / "values.npz"


def assert_close(result: np.ndarray, reference: np.ndarray) -> None:
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference, rtol=0, atol=2e-5 * np.abs(reference).max())


def test_golden_values():
    golden = np.load(GOLDEN)
    assert_close(clip_preprocess(golden["image"]), golden["clip_input"])
    # stored as 0..255; larger than 224 on both sides, so it is blurred
    assert_close(clip_preprocess(golden["large_image"] / 127.5 - 1), golden["large_clip_input"])


SIZES = [
    (288, 512, 224),
    (225, 97, 224),  # barely larger on one axis, smaller on the other
    (100, 301, 224),
    (301, 16, 224),
    (16, 1500, 224),
    (31, 33, 224),  # both grow
    (224, 224, 224),
    (224, 500, 224),
    (5, 7, 16),
    (1, 9, 8),
    (3, 2, 2),
    (9, 4, 1),
]


@pytest.mark.parametrize("height, width, size", SIZES)
def test_equals_pytorch(height, width, size):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, height, width)).astype(np.float32)
    assert_close(clip_preprocess(images, size), torch_preprocess(torch, images, size))


def torch_preprocess(torch, images: np.ndarray, size: int) -> np.ndarray:
    """The reference's steps one by one: blur of both axes if either shrinks, bicubic, normalisation."""
    x = torch.from_numpy(images)
    factors = [side / size for side in images.shape[-2:]]
    if max(factors) > 1:
        for axis, factor in zip((-2, -1), factors):
            sigma = max((factor - 1) / 2, 0.001)
            taps = int(max(4 * sigma, 3)) // 2 * 2 + 1
            kernel = torch.exp(-((torch.arange(taps) - taps // 2).float() ** 2) / (2 * sigma**2))
            x = x.movedim(axis, -1)
            if x.shape[-1] > 1:  # PyTorch does not reflect a single pixel
                shape = x.shape
                x = torch.nn.functional.pad(x.flatten(0, -2)[:, None], (taps // 2,) * 2, mode="reflect")
                x = torch.nn.functional.conv1d(x, (kernel / kernel.sum())[None, None]).reshape(shape)
            x = x.movedim(-1, axis)
    x = torch.nn.functional.interpolate(x, (size, size), mode="bicubic", align_corners=True)
    return (((x + 1) / 2 - torch.from_numpy(CLIP_MEAN)) / torch.from_numpy(CLIP_STD)).numpy()


@pytest.mark.parametrize("in_size, out_size", [(1024, 224), (97, 224), (224, 224), (1, 224), (40, 1)])
def test_rows_sum_to_one(in_size, out_size):
    matrix = resize_matrix(in_size, out_size)
    assert matrix.shape == (out_size, in_size) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_same_size_is_the_identity():
    np.testing.assert_array_equal(resize_matrix(224, 224), np.eye(224))


def test_corners_stay_where_they_are():
    matrix = resize_matrix(50, 224)
    assert matrix[0, 0] == 1 and matrix[-1, -1] == pytest.approx(1, abs=1e-4)


def test_the_cached_matrix_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        resize_matrix(50, 224)[0, 0] = 2


def test_each_image_of_a_batch_is_treated_alone():
    images = np.random.default_rng(1).uniform(-1, 1, (3, 3, 40, 60)).astype(np.float32)
    together = clip_preprocess(images, 32)
    for image, result in zip(images, together):
        np.testing.assert_array_equal(clip_preprocess(image[None], 32)[0], result)
