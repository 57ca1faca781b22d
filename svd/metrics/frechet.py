"""The Frechet distance between two sets of features: FID's and FVD's formula, for features of any network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """The normal distribution with the mean [d] and the covariance [d d] of a set of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def fit(features: np.ndarray) -> Gaussian:
    """The mean of n >= 2 feature vectors [n d] and their unbiased covariance, which may be singular.

    Raises:
        ValueError: another shape, too few vectors, or values that are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"features must be of shape [n d], one row for each video, got {list(features.shape)}")
    if len(features) < 2:
        raise ValueError(f"a covariance needs the features of at least 2 videos, got {len(features)}")
    if not np.isfinite(features).all():
        raise ValueError("features hold values that are not finite: look at the videos and at the network")
    return Gaussian(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The squared Frechet distance between the normal distributions of two sets of features, [n d] and [m d].

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Dowson & Landau 1982, equation 4; FVD, arXiv 1812.01717,
    equation 2). It has a bias that falls with n and m, so that only distances between sets as large compare.

    Raises:
        ValueError: the sets cannot be used, see `fit`, or have features of different widths.
    """
    a, b = fit(features), fit(reference)
    if len(a.mean) != len(b.mean):
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers do not compare: use one network")
    # The eigenvalues of S_1 S_2 are the squared singular values of S_1^(1/2) S_2^(1/2). Computed so,
    # nothing is rounded below zero, and the distance of a set to itself is zero up to rounding even for singular ones.
    root_trace = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    distance = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root_trace
    return max(float(distance), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semidefinite matrix [d d]."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
