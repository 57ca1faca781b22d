"""Videos in windows whose first frame is the video's, and the noise that the windows share."""

import numpy as np
from mindspore import Tensor

from svd.pipelines.windows import in_windows, share_noise


def test_every_window_begins_with_the_first_frame():
    x = np.arange(11, dtype=np.float32).reshape(1, 11, 1, 1, 1)
    seen = []

    def denoise(frames, sigma):
        seen.append(frames.asnumpy().ravel().astype(int).tolist())
        return frames * 2 + Tensor(np.float32(sigma))

    result = in_windows(denoise, 5, 2, anchored=True)(Tensor(x), 1.0)
    assert seen == [[0, 1, 2, 3, 4], [0, 3, 4, 5, 6], [0, 5, 6, 7, 8], [0, 7, 8, 9, 10]]
    np.testing.assert_allclose(result.asnumpy(), 2 * x + 1, rtol=1e-6)


def test_the_first_frame_is_the_mean_of_all_windows_and_others_cross_fade():
    numbers = iter(range(3))
    denoise = in_windows(lambda x, sigma: Tensor(np.full(x.shape, next(numbers), np.float32)), 4, 1, anchored=True)
    result = denoise(Tensor(np.zeros((1, 8, 1, 1, 1), np.float32)), 1.0).asnumpy().ravel()
    np.testing.assert_allclose(result, [1, 0, 0, 0.5, 1, 1.5, 2, 2], rtol=1e-6)


def test_noise_is_shared_by_windows_in_other_orders():
    """Frames 1 to 4 are the first window's; each two after them are those of a window before, the last is one alone."""
    noise = np.arange(2 * 12, dtype=np.float32).reshape(2, 12, 1, 1, 1)
    before = noise.copy()
    shared = share_noise(noise, np.array([[1, 0], [0, 1]]), window=5)
    assert shared[0].ravel().tolist() == [0, 1, 2, 3, 4, 2, 1, 4, 3, 1, 2, 3]
    assert (shared[1].ravel() - 12).tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]
    np.testing.assert_array_equal(noise, before)
    for start in (1, 3, 5, 7):
        assert set(shared[0].ravel()[start : start + 4]) == {1, 2, 3, 4}, "whichever window it is"
