"""The Inception Score (Salimans et al. 2016, arXiv 1606.03498, section 4) of a classifier's probabilities."""

from __future__ import annotations

import numpy as np

LEAST = 1e-20
"""What is added to every probability, so that none is zero (TGANv2's)."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits [n classes], in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def inception_score(probabilities: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))) of n samples' probabilities [n classes]: the mean and the standard deviation over
    `splits` equal parts of the samples.

    Raises:
        ValueError: there are fewer samples than parts.
    """
    n = len(probabilities)
    if n < splits:
        raise ValueError(f"{n} samples cannot be divided into {splits} parts")
    scores = []
    for part in range(splits):
        p = probabilities[part * n // splits : (part + 1) * n // splits].astype(np.float64) + LEAST
        divergence = p * (np.log(p) - np.log(p.mean(0, keepdims=True)))
        scores.append(np.exp(divergence.sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
