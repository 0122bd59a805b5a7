"""Scores of transferability: parity with independent computations, what must change nothing, and bad input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import helmert
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.transferability import h_score, logme
from facekit.tasks import Task

THREE = Task("kind", "multiclass", ("a", "b", "c"))
WITH_BIAS = partial(logme, bias=True)
SCORES = (logme, WITH_BIAS, h_score)


def rows(seed: int, n: int = 60, dim: int = 5, signal: float = 1.0, classes: str = "abc") -> FeatureSet:
    """Three classes whose means are `signal` apart, in noise of 1."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(list(classes), n))
    means = rng.normal(size=(len(classes), dim))
    features = signal * means[[classes.index(each) for each in labels]] + rng.normal(size=(n, dim))
    return FeatureSet(features, pd.DataFrame({"kind": labels, "split": "train"}))


def with_features(data: FeatureSet, features: np.ndarray) -> FeatureSet:
    return replace(data, inputs=features)


def evidence_by_search(data: FeatureSet, bias: bool = False) -> float:
    """The density of each class's targets, maximised over both precisions by a general minimiser; no decomposition.

    With a bias it is that of contrasts, of which each has the sum 0.
    """
    features, labels = data.features, data.labels["kind"].to_numpy()
    contrasts = helmert(len(features)) if bias else np.eye(len(features))
    features, found = contrasts @ features, []
    n = len(features)
    for name in np.unique(labels):
        target = contrasts @ (labels == name).astype(float)

        def lost(logs: np.ndarray, target: np.ndarray = target) -> float:
            covariance = np.exp(-logs[1]) * np.eye(n) + np.exp(-logs[0]) * features @ features.T
            return -multivariate_normal.logpdf(target, cov=covariance)

        starts = [np.array([start, 1.0]) for start in (-2.0, 2.0, 6.0)]
        found.append(-min(minimize(lost, start, method="Nelder-Mead").fun for start in starts) / len(labels))
    return float(np.mean(found))


def evidence_by_paper(data: FeatureSet, rounds: int = 2000) -> float:
    """You et al. (2021), algorithm 1: α and β in turns, each from the mean of the weights and how many are fixed."""
    features, labels = data.features, data.labels["kind"].to_numpy()
    (n, dim), gram, found = features.shape, features.T @ features, []
    sizes = np.linalg.eigvalsh(gram)
    for name in np.unique(labels):
        target, alpha, beta = (labels == name).astype(float), 1.0, 1.0
        for _ in range(rounds):
            precision = alpha * np.eye(dim) + beta * gram
            weights = beta * np.linalg.solve(precision, features.T @ target)
            fixed = (beta * sizes / (alpha + beta * sizes)).sum()
            error = ((features @ weights - target) ** 2).sum()
            alpha, beta = fixed / (weights @ weights), (n - fixed) / error
        precision = alpha * np.eye(dim) + beta * gram
        weights = beta * np.linalg.solve(precision, features.T @ target)
        error = ((features @ weights - target) ** 2).sum()
        total = n / 2 * np.log(beta) + dim / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
        total += -beta / 2 * error - alpha / 2 * weights @ weights - np.linalg.slogdet(precision)[1] / 2
        found.append(total / n)
    return float(np.mean(found))


@pytest.mark.parametrize("seed, n, dim, signal", [(0, 60, 5, 1.0), (1, 40, 3, 0.3), (2, 12, 30, 1.0), (3, 60, 5, 0.0)])
def test_logme_is_the_evidence_at_its_maximum(seed, n, dim, signal):
    data = rows(seed, n, dim, signal)
    assert logme(data, THREE) == pytest.approx(evidence_by_search(data), abs=1e-5)
    assert logme(data, THREE, bias=True) == pytest.approx(evidence_by_search(data, bias=True), abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_logme_is_where_the_papers_iteration_ends(seed):
    data = rows(seed, 200, 8)
    assert logme(data, THREE) == pytest.approx(evidence_by_paper(data), abs=1e-5)


def test_the_h_score_is_that_of_its_definition():
    from sklearn.covariance import LedoitWolf

    data = rows(0, 200, 8)
    classes = data.labels["kind"]
    means = pd.DataFrame(data.features).groupby(classes).transform("mean").to_numpy()
    fitted = LedoitWolf().fit(data.features)
    between = np.cov(means, rowvar=False, bias=True)
    expected = (1 - fitted.shrinkage_) * np.trace(np.linalg.inv(fitted.covariance_) @ between)
    assert h_score(data, THREE) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.integers(2, 40))
