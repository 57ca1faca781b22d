from dataclasses import dataclass, replace

import numpy as np
import pytest
from mindspore import Tensor, float16, float32

from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import edm, v_scaling

RNG = np.random.default_rng(0)
X, CONCAT, F = (RNG.standard_normal((2, 3, c, 4, 4)).astype(np.float32) for c in (4, 5, 4))


@dataclass(frozen=True)
class Conditioning:
    context: Tensor
    concat: Tensor | None
    vector: Tensor


class Network:
    """Return F whatever it is given, and keep what it was given."""

    def __init__(self, dtype=float32):
        self.dtype = dtype

    def __call__(self, latents, c_noise, context, vector):
        self.latents, self.c_noise, self.context, self.vector = latents, c_noise, context, vector
        return Tensor(F, self.dtype)


CONDITIONING = Conditioning(Tensor(np.ones((2, 1, 8), np.float32)), Tensor(CONCAT), Tensor(np.ones((2, 6), np.float32)))


def test_coefficients_differ_by_clip_and_the_condition_is_not_scaled():
    network, sigma = Network(), np.array([0.5, 20.0])
    result = Denoiser(network, v_scaling())(Tensor(X), sigma, CONDITIONING)
    column = sigma.reshape(2, 1, 1, 1, 1)
    root = np.sqrt(column**2 + 1)
    np.testing.assert_allclose(network.latents[:, :, :4].asnumpy(), X / root, rtol=1e-5)
    np.testing.assert_array_equal(network.latents[:, :, 4:].asnumpy(), CONCAT)
    np.testing.assert_allclose(network.c_noise.asnumpy(), 0.25 * np.log(sigma), rtol=1e-6)
    assert network.c_noise.dtype == float32
    assert network.context is CONDITIONING.context and network.vector is CONDITIONING.vector
    assert result.dtype == float32
    np.testing.assert_allclose(result.asnumpy(), X / root**2 - column / root * F, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [2.0, np.float32(2.0), [2.0, 2.0], Tensor([2.0, 2.0])])
def test_one_sigma_stands_for_every_clip(sigma):
    network = Network()
    result = Denoiser(network, edm())(X, sigma, CONDITIONING)  # an array is as good as a tensor
    record = edm()
    np.testing.assert_allclose(result.asnumpy(), record.c_skip(2) * X + record.c_out(2) * F, rtol=1e-5, atol=1e-5)
    assert network.c_noise.shape == (2,)


def test_nothing_is_joined_without_a_condition():
    network = Network()
    Denoiser(network, v_scaling())(Tensor(X), 1.0, replace(CONDITIONING, concat=None))
    assert network.latents.shape == X.shape


def test_without_noise_the_latents_come_back():
    result = Denoiser(Network(), v_scaling())(Tensor(X), 1e-6, CONDITIONING)
    np.testing.assert_allclose(result.asnumpy(), X, atol=1e-5)


def test_a_half_precision_network_stands_between_float32():
    network = Network(float16)
    result = Denoiser(network, v_scaling())(Tensor(X), 700.0, CONDITIONING)
    assert network.latents.dtype == float32 and result.dtype == float32


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.inf, np.nan, [1.0, 0.0]])
def test_impossible_noise_levels_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be positive and finite"):
        Denoiser(Network(), v_scaling())(Tensor(X), sigma, CONDITIONING)


def test_one_sigma_per_frame_is_refused():
    with pytest.raises(ValueError, match=r"one per clip, \[2\], not of shape \[6\]"):
        Denoiser(Network(), v_scaling())(Tensor(X), np.ones(6), CONDITIONING)
