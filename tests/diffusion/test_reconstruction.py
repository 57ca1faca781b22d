"""Reconstruction guidance against the paper's formulas, and on Gaussian data whose posterior is known."""

import json
from pathlib import Path

import numpy as np
import pytest
from comparison import assert_close, relative_error
from mindspore import Tensor, nn, ops

from svd.conditioning.conditioning import Conditioning
from svd.diffusion import ancestral as vdm
from svd.diffusion.denoiser import Denoiser
from svd.diffusion.guidance import guided
from svd.diffusion.reconstruction import DenoiseWithGradient, bilinear_rows, corrected, replaced, with_gradient

GOLDEN = Path(__file__).parents[1] / "golden_family" / "diffusion"
CASE = json.loads((GOLDEN / "config.json").read_text())["case"]
SIGMA_T, SIGMA_S = map(float, vdm.cosine_sigma([(CASE["step"] + 1) / CASE["steps"], CASE["step"] / CASE["steps"]]))
ALPHA_T, ALPHA_S = (1 / np.sqrt(1 + sigma**2) for sigma in (SIGMA_T, SIGMA_S))
WEIGHT = 3
"""The default of pipelines."""


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    """With frames before channels."""
    with np.load(GOLDEN / "values.npz") as loaded:
        return {name: np.moveaxis(x, -4, -3) if x.ndim > 4 else x for name, x in loaded.items()}


class Mixing(nn.Cell):
    """The denoiser of the golden values: tanh of frames that are mixed by a matrix."""

    def __init__(self, mix: np.ndarray):
        super().__init__()
        self.mix = Tensor((ALPHA_T * mix).astype(np.float32))

    def construct(self, x, coefficients, concat):
        b, t, c, h, w = x.shape
        flat = ops.reshape(ops.swapaxes(x, 0, 1), (t, -1))
        mixed = ops.reshape(ops.MatMul()(self.mix, flat), (t, b, c, h, w))
        return ops.tanh(ops.swapaxes(mixed, 0, 1))


@pytest.fixture(scope="module")
def cell(values) -> DenoiseWithGradient:
    return DenoiseWithGradient(Mixing(values["mix"]))


def tensor(x: np.ndarray) -> Tensor:
    return Tensor(np.ascontiguousarray(x, np.float32))


@pytest.mark.parametrize("name", ["extend", "ends", "upscale"])
def test_predictions_are_corrected_as_in_the_paper(mode, values, cell, name):
    frames = {"extend": list(range(CASE["given"])), "ends": CASE["ends"], "upscale": []}[name]
    known = np.isin(np.arange(CASE["frames"]), frames).reshape(1, -1, 1, 1, 1)
    low, rows = None, None
    if name == "upscale":
        low, rows = tensor(values["paper_upscale_low"]), Tensor(bilinear_rows(4, 2))
    given = tensor(values["x0"]), tensor(known)

    def predict(x, sigma):
        return cell(x, *given, low, rows, rows, None, None, None)

    denoise = replaced(corrected(predict, CASE["weight"]), *given, lambda shape: tensor(values["noise"]))
    x = tensor(values["z"] / ALPHA_T)
    result, of_others = denoise(x, SIGMA_T).asnumpy(), ~known[0, :, 0, 0, 0]
    assert relative_error(result[:, of_others], values[f"paper_{name}_x_guided"]) < 1e-5
    np.testing.assert_array_equal(result[:, ~of_others], values["x0"][:, ~of_others])
    if name == "extend":
        fresh = tensor(values["fresh"])
        x = vdm.ancestral(vdm.clipped(denoise), x, [SIGMA_T, SIGMA_S], noise=lambda shape: fresh)
        assert relative_error(ALPHA_S * x.asnumpy()[:, of_others], values["paper_extend_z_s"]) < 1e-5


class Reading(nn.Cell):
    """A network that answers with its input, times its context."""

    def construct(self, x, c_noise, context, vector, image_only):
        return ops.tanh(x) * ops.reshape(context, (-1, 1, 1, 1, 1))