def test_a_turn_and_another_unit_of_the_features_change_nothing(seed, unit, dim):
    data = rows(seed, 40, dim)
    turned = unit * data.features @ ortho_group.rvs(dim, random_state=seed)
    for score in SCORES:
        assert score(with_features(data, turned), THREE) == pytest.approx(score(data, THREE), abs=1e-6)


def test_what_all_embeddings_have_in_common_counts_only_without_a_bias():
    data = rows(0, 60)
    shifted = with_features(data, data.features + 5)
    for score in (WITH_BIAS, h_score):
        assert score(shifted, THREE) == pytest.approx(score(data, THREE), abs=1e-8)
    assert logme(shifted, THREE) > logme(data, THREE) + 0.01


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_order_other_names_and_unlabelled_rows_change_nothing(seed):
    data = rows(seed, 40)
    order = np.random.default_rng(seed).permutation(len(data))
    renamed = replace(data, labels=data.labels.replace({"kind": {"a": "c", "c": "a"}}))
    more = data.labels.reindex(range(50))
    more["split"] = "train"
    unlabelled = FeatureSet(np.concatenate([data.features, np.full((10, 5), 1e3)]), more)
    for score in SCORES:
        for other in (data.select(order), renamed, unlabelled):
            assert score(other, THREE) == pytest.approx(score(data, THREE), abs=1e-8)


@pytest.mark.parametrize("score", SCORES)
def test_more_signal_and_a_finer_answer_score_higher(score):
    found = [score(rows(5, 300, 6, signal), THREE) for signal in (0.0, 0.3, 1.0, 3.0)]
    assert found == sorted(found) and found[0] < found[-1]
    data = rows(5, 300, 6)
    noisy = np.concatenate([data.features, np.random.default_rng(0).normal(size=(300, 200))], axis=1)
    assert score(with_features(data, noisy), THREE) < score(data, THREE)


def test_bounds_of_the_h_score():
    assert 0 <= h_score(rows(0, 3000, 4, 0.0), THREE) < 0.02
    far = h_score(rows(0, 300, 4, 100.0), THREE)
    assert 1.9 < far <= 2
    assert h_score(rows(0, 300, 4, 100.0, "ab"), THREE) <= 1  # of the three classes two occur


def test_features_that_give_the_labels_exactly_have_a_finite_score():
    data = rows(0, 30)
    exact = with_features(data, (data.labels["kind"].to_numpy()[:, None] == np.array(list("abc"))).astype(float))
    assert np.isfinite(logme(exact, THREE)) and logme(exact, THREE) > logme(data, THREE)


@pytest.mark.parametrize("score", SCORES)
def test_bad_input(score):
    data = rows(0, 20)
    with pytest.raises(DataError, match="of 1 classes"):
        score(data.select(data.labels["kind"] == "a"), THREE)
    with pytest.raises(DataError, match="1 rows with a label"):
        score(data.select([0]), THREE)
    broken = data.features.copy()
    broken[7, 2] = np.nan
    with pytest.raises(DataError, match="1 labelled rows .* row 7"):
        score(with_features(data, broken), THREE)
    with pytest.raises(DataError, match="same answer for every picture"):
        score(with_features(data, np.zeros((20, 5))), THREE)
    with pytest.raises(DataError, match="'kind'"):
        score(FeatureSet(data.features, data.labels[["split"]]), THREE)
    with pytest.raises(ConfigError, match="multiclass"):
        score(data, Task("kind", "ordinal", ("a", "b", "c")))
