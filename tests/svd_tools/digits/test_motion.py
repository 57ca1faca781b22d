"""Where digits are, how fast, and how straight they move: on paths that are known."""

import numpy as np
import pytest

from svd.data.moving_digits import MovingDigits
from svd_tools.digits.motion import brightness_centres, deviation, rank_correlation, speed

WALLS = (13.5, 49.5)


def bouncing(rng: np.random.Generator, offset: float = 0.0, frames: int = 14) -> np.ndarray:
    """A path at up to 4 pixels per frame between the walls, all of it moved by an offset: [t 2]"""
    path, velocity = rng.uniform(*WALLS, 2), rng.uniform(-2.8, 2.8, 2)
    places = []
    for _ in range(frames):
        places.append(path.copy())
        path = path + velocity
        for axis in range(2):
            low, high = WALLS
            if not low <= path[axis] <= high:
                path[axis] = 2 * (low if path[axis] < low else high) - path[axis]
                velocity[axis] = -velocity[axis]
    return np.array(places) + offset


@pytest.fixture(scope="module")
def clips():
    data = MovingDigits(40, digits=[1], part="test")
    return [data.load(index) for index in range(len(data))]


def test_centres_of_brightness():
    videos = np.zeros((2, 3, 20, 30, 3), np.uint8)
    videos[0, 0, 5:9, 11:15] = 255
    videos[0, 1] = 40  # grey all over, as decoders leave it
    videos[0, 1, 2:12, 20:22] = 255
    centres = brightness_centres(videos)
    assert centres.shape == (2, 3, 2)
    np.testing.assert_allclose(centres[0, :2], [[12.5, 6.5], [20.5, 6.5]], atol=1e-5)
    assert np.isnan(centres[0, 2]).all() and np.isnan(centres[1]).all()


def test_the_known_speed_of_real_clips_is_measured(clips):
    measured = speed(brightness_centres(np.stack([clip.frames for clip in clips])))
    known = np.array([clip.speed for clip in clips])
    assert np.ptp(known) > 3
    np.testing.assert_allclose(measured, known, atol=0.1)


def test_real_clips_do_not_deviate(clips):
    """They bounce off the frame's edges, and their centres of brightness are off the middles of their squares."""
    paths = brightness_centres(np.stack([clip.frames for clip in clips]))
    assert max(abs(path - clip.centres[:, 0]).max() for path, clip in zip(paths, clips)) > 3
    assert max(deviation(path, WALLS) for path in paths) < 0.2


@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
def test_paths_that_bounce_do_not_deviate(offset):
    rng = np.random.default_rng(0)
    paths = [bouncing(rng, offset) for _ in range(30)]
    turns = [(np.diff(path[1:], axis=0) * np.diff(path[:-1], axis=0) < 0).any() for path in paths]
    assert sum(turns) > 10
    assert max(deviation(path, WALLS) for path in paths) < 0.02


@pytest.mark.parametrize("jitter", [0.3, 2.0])
def test_jitter_is_measured(jitter):
    """Of 14 frames an axis has 3 degrees of freedom in the fit, so 11 are left of the jitter's."""
    rng = np.random.default_rng(1)
    paths = [bouncing(rng) for _ in range(80)]
    squares = [deviation(path + jitter * rng.standard_normal(path.shape), WALLS) ** 2 for path in paths]
    assert np.mean(squares) == pytest.approx(2 * jitter**2 * 11 / 14, rel=0.12)


def test_a_digit_that_shakes_on_one_axis_deviates_by_as_much():
    path = np.stack([30 + 2.0 * (-1.0) ** np.arange(14), np.full(14, 20.0)], -1)
    assert deviation(path, WALLS) == pytest.approx(2, rel=0.05)


def test_a_slow_drift_off_the_line_counts():
    frames = np.arange(14)
    path = np.stack([25 + frames, 30 + 4 * np.sin(frames / 13 * np.pi)], -1)
    assert deviation(path, WALLS) > 0.8
    assert np.abs(np.diff(path, 2, axis=0)).max() < 0.3  # in no frame does it look odd


def test_a_path_with_a_gap_has_no_speed_and_no_deviation():
    path = bouncing(np.random.default_rng(2))
    path[3] = np.nan
    assert np.isnan(deviation(path, WALLS)) and np.isnan(speed(path))


def test_rank_correlation():
    a = np.array([1.0, 5, 2, 9, np.nan])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -np.exp(a)) == pytest.approx(-1)
    assert rank_correlation(np.array([1, 2, 2, 3]), np.array([1, 3, 2, 4])) == pytest.approx(0.9486833)
    assert rank_correlation(a, np.ones(5)) == 0
    assert np.isnan(rank_correlation(a[-2:], a[-2:]))
