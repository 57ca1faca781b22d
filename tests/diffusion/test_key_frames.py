"""The fusion of a forward and a backward denoising, on arrays, against its formulas."""

import numpy as np
import pytest

from svd.diffusion.guidance import guided
from svd.diffusion.key_frames import (
    BothWays,
    apart,
    bind_both,
    forward_share,
    fused,
    fused_scale,
    renoised,
    reversed_in_time,
    together,
)
from svd.diffusion.samplers import Churn, euler, heun

SIGMAS = [80.0, 12.0, 2.5, 0.4, 0.0]


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def network(seed: int):
    """A denoiser in which every frame depends on its number and on the frame before."""
    weights = array(5, 1, 1, 1, seed=seed)
    return lambda x, sigma: (np.roll(x, 1, 1) * weights + np.cos(x)) / (1 + sigma)


def test_shares_and_scales():
    np.testing.assert_allclose(forward_share("average", 3), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(forward_share("linear", 5), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(fused_scale(np.array([1.0, 2, 3]), "average"), [2, 2, 2])
    np.testing.assert_allclose(fused_scale(np.array([1.0, 2, 3]), "linear"), [1, 2, 3])


@pytest.mark.parametrize("fusion", ["average", "linear"])
def test_a_step_is_that_of_the_averaged_prediction(fusion):
    """Average the v of both directions, take x0 of it, and step: the published order; c_skip and c_out are SVD's."""
    x, sigma, sigma_next = array(2, 5, 3, 4, 4), 3.0, 1.1
    c_skip, c_out = 1 / (sigma**2 + 1), -sigma / np.sqrt(sigma**2 + 1)
    forward, backward = network(1), network(2)
    v = [
        (denoise(frames, sigma) - c_skip * frames) / c_out for denoise, frames in ((forward, x), (backward, x[:, ::-1]))
    ]
    w = {"average": np.full(5, 0.5), "linear": np.linspace(1, 0, 5)}[fusion].reshape(1, 5, 1, 1, 1)
    mean = w * v[0] + (1 - w) * v[1][:, ::-1]
    x0 = c_skip * x + c_out * mean
    expected = x + (x - x0) / sigma * (sigma_next - sigma)
    denoise = fused(apart(forward, backward), forward_share(fusion, 5))
    np.testing.assert_allclose(euler(denoise, x, [sigma, sigma_next]), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fusion", ["average", "linear"])
def test_the_ends_exchanged_give_the_video_reversed(fusion):
    x, forward, backward = array(1, 5, 2, 3, 3), network(1), network(2)
    there = euler(fused(apart(forward, backward), forward_share(fusion, 5)), x, SIGMAS)
    back = euler(fused(apart(backward, forward), forward_share(fusion, 5)), reversed_in_time(x), SIGMAS)
    np.testing.assert_allclose(reversed_in_time(back), there, rtol=1e-6, atol=1e-6)


class Named:
    """A conditioning that is known by the names of its clips."""

    def __init__(self, *names):
        self.names = names

    def stack(self, other):
        return Named(*self.names, *other.names)


def test_both_directions_in_one_batch_are_those_apart():
    """With guidance in each one's own time; the first half of every batch is forward clips, the second backward."""
    nets = {name: network(seed) for seed, name in enumerate(("cond A", "uncond A", "cond B", "uncond B"))}
    batches = []

    def bind(conditioning):
        def denoise(x, sigma):
            batches.append(conditioning.names)
            return np.concatenate([nets[name](x[i : i + 1], sigma) for i, name in enumerate(conditioning.names)])

        return denoise

    cond, uncond = (BothWays(Named(f"{kind} A"), Named(f"{kind} B")) for kind in ("cond", "uncond"))
    scale, x = np.linspace(1, 3, 5), array(1, 5, 2, 3, 3)
    one = guided(bind_both(bind), cond, uncond, np.concatenate([scale, scale]))
    result = fused(together(one), forward_share("linear", 5))(x, 2.0)
    assert batches == [("uncond A", "cond A", "uncond B", "cond B")]
    separate = apart(*(guided(bind, Named(f"cond {end}"), Named(f"uncond {end}"), scale) for end in "AB"))
    np.testing.assert_allclose(result, fused(separate, forward_share("linear", 5))(x, 2.0), rtol=1e-6)


@pytest.mark.parametrize("sampler", [euler, heun])
def test_steps_without_repetition_are_the_samplers(sampler):
    """Bit for bit, with churn too."""
    x, denoise = array(1, 5, 2, 3, 3), network(1)
    for repeats, part in ((0, 1.0), (3, 0.0), (3, 0.24)):
        generators = [np.random.default_rng(1) for _ in range(2)]
        expected = sampler(denoise, x, SIGMAS, churn=Churn(1.5), noise=generators[0].standard_normal)
        result = renoised(sampler, repeats, part)(
            denoise, x, SIGMAS, churn=Churn(1.5), noise=generators[1].standard_normal
        )
        np.testing.assert_array_equal(result, expected)


def test_repeated_steps_put_back_what_they_took():
    x, denoise, seen = array(1, 5, 2, 3, 3), network(1), []
    draws = [array(*x.shape, seed=seed) for seed in range(9)]

    def progress(steps):
        seen.append(len(steps))
        return iter(steps)

    noise = iter(draws)
    result = renoised(euler, 2, 0.5)(denoise, x, SIGMAS, noise=lambda shape: next(noise), progress=progress)
    expected, left = x, iter(draws)
    for i, (sigma, sigma_next) in enumerate(zip(SIGMAS, SIGMAS[1:])):
        expected = euler(denoise, expected, [sigma, sigma_next])
        for _ in range(2 if i < 2 else 0):
            expected = expected + np.sqrt(sigma**2 - sigma_next**2) * next(left)
            expected = euler(denoise, expected, [sigma, sigma_next])
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert seen == [4] and len(list(noise)) == 5
