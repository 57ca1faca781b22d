"""The Frechet distance against other ways to compute it."""

import numpy as np
import pytest
from scipy.linalg import eigvalsh, sqrtm

from svd.metrics.frechet import Gaussian, Moments, distance, fit, frechet_distance


def correlated(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


def corners(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Points with exactly this mean, and a diagonal covariance with exactly these roots: [2d d]"""
    d = len(mean)
    spread = np.sqrt((2 * d - 1) / 2) * np.diag(deviation)
    return mean + np.concatenate([spread, -spread])


def test_it_is_the_formula_with_the_root_of_a_matrix():
    a, b = correlated(300, 12, 0), correlated(200, 12, 1)
    (mu_a, s_a), (mu_b, s_b) = ((x.mean(0), np.cov(x.T)) for x in (a, b))
    expected = np.sum((mu_a - mu_b) ** 2) + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_diagonal_gaussians_differ_by_means_and_deviations():
    a, b = (
        corners(np.array([1.0, 0, 2]), np.array([1.0, 2, 3])),
        corners(np.array([0.0, 0, 4]), np.array([3.0, 2, 0.5])),
    )
    assert frechet_distance(a, b) == pytest.approx((1 + 4) + (4 + 0 + 6.25), rel=1e-12)


def test_features_of_one_number():
    a, b = np.array([[0.0], [2.0]]), np.array([[5.0], [5.0]])
    assert frechet_distance(a, b) == pytest.approx(16 + 2)


@pytest.mark.parametrize("n, d", [(50, 8), (5, 40)])
def test_equal_sets_have_distance_zero(n, d):
    a = correlated(n, d, 2)
    assert 0 <= frechet_distance(a, a[::-1]) < 1e-10 * np.trace(fit(a).covariance)


def test_singular_covariances():
    """Fewer videos than features: tr (S_a S_b)^(1/2) is then the nuclear norm of the centred sets' product."""
    a, b = correlated(6, 30, 3), correlated(9, 30, 4)
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    squares = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.sum(x**2) + np.sum(y**2)
    assert frechet_distance(a, b) == pytest.approx(squares - 2 * np.linalg.norm(x @ y.T, "nuc"), rel=1e-6)


def test_float32_features_are_summed_in_float64():
    a = (1e4 + np.random.default_rng(0).standard_normal((400, 3))).astype(np.float32)
    assert fit(a).covariance == pytest.approx(np.cov(a.astype(np.float64).T), rel=1e-12)


@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2 videos, got 1"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "of 3 and of 2 numbers"),
        (np.zeros((4, 3, 2)), np.zeros((4, 3)), r"\[n d\], one row for each video, got \[4, 3, 2\]"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "not finite"),
        (np.zeros((4, 3)), np.full((4, 3), np.inf), "not finite"),
    ],
)
def test_what_cannot_be_compared_is_told(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


def covariance(d: int, rank: int, rng: np.random.Generator) -> np.ndarray:
    factors = rng.standard_normal((d, rank)) * 10.0 ** rng.uniform(-1, 1, rank)
    return factors @ factors.T


CASES = [(4, 4, 4), (8, 8, 8), (16, 16, 16), (30, 30, 30), (30, 30, 7), (40, 12, 40), (12, 1, 12), (20, 5, 5),
         (30, 9, 3), (40, 20, 35)]  # fmt: skip
"""Features, and the ranks of both covariances: less than the features is singular."""


@pytest.mark.parametrize("scale", [1, 1e3])
@pytest.mark.parametrize("d, rank_a, rank_b", CASES)
def test_distances_are_scipys(d, rank_a, rank_b, scale):
    rng = np.random.default_rng(d + rank_a + rank_b)
    a, b = (Gaussian(scale * rng.standard_normal(d), scale * covariance(d, rank, rng)) for rank in (rank_a, rank_b))
    # The root of a singular product is rounding where it should be nothing: scipy's of the part that is not.
    values, vectors = np.linalg.eigh(a.covariance)
    root = sqrtm(np.diag(values[d - rank_a :])).real @ vectors[:, d - rank_a :].T
    trace = np.sqrt(np.maximum(eigvalsh(root @ b.covariance @ root.T), 0))
    trace = trace[np.argsort(trace)[-min(rank_a, rank_b) :]].sum()
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance) - 2 * trace
    assert distance(a, b) == pytest.approx(expected, rel=1e-6)
    if rank_a == rank_b == d:
        plain = np.trace(a.covariance + b.covariance - 2 * sqrtm(a.covariance @ b.covariance).real)
        assert distance(a, b) == pytest.approx(np.sum((a.mean - b.mean) ** 2) + plain, rel=1e-6)


def test_moments_are_the_same_however_the_features_come():
    features = 1e5 + correlated(57, 9, 5)
    moments = Moments()
    for start, end in ((0, 1), (1, 1), (1, 30), (30, 57)):
        moments.add(features[start:end])
        moments = Moments(moments.state)  # as a run that goes on does
    for unbiased in (True, False):
        mean, covariance = moments.gaussian(unbiased)
        assert mean == pytest.approx(features.mean(0), rel=1e-12)
        assert covariance == pytest.approx(np.cov(features.T, bias=not unbiased), rel=1e-9)
    assert moments.count == 57


def test_features_of_two_networks_do_not_belong_together():
    moments = Moments()
    moments.add(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="3 and of 4 numbers"):
        moments.add(np.zeros((2, 4)))
