from pathlib import Path

import numpy as np
import pytest

from svd.config import ScheduleConfig
from svd.diffusion.schedules import consistency_levels, discrete_sigmas, karras, spaced, visited_levels

GOLDEN = Path(__file__).parents[1] / "golden" / "values.npz"


def test_reference_noise_levels():
    sigmas = karras(4)
    assert sigmas.dtype == np.float64 and sigmas[-1] == 0
    np.testing.assert_allclose(sigmas, np.load(GOLDEN)["sampler_sigmas"], rtol=2e-5)


def test_stable_video_diffusion_noise_levels():
    sigmas = karras(25)
    assert len(sigmas) == 26
    np.testing.assert_allclose(sigmas[[0, 1, 2, 23, 24, 25]], [700, 545.729, 421.569, 0.00788, 0.002, 0], rtol=1e-3)


def test_levels_are_evenly_spaced_in_the_root():
    gaps = np.diff(karras(9, sigma_max=80.0, sigma_min=0.01, rho=3.0)[:-1] ** (1 / 3))
    np.testing.assert_allclose(gaps, gaps[0])


def test_one_step_goes_from_the_top_to_zero():
    np.testing.assert_allclose(karras(1), [700, 0])


def test_levels_of_a_consistency_model():
    known = karras(40)
    for steps, visited in ((1, [0]), (3, [0, 13, 26]), (4, [0, 10, 20, 30]), (40, range(40))):
        np.testing.assert_array_equal(consistency_levels(steps), [*known[visited], 0])
    for steps in (0, 41):
        with pytest.raises(ValueError, match=f"of 40 noise levels has 1 to 40 steps, not {steps}"):
            consistency_levels(steps)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 0}, "at least one step, not 0"),
        ({"n": 4, "sigma_min": 0.0}, "0 < sigma_min < sigma_max, not 0.0 and 700.0"),
        ({"n": 4, "sigma_max": 0.001}, "0 < sigma_min < sigma_max"),
        ({"n": 4, "sigma_max": float("inf")}, "0 < sigma_min < sigma_max"),
        ({"n": 4, "sigma_min": float("nan")}, "0 < sigma_min < sigma_max"),
        ({"n": 4, "rho": 0.0}, "rho must be positive, not 0.0"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        karras(**arguments)


def test_published_noise_levels():
    """The ends, as they are commonly published; Stable Diffusion's, AnimateDiff's, and those of its x4 upscaler."""
    for schedule, lowest, highest in (
        (ScheduleConfig(), np.sqrt(0.00085 / 0.99915), 14.6146),
        (ScheduleConfig("linear"), np.sqrt(0.00085 / 0.99915), 25.146),
        (ScheduleConfig("linear", 0.0001, 0.02), 0.0100005, 157.407),
    ):
        sigmas = discrete_sigmas(schedule)
        assert len(sigmas) == 1000 and (np.diff(sigmas) > 0).all()
        np.testing.assert_allclose(sigmas[[0, -1]], [lowest, highest], rtol=2e-5)


def test_zero_terminal_snr():
    """The first level stays; sqrt(alpha_bar) is shifted and scaled so that nothing is left at the last."""
    sigmas, plain = (discrete_sigmas(ScheduleConfig(zero_terminal_snr=zero)) for zero in (True, False))
    root, plain_root = 1 / np.sqrt(1 + sigmas**2), 1 / np.sqrt(1 + plain**2)
    np.testing.assert_allclose(sigmas[0], plain[0])
    np.testing.assert_allclose(sigmas[-1], 4096, rtol=1e-6)
    moved = (plain_root[:-1] - plain_root[-1]) / (plain_root[0] - plain_root[-1])
    np.testing.assert_allclose(root[:-1] / root[0], moved, rtol=1e-9)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((4, 1000, "leading", 1), [751, 501, 251, 1]),
        ((3, 1000, "leading"), [666, 333, 0]),
        ((4, 1000, "trailing"), [999, 749, 499, 249]),
        ((3, 1000, "trailing"), [999, 666, 332]),
        ((4, 1000, "linspace"), [999, 666, 333, 0]),
        ((3, 1000, "linspace"), [999, 500, 0]),
        ((1, 1000, "leading", 1), [1]),
        ((1, 1000, "trailing"), [999]),
        ((1, 1000, "linspace"), [0]),
        ((5, 5, "trailing"), [4, 3, 2, 1, 0]),
    ],
)
def test_visited_timesteps(arguments, expected):
    assert spaced(*arguments).tolist() == expected


def test_ends_of_a_discrete_schedule():
    sigmas = discrete_sigmas(ScheduleConfig())
    np.testing.assert_array_equal(visited_levels(sigmas, 2, "leading", 1), [sigmas[501], sigmas[1], 0])
    ddim = visited_levels(sigmas, 2, "leading", 1, to_zero=False)
    np.testing.assert_array_equal(ddim, sigmas[[501, 1, 0]])
    # a step that would change nothing is left out
    np.testing.assert_array_equal(visited_levels(sigmas, 2, "leading", to_zero=False), sigmas[[500, 0]])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 1000, "leading"), "has 1 to 1000 steps, not 0"),
        ((1001, 1000, "trailing"), "has 1 to 1000 steps, not 1001"),
        ((1000, 1000, "leading", 1), "1000 steps with offset 1 go beyond the last of 1000 timesteps"),
        ((10, 1000, "karras"), "spacing must be leading, trailing or linspace, not karras"),
    ],
)
def test_impossible_spacings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        spaced(*arguments)
