"""Gaussian data has a closed form: x0 ~ N(MU, S^2) makes D linear in x, and the ODE's paths are known."""

from functools import partial

import numpy as np
import pytest
from mindspore import Tensor

from svd.diffusion.samplers import (
    SAMPLERS,
    STOCHASTIC,
    Churn,
    consistency,
    ddim,
    dpmpp_2m,
    dpmpp_2m_sde,
    euler,
    heun,
    unipc,
)
from svd.diffusion.schedules import consistency_levels, karras

MU, S = np.array([-1.0, 0.0, 0.3, 2.0]), np.array([0.2, 0.5, 1.0, 1.5])
SIGMA_MAX, SIGMA_MIN = 10.0, 0.01


def denoise(x, sigma):
    return (x * S**2 + MU * sigma**2) / (S**2 + sigma**2)


def exact(x, sigma):
    return MU + (x - MU) * np.sqrt((S**2 + sigma**2) / (S**2 + SIGMA_MAX**2))


def run(name, denoise, x, sigmas, **options):
    """A sampler of the table, with noise if it needs some."""
    if name in STOCHASTIC:
        draw = np.random.default_rng(7).standard_normal
        kind = Tensor if isinstance(x, Tensor) else np.asarray
        options["noise"] = lambda shape: kind(draw(shape).astype(np.float32))
    return SAMPLERS[name](denoise, x, sigmas, **options)


def start(shape=(), dtype=np.float64):
    return (SIGMA_MAX * np.random.default_rng(0).standard_normal((*shape, 4))).astype(dtype)


@pytest.mark.parametrize(
    "sampler, order",
    [(euler, 1), (heun, 2), (dpmpp_2m, 2), (partial(unipc, order=1), 2), (unipc, 3), (partial(unipc, order=3), 4)],
    ids=["euler", "heun", "dpmpp_2m", "unipc of order 1", "unipc", "unipc of order 3"],
)
def test_order_of_convergence(sampler, order):
    # Measured at SIGMA_MIN: the last step, to 0, replaces x by D(x; SIGMA_MIN) in every sampler, and the
    # error of that does not depend on the number of steps (see the next test), so it would hide the slope.
    x = start()
    counts = np.array([40, 80, 160, 320, 640])
    schedules = [karras(n, SIGMA_MAX, SIGMA_MIN)[:-1] for n in counts]
    errors = [np.abs(sampler(denoise, x, sigmas) - exact(x, SIGMA_MIN)).max() for sigmas in schedules]
    slope = -np.polyfit(np.log(counts[1:]), np.log(errors[1:]), 1)[0]
    assert abs(slope - order) < 0.1, (slope, errors)
    assert errors[-1] < 10.0 ** (-1 - order)


@pytest.mark.parametrize("name", SAMPLERS)
def test_last_step_to_zero_gives_the_denoised_data(name):
    x, seen = start(), []

    def recording(x, sigma):
        seen.append((sigma, denoise(x, sigma)))
        return seen[-1][1]

    result = run(name, recording, x, karras(640, SIGMA_MAX, SIGMA_MIN))
    sigma, x0 = seen[-1]
    np.testing.assert_allclose(sigma, SIGMA_MIN)  # never called at sigma 0, where D is x and the slope undefined
    np.testing.assert_array_equal(result, x0)
    if name in STOCHASTIC:  # not on the ODE's path
        return
    # |D(x; sigma) - x(0)| = |x - MU| (sigma / S)^2 / 2 + O(sigma^4) on top of the solver's own error
    bound = np.abs(exact(x, 0) - MU) * (SIGMA_MIN / S) ** 2
    np.testing.assert_array_less(np.abs(result - exact(x, 0)), bound + (2e-2 if name == "euler" else 1e-3))


def test_denoiser_calls_per_step():
    for name in SAMPLERS:
        seen = []
        run(name, lambda x, sigma, seen=seen: seen.append(sigma) or denoise(x, sigma), start(), karras(6))
        assert len(seen) == (11 if name == "heun" else 6) and all(isinstance(sigma, float) for sigma in seen)


def test_one_step_is_one_denoising():
    for name in SAMPLERS:
        np.testing.assert_array_equal(run(name, denoise, start(), [SIGMA_MAX, 0.0]), denoise(start(), SIGMA_MAX))


CHURNS = pytest.mark.parametrize("churn", [Churn(10.0), Churn(20.0, s_tmin=0.05, s_tmax=5.0)], ids=["all", "window"])


