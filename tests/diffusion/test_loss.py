"""The denoising loss against its formula in NumPy, with networks that are formulas too."""

import math

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from svd.diffusion.denoiser import Denoise
from svd.diffusion.loss import DenoisingLoss, log_normal, loss_coefficients
from svd.diffusion.preconditioning import PRECONDITIONINGS

SHAPE = (3, 2, 4, 3, 5)
SIGMA = np.array([0.05, 1.0, 40.0])
RNG = np.random.default_rng(0)
LATENTS, NOISE, OUTPUT = RNG.standard_normal((3, *SHAPE)).astype(np.float32)
CONTEXT = RNG.standard_normal((3, 1, 6)).astype(np.float32)
CONCAT = RNG.standard_normal((3, 2, 2, 3, 5)).astype(np.float32)
VECTOR = RNG.standard_normal((3, 7)).astype(np.float32)
kinds = pytest.mark.parametrize("kind", PRECONDITIONINGS)


class Formula(nn.Cell):
    """A network in which every input has a part of its own."""

    def construct(self, x: Tensor, c_noise: Tensor, context: Tensor, vector: Tensor, image_only: bool) -> Tensor:
        numbers = c_noise + ops.mean(context, (1, 2)) + 2 * ops.mean(vector, 1)
        return ops.sin(x[:, :, :4]) + 3 * ops.mean(x[:, :, 4:], 2, True) + ops.reshape(numbers, (-1, 1, 1, 1, 1))


class Constant(nn.Cell):
    """A network that gives what it was given."""

    def __init__(self, output: np.ndarray):
        super().__init__()
        self.output = Parameter(Tensor(output.astype(np.float32)), name="output")

    def construct(self, x: Tensor, c_noise: Tensor, context: Tensor, vector: Tensor, image_only: bool) -> Tensor:
        return self.output * 1


def wide(numbers: np.ndarray) -> np.ndarray:
    """[b] -> [b 1 1 1 1]"""
    return np.reshape(numbers, (-1, 1, 1, 1, 1))


def loss(network: nn.Cell, kind: str, sigma=SIGMA, clips=slice(None)) -> float:
    """Of these clips."""
    coefficients = loss_coefficients(PRECONDITIONINGS[kind], sigma[clips])
    arrays = [Tensor(array[clips]) for array in (LATENTS, NOISE, CONTEXT, CONCAT, VECTOR)]
    result = DenoisingLoss(Denoise(network))(*arrays[:2], coefficients, *arrays[2:])
    assert result.shape == () and result.dtype == arrays[0].dtype
    return float(result.asnumpy())


def formula(kind: str) -> np.ndarray:
    """The loss of each clip, float64."""
    p = PRECONDITIONINGS[kind]
    x = LATENTS + wide(SIGMA) * NOISE.astype(np.float64)
    scaled = np.concatenate([wide(p.c_in(SIGMA)) * x, CONCAT], 2)
    numbers = p.c_noise(SIGMA) + CONTEXT.mean((1, 2)) + 2 * VECTOR.mean(1)
    output = np.sin(scaled[:, :, :4]) + 3 * scaled[:, :, 4:].mean(2, keepdims=True) + wide(numbers)
    denoised = wide(p.c_skip(SIGMA)) * x + wide(p.c_out(SIGMA)) * output
    return (wide(p.weight(SIGMA)) * (denoised - LATENTS) ** 2).mean((1, 2, 3, 4))


def test_formula(mode):
    """One noise level per clip, and a weight that goes with it; each clip counts as much as the others."""
    expected = formula("v_scaling")
    np.testing.assert_allclose(loss(Formula(), "v_scaling"), expected.mean(), rtol=1e-5)
    assert np.ptp(expected) > 0.1


@kinds
def test_formula_of_every_preconditioning(eager, kind):
    for clip, expected in enumerate(formula(kind)):
        result = loss(Formula(), kind, clips=slice(clip, clip + 1))
        np.testing.assert_allclose(result, expected, rtol=1e-4)


@kinds
def test_a_perfect_denoiser_has_no_loss(eager, kind):
    p = PRECONDITIONINGS[kind]
    x = LATENTS + wide(SIGMA) * NOISE.astype(np.float64)
    perfect = (LATENTS - wide(p.c_skip(SIGMA)) * x) / wide(p.c_out(SIGMA))
    assert loss(Constant(perfect), kind) < 1e-8
    assert loss(Constant(perfect + 0.1), kind) == pytest.approx(0.01, rel=1e-3)  # as the weight is 1 / c_out^2


