import numpy as np
import pytest

from svd.diffusion.preconditioning import PRECONDITIONINGS, STABLE_DIFFUSION_SIGMAS, edm, v_scaling, vp_eps, vp_v

SIGMAS = np.array([0.002, 0.1, 1.0, 14.0, 700.0])
RECORDS = [
    (edm(), 0.5),
    (edm(2.0), 2.0),
    (v_scaling(), 1.0),
    (vp_v(), 1.0),
]  # with the data's standard deviation
IDS = ["edm", "edm-2", "v_scaling", "vp_v"]
VP_EPS = (vp_eps(STABLE_DIFFUSION_SIGMAS), 1.0)
cases = pytest.mark.parametrize("record, sigma_data", RECORDS, ids=IDS)
all_cases = pytest.mark.parametrize("record, sigma_data", [*RECORDS, VP_EPS], ids=[*IDS, "vp_eps"])


@all_cases
def test_without_noise_the_input_comes_back_whatever_the_network_says(record, sigma_data):
    assert record.c_skip(0.0) == 1 and record.c_out(0.0) == 0


@all_cases
def test_network_input_has_unit_variance(record, sigma_data):
    np.testing.assert_allclose(record.c_in(SIGMAS) ** 2 * (sigma_data**2 + SIGMAS**2), 1, rtol=1e-12)


@cases
def test_network_target_has_unit_variance(record, sigma_data):
    # (x0 - c_skip (x0 + sigma n)) / c_out, for independent x0 and n
    variance = ((1 - record.c_skip(SIGMAS)) * sigma_data) ** 2 + (record.c_skip(SIGMAS) * SIGMAS) ** 2
    np.testing.assert_allclose(variance / record.c_out(SIGMAS) ** 2, 1, rtol=1e-9)


@all_cases
def test_the_weighted_loss_is_the_plain_loss_of_the_network(record, sigma_data):
    np.testing.assert_allclose(record.weight(SIGMAS) * record.c_out(SIGMAS) ** 2, 1, rtol=1e-12)


@pytest.mark.parametrize("record", [v_scaling(), vp_v()], ids=["v_scaling", "vp_v"])
def test_v_is_what_the_network_predicts(record):
    rng = np.random.default_rng(0)
    x0, n = rng.standard_normal((2, len(SIGMAS)))
    x = x0 + SIGMAS * n
    alpha, noise_level = 1 / np.sqrt(1 + SIGMAS**2), SIGMAS / np.sqrt(1 + SIGMAS**2)
    v = alpha * n - noise_level * x0
    np.testing.assert_allclose(record.c_in(SIGMAS) * x, alpha * x0 + noise_level * n, rtol=1e-12)
    np.testing.assert_allclose(record.c_skip(SIGMAS) * x + record.c_out(SIGMAS) * v, x0, rtol=1e-9)


def test_stable_video_diffusion_by_hand():
    # sigma = 2: 1/(4+1), -2/sqrt(5), 1/sqrt(5), ln(2)/4, (1+4)/4
    record, expected = v_scaling(), [0.2, -0.8944271909999159, 0.4472135954999579, 0.17328679513998632, 1.25]
    values = [record.c_skip(2), record.c_out(2), record.c_in(2), record.c_noise(2), record.weight(2)]
    np.testing.assert_allclose(values, expected, rtol=1e-15)


def test_edm_by_hand():
    # sigma = 2, sigma_data = 1/2: 0.25/4.25, 1/sqrt(4.25), 1/sqrt(4.25), ln(2)/4, 4.25/1
    record, expected = (
        edm(),
        [0.058823529411764705, 0.48507125007266594, 0.48507125007266594, 0.17328679513998632, 4.25],
    )
    values = [record.c_skip(2), record.c_out(2), record.c_in(2), record.c_noise(2), record.weight(2)]
    np.testing.assert_allclose(values, expected, rtol=1e-15)


def test_vp_noise_input_is_the_timestep_of_stable_diffusion():
    sigmas = STABLE_DIFFUSION_SIGMAS
    np.testing.assert_allclose(vp_v().c_noise(sigmas), np.arange(1000), atol=1e-9)
    np.testing.assert_allclose(vp_v().c_noise(np.sqrt(sigmas[500] * sigmas[501])), 500.5)
    np.testing.assert_array_equal(vp_v().c_noise([1e-3, 700.0]), [0, 999])


def test_timesteps_of_another_schedule():
    sigmas = np.array([0.5, 1.0, 4.0])
    for record in (vp_v(sigmas), vp_eps(sigmas)):
        np.testing.assert_allclose(record.c_noise([0.1, 0.5, 2.0, 4.0, 9.0]), [0, 0, 1.5, 2, 2], atol=1e-12)


def test_noise_is_what_the_network_predicts():
    record = vp_eps(STABLE_DIFFUSION_SIGMAS)
    x0, n = np.random.default_rng(0).standard_normal((2, len(SIGMAS)))
    x = x0 + SIGMAS * n
    np.testing.assert_allclose(record.c_in(SIGMAS) * x, (x0 + SIGMAS * n) / np.sqrt(1 + SIGMAS**2))
    np.testing.assert_allclose(record.c_skip(SIGMAS) * x + record.c_out(SIGMAS) * n, x0, atol=1e-12)


@pytest.mark.parametrize("kind", PRECONDITIONINGS)
def test_values_are_float64_of_the_shape_of_sigma(kind):
    record = PRECONDITIONINGS[kind]
    for curve in (record.c_skip, record.c_out, record.c_in, record.c_noise, record.weight):
        values = curve(np.ones((2, 3), np.float32))
        assert values.dtype == np.float64 and values.shape == (2, 3)


def test_data_without_spread_is_refused():
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        edm(0.0)