@CHURNS
@pytest.mark.parametrize("sampler", [euler, heun])
def test_churn_preserves_the_distribution(sampler, churn):
    n = 20_000
    rng = np.random.default_rng(1)
    x = MU + np.sqrt(S**2 + SIGMA_MAX**2) * rng.standard_normal((n, 4))
    samples = sampler(denoise, x, karras(600, SIGMA_MAX, SIGMA_MIN), churn=churn, noise=rng.standard_normal)
    # four standard errors, and what Euler loses of the variance in finite steps (see the next test)
    bias = 0.03 if sampler is euler else 0.003
    np.testing.assert_array_less(np.abs(samples.mean(0) - MU) / S, 4 / np.sqrt(n))
    np.testing.assert_array_less(np.abs(samples.var(0) / S**2 - 1), 4 * np.sqrt(2 / n) + bias)
    # The added noise made new samples: the plain ODE would keep start and end perfectly correlated.
    assert all(abs(np.corrcoef(x[:, i], samples[:, i])[0, 1]) < 0.1 for i in range(4))


@CHURNS
@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_variance_under_churn_converges(sampler, churn, order):
    # The samplers are linear in the start and in every noise drawn. Carrying each of these as a row of its
    # own gives the exact variance of the result, the sum of the squared rows, without drawing samples.
    def relative_error(steps):
        rows = np.zeros((steps + 1, 4))
        rows[0] = np.sqrt(S**2 + SIGMA_MAX**2)
        free = iter(range(1, steps + 1))

        def noise(shape):
            unit = np.zeros(shape)
            unit[next(free)] = 1
            return unit

        def denoise_rows(x, sigma):
            return x * S**2 / (S**2 + sigma**2)

        sigmas = karras(steps, SIGMA_MAX, SIGMA_MIN)[:-1]
        variance = np.square(sampler(denoise_rows, rows, sigmas, churn=churn, noise=noise)).sum(0)
        return np.abs(variance / (S**2 + SIGMA_MIN**2) - 1).max()

    counts = [200, 400, 800]
    errors = [relative_error(n) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.2, (slope, errors)


def test_one_churned_step_by_hand():
    # two steps, so gamma = min(0.4 / 2, sqrt(2) - 1) = 0.2: sigma 10 is raised to 12, and 4 is below s_tmin
    x, drawn, seen = start(), [], []

    def noise(shape):
        drawn.append(shape)
        return np.ones(shape)

    def recording(x, sigma):
        seen.append((x, sigma))
        return denoise(x, sigma)

    euler(recording, x, [10.0, 4.0, 0.0], churn=Churn(0.4, s_tmin=5.0, s_tmax=10.0, s_noise=1.1), noise=noise)
    assert drawn == [(4,)] and [sigma for _, sigma in seen] == [12.0, 4.0]
    np.testing.assert_allclose(seen[0][0], x + 1.1 * np.sqrt(12**2 - 10**2))
    assert Churn(40.0).raised(1.0, 10) == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("sampler", [euler, heun])
def test_churn_zero_is_the_plain_sampler_bit_for_bit(sampler):
    sigmas = karras(9)
    np.testing.assert_array_equal(
        sampler(denoise, start(), sigmas, churn=Churn(0.0)), sampler(denoise, start(), sigmas)
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_tensors_give_what_arrays_give_and_float32_stays(name):
    s2, mu = S.astype(np.float32) ** 2, MU.astype(np.float32)
    x = start((2, 3), np.float32)

    def on_arrays(x, sigma):
        return (x * s2 + mu * sigma**2) / (s2 + sigma**2)

    def on_tensors(x, sigma):
        return (x * Tensor(s2) + Tensor(mu) * sigma**2) / (Tensor(s2) + sigma**2)

    array = run(name, on_arrays, x, karras(8))
    tensor = run(name, on_tensors, Tensor(x), karras(8)).asnumpy()
    assert array.dtype == tensor.dtype == np.float32
    np.testing.assert_allclose(tensor, array, rtol=1e-5, atol=1e-5)


def test_churn_on_tensors():
    noise = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)

    def run(kind):
        draws = iter(noise)
        return euler(lambda x, sigma: x * 0.5, kind(start(dtype=np.float32)), karras(5), churn=Churn(1.0),
                     noise=lambda shape: kind(next(draws)))  # fmt: skip

    np.testing.assert_allclose(run(Tensor).asnumpy(), run(np.asarray), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_progress_wraps_the_steps(name):
    seen = []

    def progress(steps):
        assert len(steps) == 7
        for step in steps:
            yield step
            seen.append(step)

    run(name, denoise, start(), karras(7), progress=progress)
    assert len(seen) == 7


@pytest.mark.parametrize("sigmas", [[], [1.0], [1.0, 2.0], [1.0, 0.0, 0.0], [1.0, -1.0], [np.inf, 1.0], [np.nan, 0.0]])
@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_levels_that_do_not_decrease_are_refused(name, sigmas):
    with pytest.raises(ValueError, match="noise levels must be finite, decrease"):
        run(name, denoise, start(), sigmas)


def test_bad_churn_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        Churn(-1.0)
    with pytest.raises(ValueError, match="churn needs noise"):
        euler(denoise, start(), karras(3), churn=Churn(1.0))


def test_ddim_without_noise_is_euler():
    sigmas = karras(9)[:-1]
    np.testing.assert_allclose(ddim(denoise, start(), sigmas), euler(denoise, start(), sigmas), rtol=1e-12)


@pytest.mark.parametrize(
    "sampler, eta, order", [(ddim, 0.5, 1), (ddim, 1.0, 1), (dpmpp_2m_sde, 0.4, 2), (dpmpp_2m_sde, 1.0, 2)]
)
def test_noise_preserves_the_distribution(sampler, eta, order):
    # As for churn above: each noise drawn is a row of its own, and the squared rows sum up to the variance.
    def relative_error(steps):
        rows, free = np.zeros((steps + 1, 4)), iter(range(1, steps + 1))
        rows[0] = np.sqrt(S**2 + SIGMA_MAX**2)

        def noise(shape):
            unit = np.zeros(shape)
            unit[next(free)] = 1
            return unit

        sigmas = karras(steps, SIGMA_MAX, SIGMA_MIN)[:-1]
        result = sampler(lambda x, sigma: x * S**2 / (S**2 + sigma**2), rows, sigmas, eta=eta, noise=noise)
        assert sum(row.any() for row in result) == steps, "noise in every step"
        return np.abs(np.square(result).sum(0) / (S**2 + SIGMA_MIN**2) - 1).max()

    errors = [relative_error(n) for n in (200, 400, 800)]
    slope = -np.polyfit(np.log([200, 400, 800]), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.2, (slope, errors)


def test_dpmpp_2m_sde_without_noise_is_dpmpp_2m():
    sigmas = karras(9)
    without = dpmpp_2m_sde(denoise, start(), sigmas, eta=0.0, noise=None)
    np.testing.assert_array_equal(without, dpmpp_2m(denoise, start(), sigmas))


def test_consistency_by_hand():
    """D of every step and fresh noise of the next level; the start counts only for the first D."""
    seen = []

    def recording(x, sigma):
        seen.append((float(x[0]), sigma))
        return 0.5 * x

    result = consistency(recording, np.array([8.0]), [4.0, 3.0, 1.0, 0.0], noise=np.ones)
    assert seen == [(8.0, 4.0), (7.0, 3.0), (4.5, 1.0)] and result == 2.25


def test_consistency_model_of_gaussian_data_gives_the_distribution():
    """Its D is the end of the ODE's path: each number of steps gives all of the variance."""
    rng = np.random.default_rng(1)
    x = MU + np.sqrt(S**2 + SIGMA_MAX**2) * rng.standard_normal((20_000, 4))

    def end_of_path(x, sigma):
        return MU + (x - MU) * S / np.sqrt(S**2 + sigma**2)

    for steps in (1, 2, 4):
        sigmas = consistency_levels(steps, 40, SIGMA_MAX, SIGMA_MIN)
        samples = consistency(end_of_path, x, sigmas, noise=rng.standard_normal)
        np.testing.assert_array_less(np.abs(samples.mean(0) - MU) / S, 4 / np.sqrt(len(x)))
        np.testing.assert_array_less(np.abs(samples.var(0) / S**2 - 1), 4 * np.sqrt(2 / len(x)))


def test_one_ddim_step_by_hand():
    # sigma 2 -> 1, eta 1: s = 1 * sqrt(1 - 1/4), x' = x0 + (x - x0) * sqrt(1 - 3/4) / 2 + s * noise
    result = ddim(lambda x, sigma: 0.5 * x, np.array([8.0]), [2.0, 1.0], eta=1.0, noise=np.ones)
    np.testing.assert_allclose(result, 4 + 4 * 0.25 + np.sqrt(0.75))
    with pytest.raises(ValueError, match="eta needs noise"):
        ddim(denoise, start(), [2.0, 1.0], eta=0.5)


def test_ddim_on_tensors():
    noise = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)

    def run(kind):
        draws = iter(noise)
        return ddim(lambda x, sigma: x * 0.5, kind(start(dtype=np.float32)), karras(5)[:-1], eta=0.7,
                    noise=lambda shape: kind(next(draws)))  # fmt: skip

    array = run(np.asarray)
    assert array.dtype == np.float32
    np.testing.assert_allclose(run(Tensor).asnumpy(), array, rtol=1e-5, atol=1e-5)
