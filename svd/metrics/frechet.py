"""The Frechet distance between two sets of features: FID's and FVD's formula, for features of any network.

Of a set, its mean and covariance are all that counts: `Moments` gathers them batch by batch, so that no features have
to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

import numpy as np


class Gaussian(NamedTuple):
    """The normal distribution with the mean [d] and the covariance [d d] of a set of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Moments:
    """Number, mean and covariance of features that come batch by batch; in float64.

    Batches are merged by their means (Chan, Golub & LeVeque 1983, equation 2.1), so that nothing cancels.
    """

    def __init__(self, state: Optional[Mapping[str, np.ndarray]] = None):
        self.count, self._mean, self._scatter = 0, np.zeros(0), np.zeros((0, 0))
        if state is not None:
            self.count, self._mean, self._scatter = int(state["count"]), state["mean"], state["scatter"]

    def add(self, features: np.ndarray) -> None:
        """Take in features [n d].

        Raises:
            ValueError: another shape or width, or values that are not finite.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2:
            raise ValueError(f"features must be of shape [n d], one row for each video, got {list(features.shape)}")
        if not np.isfinite(features).all():
            raise ValueError("features hold values that are not finite: look at the videos and at the network")
        n, d = features.shape
        if n == 0:
            return
        if self.count == 0:
            self._mean, self._scatter = np.zeros(d), np.zeros((d, d))
        if len(self._mean) != d:
            raise ValueError(f"features of {len(self._mean)} and of {d} numbers do not belong together")
        centre = features.mean(0)
        centred, shift = features - centre, centre - self._mean
        total = self.count + n
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * n / total)
        self._mean = self._mean + shift * (n / total)
        self.count = total

    def gaussian(self, unbiased: bool = True) -> Gaussian:
        """The mean and the covariance, by n - 1 or by n; raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs the features of at least 2 videos, got {self.count}")
        return Gaussian(self._mean, self._scatter / (self.count - 1 if unbiased else self.count))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What another one goes on from."""
        return {"count": np.array(self.count), "mean": self._mean, "scatter": self._scatter}


def fit(features: np.ndarray) -> Gaussian:
    """The mean of n >= 2 feature vectors [n d] and their unbiased covariance, which may be singular.

    Raises:
        ValueError: another shape, too few vectors, or values that are not finite.
    """
    moments = Moments()
    moments.add(features)
    return moments.gaussian()


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """`distance` between the normal distributions of two sets of features, [n d] and [m d].

    Raises:
        ValueError: the sets cannot be used, see `fit`, or have features of different widths.
    """
    return distance(fit(features), fit(reference))


def distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Frechet distance between two normal distributions.

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Dowson & Landau 1982, equation 4; FVD, arXiv 1812.01717,
    equation 2). It has a bias that falls with the number of vectors, so that only distances between sets as large
    compare.

    Raises:
        ValueError: they are of features of different widths.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers do not compare: use one network")
    # The eigenvalues of S_1 S_2 are the squared singular values of S_1^(1/2) S_2^(1/2). Computed so,
    # nothing is rounded below zero, and the distance of a set to itself is zero up to rounding even for singular ones.
    root_trace = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    squared = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root_trace
    return max(float(squared), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semidefinite matrix [d d]."""
    values, vectors = np.linalg.eigh(covariance)
    # What is rounding alone would count as its root, a hundred million times as large: of 2048 features and few
    # vectors, two thousand times.
    values[values < len(values) * np.finfo(np.float64).eps * values.max(initial=0)] = 0
    return vectors * np.sqrt(values) @ vectors.T
