"""Windows cover their axis, whatever its length, and cross-fade to weights of one."""

from itertools import product

import numpy as np
import pytest

from svd.autoencoder.windows import WindowedAxis, apply_in_windows

CUTS = [(total, size, overlap) for total in range(1, 13) for size in range(1, 15) for overlap in range(size)]
RNG = np.random.default_rng(0)


def test_windows_of_equal_size_cover_the_axis():
    for total, size, overlap in CUTS:
        starts = WindowedAxis(0, size, overlap).starts(total)
        length = min(size, total)
        assert starts[0] == 0 and starts[-1] == total - length
        steps = np.diff(starts)
        assert np.all(steps > 0) and np.all(steps <= length - overlap)  # the overlap is the least, not exact
        assert len(starts) == 1 + -(-(total - length) // (size - overlap) if size < total else 0)


@pytest.mark.parametrize("overlap", [-1, 4, 5])
def test_an_overlap_as_large_as_the_window_is_refused(overlap):
    with pytest.raises(ValueError, match=f"windows of 4 cannot overlap by {overlap}"):
        WindowedAxis(0, 4, overlap).starts(9)


def test_what_is_linear_in_each_element_is_computed_as_if_at_once():
    """The weights add up to one everywhere: 3 x + 1, repeated along the axis, for every way to cut."""
    for (total, size, overlap), scale in product(CUTS, (1, 2)):
        x = RNG.standard_normal((2, total)).astype(np.float32)
        axes = [WindowedAxis(1, size, overlap, scale)]
        result = apply_in_windows(lambda w, scale=scale: (3 * w + 1).repeat(scale, 1), x, axes)
        np.testing.assert_allclose(result, (3 * x + 1).repeat(scale, 1), rtol=1e-5, atol=1e-5)


def test_several_axes_are_cut_into_a_grid():
    x = RNG.standard_normal((7, 3, 9)).astype(np.float32)
    axes, seen = [WindowedAxis(0, 3, 1), WindowedAxis(2, 4, 2, scale=3)], []

    def function(window):
        seen.append(window.shape)
        return -window.repeat(3, 2)

    np.testing.assert_allclose(apply_in_windows(function, x, axes), -x.repeat(3, 2), rtol=1e-5)
    assert seen == [(3, 3, 4)] * 3 * 4  # one compiled graph serves them all


def test_neighbours_fade_in_even_steps():
    """Windows [0, 5) and [2, 7), told apart by their values: over three shared elements 1/4, 1/2, 3/4."""
    calls = iter(range(2))
    axis = WindowedAxis(0, 5, 3)
    result = apply_in_windows(lambda window: np.full_like(window, next(calls)), np.zeros(7, np.float32), [axis])
    np.testing.assert_allclose(result, [0, 0, 0.25, 0.5, 0.75, 1, 1], atol=1e-6)


def test_without_overlap_windows_are_put_side_by_side():
    calls = iter(range(3))
    axis = WindowedAxis(0, 2, 0)
    result = apply_in_windows(lambda window: np.full_like(window, next(calls)), np.zeros(6, np.float32), [axis])
    np.testing.assert_array_equal(result, [0, 0, 1, 1, 2, 2])


def test_a_single_window_is_handed_through():
    x, result = np.zeros((2, 4)), object()
    assert apply_in_windows(lambda window: result, x, [WindowedAxis(1, 4, 1)]) is result


@pytest.mark.parametrize("size, windows", [(9, 1), (4, 3)])
def test_progress_wraps_the_list_of_windows(size, windows):
    lists = []

    def progress(items):
        lists.append(items)
        return items

    apply_in_windows(np.copy, np.zeros(9, np.float32), [WindowedAxis(0, size, 1)], progress)
    assert [len(items) for items in lists] == [windows]
