"""The diffusion of Video Diffusion Models against xdiffusion's values, the paper's formulas and Gaussian data."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from comparison import relative_error
from mindspore import Tensor

from svd.diffusion import ancestral as vdm
from svd.diffusion.preconditioning import Preconditioning

GOLDEN = Path(__file__).parents[1] / "golden_family"
CASE = json.loads((GOLDEN / "diffusion" / "config.json").read_text())["case"]
TOLERANCE = 1e-5
T, S = (CASE["step"] + 1) / CASE["steps"], CASE["step"] / CASE["steps"]
SIGMA_T, SIGMA_S = map(float, vdm.cosine_sigma([T, S]))


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "diffusion" / "values.npz") as loaded:
        return {name: array.astype(np.float64) for name, array in loaded.items()}


def alpha(sigma: float) -> float:
    return 1 / math.sqrt(1 + sigma**2)


def denoiser(preconditioning: Preconditioning, answer: np.ndarray):
    """The denoiser of a network that always gives the same answer."""

    def denoise(x, sigma):
        c_skip, c_out, _, _ = map(float, preconditioning.coefficients(sigma))
        return c_skip * x + c_out * answer

    return denoise


def step(values, preconditioning=None, gamma=0.0, as_answer=np.asarray):
    """z_s of one step from z; each array through `as_answer`."""
    answer, z, fresh = (as_answer(values[name]) for name in ("answer", "z", "fresh"))
    denoise = vdm.clipped(denoiser(preconditioning or vdm.log_snr_v(), answer))
    x = vdm.ancestral(denoise, z / alpha(SIGMA_T), [SIGMA_T, SIGMA_S], noise=lambda shape: fresh, gamma=gamma)
    return x * alpha(SIGMA_S)


def test_schedule_is_the_exact_cosine(values):
    sigmas = vdm.cosine_sigma(np.arange(1025) / 1024)
    assert np.abs(-2 * np.log(sigmas) - values["paper_logsnr_table"]).max() < 1e-9
    assert -2 * np.log(sigmas[[0, -1]]) == pytest.approx([20, -20])
    np.testing.assert_array_equal(vdm.cosine_sigmas(8), [*vdm.cosine_sigma(np.arange(8, 0, -1) / 8), 0])


@pytest.mark.parametrize("kind", ["v", "epsilon"])
def test_a_step_is_xdiffusions_with_its_large_variance(values, kind):
    preconditioning = vdm.log_snr_v() if kind == "v" else vdm.log_snr_eps()
    assert relative_error(step(values, preconditioning, gamma=1), values[f"ancestral_{kind}_z_s"]) < TOLERANCE
    first = float(vdm.cosine_sigma(1 / CASE["steps"]))
    denoise = vdm.clipped(denoiser(preconditioning, values["answer"]))
    last = vdm.ancestral(denoise, values["z"] / alpha(first), [first, 0], noise=None)
    assert relative_error(last, values[f"ancestral_{kind}_last"]) < TOLERANCE


def test_variance_is_interpolated_as_in_the_paper(values):
    for gamma, reference in zip(CASE["gammas"], values["paper_ancestral_z_s"]):
        assert relative_error(step(values, gamma=gamma), reference) < TOLERANCE


def test_tensors_take_the_same_step(eager, values):
    tensors = step(values, gamma=0.3, as_answer=lambda array: Tensor(array.astype(np.float32)))
    assert relative_error(tensors, step(values, gamma=0.3)) < TOLERANCE


def test_langevin_step_is_the_papers(values):
    denoise = denoiser(vdm.log_snr_eps(), values["answer"])
    x = vdm.langevin_step(denoise, values["z"] / alpha(SIGMA_S), SIGMA_S, lambda shape: values["fresh"], CASE["delta"])
    assert relative_error(x * alpha(SIGMA_S), values["paper_langevin_z"]) < TOLERANCE


def test_networks_see_the_time_of_their_log_snr():
    """1000 (2 / pi) arctan(exp(-log-SNR / 2)), which is nearly 1000 u: the schedule cuts the ends off."""
    time = np.array([0, 0.25, 0.5, 1])
    seen = vdm.log_snr_v().c_noise(vdm.cosine_sigma(time))
    np.testing.assert_allclose(seen, 1000 * time, atol=0.03)
    np.testing.assert_allclose(vdm.log_snr_v().c_noise([1e-9, 1e9]), seen[[0, -1]], rtol=1e-12)


def chain(deviation: float, gamma: float, langevin: float = 0.0, steps: int = 64) -> float:
    """The variance of what is drawn where the data are Gaussian of this deviation: every step is linear, so that x is
    kept as its dependence on the first noise and on those of each step.
    """
    sigmas = vdm.cosine_sigma(np.arange(steps, 0, -1) / steps)
    numbers = iter(np.eye(2 * steps)[1:])
    x = np.eye(2 * steps)[0] * math.sqrt(deviation**2 + sigmas[0] ** 2)
    x = vdm.ancestral(
        lambda x, sigma: x * (deviation**2 / (deviation**2 + sigma**2)),
        x,
        sigmas,
        noise=lambda shape: next(numbers),
        gamma=gamma,
        langevin=langevin,
    )
    return float(x @ x) / (deviation**2 + sigmas[-1] ** 2)


def test_the_bounds_of_the_variance_are_exact_for_a_point_and_for_unit_gaussian_data():
    assert chain(1e-12, gamma=0) == pytest.approx(1)
    assert chain(1, gamma=1) == pytest.approx(1)
    assert chain(1e-12, gamma=1) > 1.3 and chain(1, gamma=0) < 0.99
    assert chain(0.5, gamma=0) < 1 < chain(0.5, gamma=1)
    # more steps, less to interpolate
    assert abs(chain(0.5, gamma=0, steps=512) - 1) < abs(chain(0.5, gamma=0) - 1) / 4


def test_langevin_steps_mend_the_variance():
    assert abs(chain(0.5, gamma=0, langevin=0.5) - 1) < abs(chain(0.5, gamma=0) - 1) / 2


def test_dynamic_thresholding_shrinks_a_clip_that_is_out_of_range(eager):
    clip = np.linspace(-4, 4, 81).reshape(1, 81)
    within = clip / 8
    denoise = vdm.thresholded(lambda x, sigma: x, 0.5)
    np.testing.assert_allclose(denoise(np.concatenate([clip, within]), 1.0), [(clip[0] / 2).clip(-1, 1), within[0]])
    tensor = Tensor(clip.astype(np.float32))
    np.testing.assert_allclose(denoise(tensor, 1.0).asnumpy(), (clip / 2).clip(-1, 1), atol=1e-6)


def test_impossible_settings_are_refused():
    for options in ({"gamma": 1.5}, {"langevin": -1.0}):
        with pytest.raises(ValueError, match="gamma must be from 0 to 1"):
            vdm.ancestral(None, np.ones(1), [1.0, 0.0], noise=None, **options)
    with pytest.raises(ValueError, match="at least one step"):
        vdm.cosine_sigmas(0)
