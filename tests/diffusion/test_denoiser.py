"""The denoiser around networks that are formulas, and what is computed once for a conditioning."""

from dataclasses import replace

import numpy as np
import pytest
from mindspore import Tensor, float16, float32

from svd.conditioning.conditioning import Conditioning
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.preconditioning import edm, v_scaling

pytestmark = pytest.mark.usefixtures("eager")

RNG = np.random.default_rng(0)
X, CONCAT, F = (RNG.standard_normal((2, 3, c, 4, 4)).astype(np.float32) for c in (4, 5, 4))


class Network:
    """Return F whatever it is given, and keep what it was given."""

    def __init__(self, dtype=float32):
        self.dtype = dtype

    def __call__(self, latents, c_noise, context, vector, image_only):
        self.latents, self.c_noise, self.context, self.vector = latents, c_noise, context, vector
        self.image_only = image_only
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


def test_the_temporal_layers_are_left_out_where_that_is_asked_for():
    network = Network()
    denoiser = Denoiser(network, v_scaling())
    for image_only in (False, True):
        denoiser.bind(CONDITIONING, image_only)(X, 1.0)
        assert network.image_only is image_only


class InTwo(Network):
    """A network in two: the first half is counted, the second gives what the first has made of the inputs."""

    def __init__(self):
        self.constants = self.keeping = self.reusing = None
        self.evaluate, self.prepared = self, []

    def prepare(self, inputs, num_frames, image_only):
        self.prepared.append((inputs, num_frames))
        return (10.0 * len(self.prepared),)

    def __call__(self, latents, c_noise, constant):
        return latents[:, :, :4] * 0 + constant


def test_what_does_not_depend_on_the_noise_level_is_computed_once_for_a_conditioning():
    network = InTwo()
    denoiser = Denoiser(network, v_scaling(), network)
    other = replace(CONDITIONING, context=CONDITIONING.context * 2)
    first, second = denoiser.bind(CONDITIONING), denoiser.bind(other)
    assert network.prepared == [], "not before it is needed"
    for sigma in (5.0, 0.5):
        scale = -sigma / np.sqrt(1 + sigma**2)
        for denoise, constant in ((first, 10), (second, 20)):
            x0 = denoise(X, sigma).asnumpy()
            np.testing.assert_allclose(x0 - X / (1 + sigma**2), constant * scale, rtol=1e-4, atol=1e-4)
    assert [inputs[0] is c.context for (inputs, _), c in zip(network.prepared, (CONDITIONING, other))] == [True, True]
    assert [frames for _, frames in network.prepared] == [3, 3]
    denoiser(X, 5.0, CONDITIONING)
    assert len(network.prepared) == 3, "another binding sees weights as they are then"
