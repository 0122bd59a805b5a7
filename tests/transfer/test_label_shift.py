"""Label shift: on two Gaussians everything is known, so that mixtures and probabilities can be held against it."""

from __future__ import annotations

import numpy as np
import pytest

from facekit.errors import ConfigError, DataError
from facekit.transfer.label_shift import estimated_mixture, mixture_by_confusion, reweighted

SOURCE, TARGET = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
MIDDLES = np.array([-1.5, 0.0, 2.0])


def rows(mixture: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of three normal classes around MIDDLES, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=mixture)
    return rng.normal(MIDDLES[labels]), labels


def probabilities(x: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """Bayes' rule, with the densities that are known here."""
    likely = mixture * np.exp(-((x[:, None] - MIDDLES) ** 2) / 2)
    return likely / likely.sum(1, keepdims=True)


def test_reweighted_is_bayes_rule_with_the_other_mixture():
    x, _ = rows(TARGET, 500, 0)
    found = reweighted(probabilities(x, SOURCE), SOURCE, TARGET)
    np.testing.assert_allclose(found, probabilities(x, TARGET), atol=1e-12)
    np.testing.assert_allclose(reweighted(found, TARGET, SOURCE), probabilities(x, SOURCE), atol=1e-12)


def test_em_finds_the_mixture_and_never_lowers_the_likelihood():
    x, _ = rows(TARGET, 40_000, 1)
    found = probabilities(x, SOURCE)
    assert np.abs(estimated_mixture(found, SOURCE) - TARGET).max() < 0.015

    def likelihood(mixture: np.ndarray) -> float:
        return np.log((found * (mixture / SOURCE)).sum(1)).sum()

    path = [likelihood(estimated_mixture(found, SOURCE, rounds=n)) for n in range(1, 30)]
    assert np.all(np.diff(path) >= -1e-9)
    best = estimated_mixture(found, SOURCE)  # no mixture near it is more likely
    rng = np.random.default_rng(0)
    others = [np.abs(best + rng.normal(0, 0.01, 3)) for _ in range(50)]
    assert all(likelihood(best) >= likelihood(other / other.sum()) for other in others)


def test_without_a_shift_the_mixture_stays():
    x, _ = rows(SOURCE, 40_000, 2)
    assert np.abs(estimated_mixture(probabilities(x, SOURCE), SOURCE) - SOURCE).max() < 0.015


def test_confusion_gives_the_mixture_even_for_probabilities_that_are_not_calibrated():
    """What EM needs and this does not: with overconfident answers EM is off and the confusion matrix is not."""
    (x, _), (held_out, labels) = rows(TARGET, 40_000, 3), rows(SOURCE, 40_000, 4)

    def sharp(x: np.ndarray) -> np.ndarray:
        found = probabilities(x, SOURCE) ** 3
        return found / found.sum(1, keepdims=True)

    by_confusion = mixture_by_confusion(sharp(x), sharp(held_out), labels, SOURCE)
    assert np.abs(by_confusion - TARGET).max() < 0.02
    assert np.abs(estimated_mixture(sharp(x), SOURCE) - TARGET).max() > 0.03


@pytest.mark.parametrize(
    ("found", "before"),
    [
        (np.ones((4, 3)), SOURCE),
        (np.full((4, 3), np.nan), SOURCE),
        (np.full((4, 2), 0.5), SOURCE),
        (np.zeros((0, 3)), SOURCE),
        (np.full((4, 3), 1 / 3), np.array([0.5, 0.5, 0.0])),
        (np.array([[-0.5, 1.0, 0.5]]), SOURCE),
    ],
)
def test_what_is_no_probabilities_is_refused(found, before):
    with pytest.raises(ConfigError):
        estimated_mixture(found, before)


def test_a_class_that_was_not_held_out_is_named():
    x, _ = rows(SOURCE, 50, 0)
    found = probabilities(x, SOURCE)
    with pytest.raises(DataError, match=r"\[2\]"):
        mixture_by_confusion(found, found, np.arange(50) % 2, SOURCE)
