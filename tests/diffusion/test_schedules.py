from pathlib import Path

import numpy as np
import pytest

from svd.diffusion.schedules import karras

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
