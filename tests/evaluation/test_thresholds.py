"""Thresholds by group: parity with a search over all of them, and the table of what they trade."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.errors import ConfigError, DataError
from facekit.evaluation.thresholds import EQUAL, decide, fit_thresholds, traded
from facekit.tasks import GENDER, RACE


def scored(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """Scores whose base rate and quality differ between two groups."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    targets = (rng.random(n) < np.array([0.6, 0.3])[group]).astype(int)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + (2 * targets - 1) * np.array([1.5, 0.5])[group])))
    return scores, np.where(rng.random(n) < 0.05, -1, targets), pd.Series(np.array(["a", "b"])[group], name="race")


def rate(equal: str, answers: np.ndarray, targets: np.ndarray) -> float:
    about = {"true_positive_rate": targets == 1, "false_positive_rate": targets == 0, "selection_rate": targets >= 0}
    return answers[about[equal]].mean()


@given(st.integers(0, 10**6), st.sampled_from(EQUAL), st.floats(0, 1), st.booleans())
@settings(max_examples=60)
def test_no_threshold_comes_nearer_to_the_rate(seed, equal, wanted, rounded):
    scores, targets, groups = scored(60, seed)
    if rounded:
        scores = scores.round(1)  # many equal scores
    found = fit_thresholds(scores, targets, groups, equal, wanted)
    for group, threshold in found.items():
        own = (groups == group).to_numpy()
        reached = rate(equal, (scores > threshold)[own], targets[own])
        every = [rate(equal, (scores > cut)[own], targets[own]) for cut in [-1, *scores, 2]]
        assert abs(reached - wanted) == pytest.approx(min(abs(each - wanted) for each in every))


@pytest.mark.parametrize("equal", EQUAL)
def test_one_rate_becomes_equal_and_the_table_says_what_it_costs(equal):
    scores, targets, groups = scored()
    found = fit_thresholds(scores, targets, groups, equal)
    table = traded(GENDER, scores, targets, groups, {"one": 0.5, "by group": found}, n_boot=100)
    value = table.set_index(["rule", "metric", "group"])["value"]
    assert value["one", equal, "gap"] > 0.1 and value["by group", equal, "gap"] < 0.01
    known = targets >= 0
    assert rate(equal, scores > 0.5, targets) == pytest.approx(value["one", equal, "all"])
    assert value["one", "accuracy", "all"] == pytest.approx(((scores > 0.5) == targets)[known].mean())
    for rule, answers in (("one", scores > 0.5), ("by group", decide(scores, groups, found))):
        for group in ("a", "b"):
            own = (groups == group).to_numpy()
            for metric in EQUAL:
                assert value[rule, metric, group] == pytest.approx(rate(metric, answers[own], targets[own]))
    others = set(EQUAL) - {equal}
    assert max(value["by group", other, "gap"] for other in others) > 0.1  # in general no second one


def test_small_groups_are_in_the_table_and_not_in_the_gap():
    scores, targets, groups = scored()
    groups[:10] = "few"
    table = traded(GENDER, scores, targets, groups, {"one": 0.5}, n_boot=10).set_index(["metric", "group"])
    assert table.loc[("accuracy", "few"), "small"]
    pair = table["value"]["accuracy", "a"] - table["value"]["accuracy", "b"]
    assert table.loc[("accuracy", "gap"), "value"] == pytest.approx(abs(pair))


def test_what_does_not_fit_is_refused():
    scores, targets, groups = scored(50)
    with pytest.raises(ConfigError, match="equal is 'odds'"):
        fit_thresholds(scores, targets, groups, "odds")
    with pytest.raises(ConfigError, match="rate is 2"):
        fit_thresholds(scores, targets, groups, rate=2)
    with pytest.raises(DataError, match="group 'b' has no row from which a true_positive_rate"):
        fit_thresholds(scores, np.where(groups == "b", 0, targets), groups)
    with pytest.raises(DataError, match="must all be"):
        fit_thresholds(scores, targets[1:], groups)
    with pytest.raises(DataError, match="row 3 is not finite"):
        fit_thresholds(np.where(np.arange(50) == 3, np.nan, scores), targets, groups)
    with pytest.raises(DataError, match="a target is 2"):
        fit_thresholds(scores, targets + 1, groups)
    with pytest.raises(DataError, match="row 0 is of group 'c'"):
        decide([0.5], ["c"], fit_thresholds(scores, targets, groups))
    with pytest.raises(ConfigError, match="7 classes"):
        traded(RACE, scores, targets, groups, {"one": 0.5})
