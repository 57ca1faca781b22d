"""Single steps against tests/golden_family/diffusion: values of xdiffusion's code, and of the papers' equations.

They are given on the scale of a variance-preserving model, z = alpha * x, for log-SNRs -2 ln(sigma).
"""

from pathlib import Path

import numpy as np
import pytest

from svd.diffusion.guidance import guided
from svd.diffusion.preconditioning import vp_eps, vp_v
from svd.diffusion.samplers import ddim

FOLDER = Path(__file__).parents[1] / "golden_family" / "diffusion"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "values.npz") as values:
        return {name: value.astype(np.float64) for name, value in values.items()}


@pytest.fixture(scope="module")
def levels(values) -> tuple[float, float]:
    """The noise levels that the step leads from and to."""
    return tuple(float(np.exp(-values[f"step_logsnr_{time}"][0] / 2)) for time in "ts")


def alpha(sigma: float) -> float:
    return 1 / np.sqrt(1 + sigma**2)


@pytest.mark.parametrize(
    "record, predicted, eta, name",
    [
        (vp_v(), "answer", 0.0, "paper_ddim_z_s"),
        (vp_v(), "answer", 1.0, "ancestral_v_z_s"),
        (vp_eps([1.0]), "answer", 1.0, "ancestral_epsilon_z_s"),
    ],
    ids=["ddim", "ancestral v", "ancestral epsilon"],
)
def test_a_step(values, levels, record, predicted, eta, name):
    """DDIM with eta 1 is DDPM's ancestral step of the smaller variance; all clip what was denoised."""

    def denoise(x, sigma):
        return np.clip(record.c_skip(sigma) * x + record.c_out(sigma) * values[predicted], -1, 1)

    x = values["z"] / alpha(levels[0])
    result = alpha(levels[1]) * ddim(denoise, x, levels, eta=eta, noise=lambda shape: values["fresh"])
    expected = values["paper_ancestral_z_s"][0] if name == "ancestral_v_z_s" else values[name]
    if name == "ancestral_epsilon_z_s":  # the reference adds the noise of the larger variance
        step = (levels[1] / levels[0]) ** 2
        small, large = (np.sqrt(1 - step) * alpha(sigma) * sigma for sigma in (levels[1], levels[0]))
        expected = expected + (small - large) * values["fresh"]
    np.testing.assert_allclose(result, expected, atol=TOLERANCE)


def test_guided_noise(values):
    class Noise(str):
        def stack(self, other):
            return self, other

    def bind(names):
        noise = np.concatenate([values[name] for name in names]) if isinstance(names, tuple) else values[names]
        return lambda x, sigma: x - sigma * noise

    x, sigma, weight = values["z"], 2.0, 2.5
    x0 = guided(bind, Noise("answer"), Noise("noise"), 1 + weight)(x, sigma)
    np.testing.assert_allclose((x - x0) / sigma, values["paper_guided_eps"], atol=TOLERANCE)


def test_a_noisy_image_and_its_velocity(values):
    """The noise levels are those of the reference's table, which is exact to 1e-5 up to t = 0.9."""
    index = np.floor(1024 * values["t"]).astype(int)
    sigma = np.exp(-values["logsnr_table"][index] / 2).reshape(-1, 1, 1, 1, 1)
    x = values["x0"] + sigma * values["noise"]
    np.testing.assert_allclose(vp_v().c_in(sigma) * x, values["z_t"], atol=TOLERANCE)
    for record, predicted in ((vp_v(), "v_target"), (vp_eps([1.0]), "noise")):
        x0 = record.c_skip(sigma) * x + record.c_out(sigma) * values[predicted]
        np.testing.assert_allclose(x0, values["x0"], atol=1e-3)
