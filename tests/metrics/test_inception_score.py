"""The Inception Score where it is known."""

import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.special import softmax as scipys

from svd.metrics.inception_score import inception_score, softmax


def test_a_classifier_that_says_nothing_scores_one():
    assert inception_score(np.full((40, 7), 1 / 7), 4) == pytest.approx((1, 0))


def test_certain_and_diverse_samples_score_the_number_of_classes():
    assert inception_score(np.tile(np.eye(5), (8, 1)), 2)[0] == pytest.approx(5)


def test_it_is_the_mean_over_parts_of_the_samples_in_their_order():
    probabilities = softmax(np.random.default_rng(0).standard_normal((21, 6)) * 3)
    scores = []
    for first, last in ((0, 10), (10, 21)):
        p = probabilities[first:last]
        scores.append(np.exp(rel_entr(p, p.mean(0)).sum(1).mean()))
    assert inception_score(probabilities, 2) == pytest.approx((np.mean(scores), np.std(scores)))


def test_softmax():
    logits = np.array([[0, 1, 700], [-1e4, 0, 3]], np.float32)
    assert softmax(logits) == pytest.approx(scipys(logits.astype(float), 1), rel=1e-12)


def test_fewer_samples_than_parts():
    with pytest.raises(ValueError, match="3 samples cannot be divided into 10 parts"):
        inception_score(np.eye(3))