def test_v_scaling_is_the_plain_loss_of_v(eager):
    """|F - v|^2 with v = (n - sigma x0) / sqrt(1 + sigma^2), at noise levels from near none to the sampler's first."""
    for sigma in (SIGMA, np.array([0.01, 0.3, 700.0])):
        v = (NOISE - wide(sigma) * LATENTS) / np.sqrt(1 + wide(sigma) ** 2)
        result = loss(Constant(OUTPUT), "v_scaling", sigma)
        np.testing.assert_allclose(result, ((OUTPUT - v) ** 2).mean(), rtol=1e-4)


def test_frames_of_a_clip_have_the_same_noise_level(eager):
    """An error of the network costs as much in one frame as in another, and not as much in one clip as in another
    where the weight is not that of v."""
    costs = []
    for clip, frame in ((0, 0), (0, 1), (2, 0), (2, 1)):
        error = np.zeros(SHAPE)
        error[clip, frame] = 1
        p = PRECONDITIONINGS["edm"]
        x = LATENTS + wide(SIGMA) * NOISE.astype(np.float64)
        denoised = LATENTS + error
        costs.append(loss(Constant((denoised - wide(p.c_skip(SIGMA)) * x) / wide(p.c_out(SIGMA))), "edm"))
    weight = PRECONDITIONINGS["edm"].weight(SIGMA) / 6  # of six frames, one is off by 1
    np.testing.assert_allclose(costs, weight[[0, 0, 2, 2]], rtol=1e-3)


class OfFrames(nn.Cell):
    """A network that is told a noise level for each frame, and whether frames are images."""

    def construct(self, x: Tensor, c_noise: Tensor, context: Tensor, vector: Tensor, image_only: bool) -> Tensor:
        b, t = x.shape[:2]
        return x[:, :, :4] + ops.reshape(c_noise, (b, t, 1, 1, 1)) + (1.0 if image_only else 2.0)


def test_images_have_a_noise_level_each(mode):
    p, levels = PRECONDITIONINGS["v_scaling"], np.array([[0.1, 5.0], [1.0, 0.4], [30.0, 2.0]])
    arrays = [Tensor(array) for array in (LATENTS, NOISE, CONTEXT, CONCAT, VECTOR)]
    coefficients = loss_coefficients(p, levels)
    assert coefficients.shape == (6, 3, 2)
    sigma = levels[..., None, None, None]
    x = LATENTS + sigma * NOISE.astype(np.float64)
    for image_only, shift in ((True, 1), (False, 2)):
        output = p.c_in(sigma) * x + p.c_noise(sigma) + shift
        denoised = p.c_skip(sigma) * x + p.c_out(sigma) * output
        expected = (p.weight(sigma) * (denoised - LATENTS) ** 2).mean()
        result = DenoisingLoss(Denoise(OfFrames()), image_only)(*arrays[:2], coefficients, *arrays[2:])
        np.testing.assert_allclose(float(result.asnumpy()), expected, rtol=1e-5)


@kinds
def test_coefficients(kind):
    p = PRECONDITIONINGS[kind]
    rows = loss_coefficients(p, SIGMA).asnumpy()
    assert rows.shape == (6, 3) and rows.dtype == np.float32
    expected = [SIGMA, p.c_skip(SIGMA), p.c_out(SIGMA), p.c_in(SIGMA), p.c_noise(SIGMA), p.weight(SIGMA)]
    np.testing.assert_allclose(rows, expected, rtol=1e-7)


def test_log_normal():
    """The moments of ln sigma, and of sigma: exp(mean + std^2 / 2)."""
    normal = np.random.default_rng(0).standard_normal(200_000)
    sigma = log_normal(normal, -1.2, 0.5)
    assert sigma.dtype == np.float64 and (sigma > 0).all()
    assert np.log(sigma).mean() == pytest.approx(-1.2, abs=0.005)
    assert np.log(sigma).std() == pytest.approx(0.5, abs=0.005)
    assert sigma.mean() == pytest.approx(np.exp(-1.2 + 0.125), rel=0.01)
    assert log_normal(0.0, 1.0, 1.6) == pytest.approx(np.e)
    assert log_normal(3.0, 1.0, 0.0) == pytest.approx(np.e)
    few = normal[:100]  # one by one to the last bit, too
    assert log_normal(few, -1.2, 0.5).tolist() == [log_normal(x, -1.2, 0.5) for x in few]
    assert log_normal(few, -1.2, 0.5).tolist() == [math.exp(-1.2 + 0.5 * x) for x in few]