def test_gradients_pass_through_classifier_free_guidance(eager):
    rng = np.random.default_rng(0)
    x, frames = (tensor(rng.standard_normal((2, 3, 1, 2, 2))) for _ in range(2))
    pair = tuple(Conditioning(tensor(rng.standard_normal((2, 1, 1)))) for _ in range(2))
    denoiser, known, scale, sigma = Denoiser(Reading(), vdm.log_snr_v()), tensor(np.ones((1, 1, 1, 1, 1))), 2.5, 0.7
    cell = DenoiseWithGradient(denoiser.cell)
    x0, gradient = with_gradient(cell, denoiser, pair, scale, frames, known)(x, sigma)
    assert_close(x0, guided(denoiser.bind, *pair, scale)(x, sigma), 1e-6)
    c_skip, c_out, c_in, _ = denoiser.preconditioning.coefficients(sigma)
    cond, uncond = (each.context.asnumpy().reshape(2, 1, 1, 1, 1) for each in pair)
    slope = c_skip + c_out * c_in * (uncond + scale * (cond - uncond)) / np.cosh(c_in * x.asnumpy()) ** 2
    assert_close(gradient, -2 * (frames - x0).asnumpy() * slope, 1e-5)
    alone, _ = with_gradient(cell, denoiser, pair, 1.0, frames, known)(x, sigma)
    assert_close(alone, denoiser.bind(pair[0])(x, sigma), 1e-6)


def posterior_mean(covariance: np.ndarray, measured: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Of Gaussian data of mean zero, of which the linear function `of` has been measured."""
    return covariance @ of.T @ np.linalg.inv(of @ covariance @ of.T) @ measured


def drawn_mean(covariance: np.ndarray, measured: np.ndarray, of: np.ndarray, weight: float, known=None) -> np.ndarray:
    """The mean of what is drawn, exactly: every step is linear, so that it is what is drawn without noise."""
    size = len(covariance)

    def predict(x, sigma):
        gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(size))
        x0 = x @ gain
        return x0, -2 * (measured - x0 @ of.T) @ of @ gain

    def none(shape):
        return np.zeros(shape)

    denoise = corrected(predict, weight)
    if known is not None:
        denoise = replaced(denoise, (measured @ of)[None], known[None], none)
    return vdm.ancestral(denoise, np.zeros((1, size)), vdm.cosine_sigmas(256), noise=none)[0]


def test_the_mean_is_that_of_the_posterior():
    """Two frames that are correlated, of which one is known. Replacement alone falls short by a third and more."""
    first, measured = np.array([[1.0, 0.0]]), np.array([1.5])
    for correlation in (0.3, 0.5, 0.8, 0.9):
        data = (np.array([[1, correlation], [correlation, 1]]), measured, first)
        right = posterior_mean(*data)[1]
        assert right == pytest.approx(1.5 * correlation)
        assert drawn_mean(*data, WEIGHT, first[0])[1] == pytest.approx(right, rel=0.03)
        assert drawn_mean(*data, 0, first[0])[1] < 0.7 * right


def test_the_mean_given_a_lower_resolution_is_that_of_the_posterior():
    of, measured = bilinear_rows(8, 2).astype(float), np.array([1, 0.5, -0.2, 0.3])
    for correlation in (0.8, 0.95):
        covariance = correlation ** np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
        right = posterior_mean(covariance, measured, of)
        error = np.linalg.norm(drawn_mean(covariance, measured, of, WEIGHT) - right)
        assert error < 0.03 * np.linalg.norm(right)


def test_a_video_follows_its_first_frames_better_than_with_replacement_alone():
    covariance = 0.9 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    of, measured = np.eye(6)[:2], np.array([1.0, 1.2])
    right, known = posterior_mean(covariance, measured, of), of.sum(0)
    errors = [np.abs(drawn_mean(covariance, measured, of, weight, known) - right).max() for weight in (0, WEIGHT)]
    assert errors[1] < errors[0] / 3
