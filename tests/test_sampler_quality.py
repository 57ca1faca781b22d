"""The measurement of samplers: its denoiser and its distance are right, the solvers have their orders, and the page
says what was measured."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import logsumexp
from scipy.stats import energy_distance, norm

from scripts import sampler_quality as quality
from svd.diffusion.schedules import karras

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def mixture():
    return quality.random_mixture(np.random.default_rng(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a small run writes."""
    folder = tmp_path_factory.mktemp("docs") / "new"
    argv = ["sampler_quality.py", f"--out={folder}", "--samples=64", "--steps", "50", "100", "--reference_steps=400"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        quality.main()
    return folder


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
def test_the_denoiser_follows_from_the_density(mixture, sigma, leak):
    """D = x + sigma^2 d ln p(x; sigma) / dx, by finite differences of the density of one class and of a leak."""
    labels = np.array([1, 6])
    generator = np.random.default_rng(3)
    x = mixture.draw(labels, generator) + sigma * generator.standard_normal((2, 64))
    own = np.arange(32) // 4 == labels[:, None]
    weights = np.where(own, (1 - leak) / 4, 0) + leak / 32

    def log_density(x):
        each = norm.logpdf(x[:, None], mixture.means, np.hypot(mixture.deviations, sigma)).sum(-1)
        return logsumexp(each, axis=1, b=weights)

    step = 1e-5 * sigma * np.eye(64)[:3]
    slope = np.stack([(log_density(x + h) - log_density(x - h)) / (2 * h.max()) for h in step], 1)
    denoised = mixture.denoise(x.reshape(2, 1, 64, 1, 1), sigma, mixture.weights(labels, leak)).reshape(2, 64)
    np.testing.assert_allclose(denoised[:, :3], x[:, :3] + sigma**2 * slope, rtol=1e-4, atol=1e-4 * sigma)


def test_the_data_have_the_variance_of_latents(mixture):
    x = mixture.draw(np.arange(8000) % 8, np.random.default_rng(4))
    assert np.mean(x**2) == pytest.approx(1, abs=0.02) and np.abs(x.mean()) < 0.02


def test_energy_distance_against_scipy():
    """Scipy's is the square root, in one dimension and with a bias of about 1 in 1000 here."""
    a, b = np.random.default_rng(5).standard_normal((2, 2000))
    for shift in (0.5, 2.0):
        expected = energy_distance(a, b + shift) ** 2
        assert quality.energy_distance(a[:, None], b[:, None] + shift) == pytest.approx(expected, abs=2e-3)
    assert abs(quality.energy_distance(a[:, None], b[:, None])) < 2e-3


def test_solvers_converge_to_the_reference_with_their_orders(folder):
    errors = pd.read_csv(folder / "samplers.csv").set_index(["sampler", "steps"])
    for sampler, order, calls in (("euler", 1, 100), ("heun", 2, 199), ("dpmpp_2m", 2, 100), ("unipc", 2.5, 100)):
        coarse, fine = (errors.loc[(sampler, steps)] for steps in (50, 100))
        assert fine.calls == calls
        assert np.log2(coarse["median"] / fine["median"]) == pytest.approx(order, abs=0.25), sampler
        assert 0 < fine["rms"] < coarse["rms"] < 0.3
    assert errors.loc[("reference", 400)]["median"] < 0.1 * errors.loc[("heun", 100)]["median"]
    stochastic = errors.loc["dpmpp_2m_sde"]
    assert stochastic["rms"].isna().all() and (stochastic["distance"] < 0.5).all()


def test_intervals_save_what_lies_outside_of_them(folder):
    table = pd.read_csv(folder / "guidance_interval.csv").set_index("guidance")
    sigmas = karras(quality.GUIDED_STEPS)[:-1]
    assert {"(0, inf]", "(1, 10]", "none"} < set(table.index)
    for low, high in quality.INTERVALS:
        row = table.loc[f"({low:g}, {high:g}]"]
        guided = ((sigmas > low) & (sigmas <= high)).sum()
        assert row.guided_steps == guided
        assert row.work_saved_percent == pytest.approx(50 * (1 - guided / len(sigmas)))
    assert table.loc["none"].work_saved_percent == 50 and table.loc["(0, inf]"].change < 1e-12
    assert table.loc["none"].change > table.loc["(1, 10]"].change > 0.05
    for scale in quality.SCALES:
        distance = table[f"distance_{scale:g}"]
        assert distance["(1, 5]"] < 0.8 * distance["none"], "guidance repairs the leak"
        assert distance["true samples"] < 0.3 * distance["none"]
    assert table["distance_4"]["(0, inf]"] > 1.5 * table["distance_4"]["(1, 5]"], "and too much of it does harm"


def test_the_plot(folder):
    """A PNG in colour, and nothing half-written beside the three files."""
    assert {path.name for path in folder.iterdir()} == {"samplers.png", "samplers.csv", "guidance_interval.csv"}
    with Image.open(folder / "samplers.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] > 2.5 * pixels.shape[0] > 1000
    assert (np.ptp(pixels, axis=-1) > 100).sum() > 1000


@pytest.mark.parametrize("samples", ["8", "100"])
def test_samples_that_cannot_be_shared_out_are_refused(samples, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sampler_quality.py", f"--samples={samples}"])
    with pytest.raises(SystemExit):
        quality.main()
    assert f"--samples must be a multiple of 8 and at least 16, got {samples}" in capsys.readouterr().err


def test_the_page_has_the_tables_as_measured():
    docs = ROOT / "docs"
    page = (docs / "samplers.md").read_text()
    errors = pd.read_csv(docs / "samplers.csv")
    assert quality.errors_in_markdown(errors) in page and quality.distances_in_markdown(errors) in page
    assert quality.guidance_in_markdown(pd.read_csv(docs / "guidance_interval.csv")) in page
