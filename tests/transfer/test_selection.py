"""Weights for selection bias: known ratios between Gaussians, the effective number of rows, and choosing by weight."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.transfer.selection import (
    density_ratio,
    domain_probe,
    effective_size,
    kernel_mean_matching,
    rejection_sample,
)


def rows(features: np.ndarray) -> FeatureSet:
    return FeatureSet(features.astype(np.float32), pd.DataFrame({"split": ["train"] * len(features)}))


@pytest.mark.parametrize("n_target", [4000, 1000])
def test_the_ratio_of_two_gaussians_is_found(n_target):
    rng = np.random.default_rng(0)
    shift = np.array([0.5, -0.3, 0.0])
    source = rng.normal(size=(4000, 3))
    found = density_ratio(rows(source), rows(rng.normal(size=(n_target, 3)) + shift), prior=1e-3)
    wanted = np.exp(source @ shift - shift @ shift / 2)  # N(x; shift, I) / N(x; 0, I)
    assert np.abs(np.log(found) - np.log(wanted / wanted.mean())).max() < 0.35
    assert np.corrcoef(found, wanted)[0, 1] > 0.99
    assert found.mean() == pytest.approx(1)


def test_weighting_moves_the_sources_mean_to_the_targets():
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(5000, 2)), rng.normal(size=(5000, 2)) + [0.6, 0.2]
    weights = density_ratio(rows(source), rows(target), prior=1e-3)
    assert np.allclose(np.average(source, axis=0, weights=weights), target.mean(0), atol=0.06)


def test_without_a_difference_or_with_a_huge_prior_all_weigh_the_same():
    rng = np.random.default_rng(2)
    source, same, other = rng.normal(size=(3000, 2)), rng.normal(size=(3000, 2)), rng.normal(size=(3000, 2)) + 2
    assert np.abs(density_ratio(rows(source), rows(same), prior=1e-3) - 1).max() < 0.35
    assert np.allclose(density_ratio(rows(source), rows(other), prior=1e9), 1, atol=1e-3)


def test_weights_stay_finite_where_the_domains_do_not_overlap():
    source, target = np.full((50, 2), -1e3), np.full((50, 2), 1e3)
    source[:, 1] = np.arange(50)
    assert np.isfinite(density_ratio(rows(source), rows(target), prior=1e-6)).all()


def test_domains_of_different_length_are_refused():
    with pytest.raises(DataError, match="got 3 and 2"):
        domain_probe(rows(np.zeros((4, 3))), rows(np.zeros((4, 2))))


def test_kernel_mean_matching_is_the_minimum_that_a_general_solver_finds():
    rng = np.random.default_rng(3)
    source, target = rng.normal(size=(30, 2)), rng.normal(size=(40, 2)) + [1.0, 0.0]
    found = kernel_mean_matching(rows(source), rows(target), width=0.7, most=4.0)
    source, target = (x.astype(np.float32).astype(np.float64) for x in (source, target))
    within = ((source[:, None] - source) ** 2).sum(2)
    unit = 2 * 0.7**2 * np.median(within)
    kernel = np.exp(-within / unit)
    wanted = 30 * np.exp(-((source[:, None] - target) ** 2).sum(2) / unit).mean(1)
    solved = minimize(
        lambda w: w @ kernel @ w / 2 - wanted @ w,
        np.ones(30),
        jac=lambda w: kernel @ w - wanted,
        bounds=[(0, 4)] * 30,
        constraints={"type": "eq", "fun": lambda w: w.mean() - 1},
        method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-14},
    )
    assert found.min() >= 0 and found.max() <= 4 and found.mean() == pytest.approx(1)
    assert found @ kernel @ found / 2 - wanted @ found <= solved.fun + 1e-5
    assert np.abs(kernel @ (found - solved.x)).max() < 1e-2


def test_kernel_mean_matching_moves_the_mean_and_leaves_equal_sets_alone():
    rng = np.random.default_rng(4)
    source, target = rng.normal(size=(600, 2)), rng.normal(size=(600, 2)) + [0.6, 0.2]
    weights = kernel_mean_matching(rows(source), rows(target))
    assert np.allclose(np.average(source, axis=0, weights=weights), target.mean(0), atol=0.15)
    assert effective_size(weights) < 550
    assert np.allclose(kernel_mean_matching(rows(source), rows(source)), 1, atol=1e-6)
    for wrong in ({"width": 0.0}, {"most": 0.5}):
        with pytest.raises(ConfigError, match="width"):
            kernel_mean_matching(rows(source), rows(target), **wrong)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.floats(0.1, 10))
def test_the_effective_size_is_between_one_and_all_and_knows_no_unit(weights, factor):
    weights = np.array(weights)
    size = effective_size(weights)
    assert 1 - 1e-9 <= size <= len(weights) + 1e-9
    assert effective_size(weights * factor) == pytest.approx(size)


def test_the_effective_size_at_both_ends():
    assert effective_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_size(np.array([0.0, 2.0, 0.0])) == pytest.approx(1)


def test_choosing_keeps_rows_in_proportion_to_their_weight():
    data = tiny.features(4000)
    weights = np.where(data.features[:, 0] < 0, 1.0, 0.25)
    kept = rejection_sample(data, weights, seed=3)
    dark = (kept.labels["colour"] == "dark").sum()
    expected = (data.labels["colour"] == "dark").sum()
    assert dark == expected  # the largest weight is always kept
    assert len(kept) - dark == pytest.approx(0.25 * (len(data) - expected), rel=0.1)
    assert (rejection_sample(data, weights, seed=3).features == kept.features).all()
    other = rejection_sample(data, weights, seed=4)
    assert len(other) != len(kept) or (other.features != kept.features).any()


@pytest.mark.parametrize("weights", [[1.0], [0.0] * 40, [-1.0] * 40, [np.nan] * 40])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match="weights must be 40"):
        rejection_sample(tiny.features(40), np.array(weights))
