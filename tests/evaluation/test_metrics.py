"""Scores: parity with scikit-learn and a plain bootstrap, and the laws that every table of scores obeys."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import (
    accuracy,
    age_mae,
    bootstrap_interval,
    confusion_matrix,
    evaluate,
)
from facekit.tasks import AGE_BAND, GENDER, RACE, Task

YEARS = Task("age_years", "regression", scale=10.0)
COLOUR = Task("colour", "multiclass", ("red", "green", "blue"))


def predictions_and_targets(n_classes: int = 3) -> st.SearchStrategy:
    """Lists of (prediction, target) pairs, targets partly missing, at least one known."""
    pair = st.tuples(st.integers(0, n_classes - 1), st.integers(-1, n_classes - 1))
    return st.lists(pair, min_size=1, max_size=40).filter(lambda pairs: any(target >= 0 for _, target in pairs))


def columns(pairs: list) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)


def one_hot(predictions: np.ndarray, n_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(predictions), n_classes).float()


def balanced_accuracy(predictions: np.ndarray, targets: np.ndarray) -> float:
    """scikit-learn's, on the known labels; NaN where there is none."""
    known = targets >= 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes that are predicted but do not occur
        return sklearn_metrics.balanced_accuracy_score(targets[known], predictions[known]) if known.any() else np.nan


@given(predictions_and_targets())
def test_scores_are_those_of_scikit_learn_on_the_known_labels(pairs):
    predictions, targets = columns(pairs)
    known = targets >= 0
    reference = targets[known], predictions[known]
    assert accuracy(predictions, targets) == pytest.approx(sklearn_metrics.accuracy_score(*reference))
    outputs, labels = {"colour": one_hot(predictions, 3)}, {"colour": torch.from_numpy(targets)}
    values = evaluate([COLOUR], outputs, labels, n_boot=1).set_index("metric").value
    assert values["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(*reference))
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy(predictions, targets))
    counts = confusion_matrix(COLOUR, predictions, targets)
    np.testing.assert_array_equal(counts, sklearn_metrics.confusion_matrix(*reference, labels=range(3)))
    assert list(counts.index) == list(counts.columns) == list(COLOUR.classes)


def test_age_error_of_bands_years_and_both():
    predicted, target = torch.tensor([3, 3, 8, 0]), torch.tensor([3, 5, -1, -1])
    assert age_mae(AGE_BAND, predicted, target) == pytest.approx((0 + 20) / 2)
    years = np.array([20.0, np.nan, 80.0, np.nan])  # exact for the first and third, the band's middle for the second
    assert age_mae(AGE_BAND, predicted, target, years) == pytest.approx((4.5 + 20 + 5) / 3)
    assert age_mae(YEARS, torch.tensor([10.0, 30]), torch.tensor([12.0, float("nan")])) == pytest.approx(2)
    assert np.isnan(age_mae(AGE_BAND, predicted, torch.full((4,), -1)))
    with pytest.raises(ConfigError, match="midpoints"):
        age_mae(GENDER, predicted, target)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(0, 5), st.randoms())
@settings(max_examples=40)
def test_an_interval_contains_its_value_grows_with_its_level_and_ignores_the_order(values, seed, random):
    low, high = bootstrap_interval(values, seed=seed, n_boot=200)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= low <= np.mean(values) + slack
    assert np.mean(values) - slack <= high <= max(values) + slack
    wider = bootstrap_interval(values, seed=seed, n_boot=200, level=0.99)
    assert wider[0] <= low and high <= wider[1]
    assert bootstrap_interval(random.sample(values, len(values)), seed=seed, n_boot=200) == (low, high)


def test_the_interval_of_a_mean_has_the_width_that_theory_gives():
    values = np.random.default_rng(0).normal(5, 2, 4000)
    low, high = bootstrap_interval(values, n_boot=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_95_percent_intervals_of_an_accuracy_cover_the_truth_about_so_often():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        right = rng.random(200) < 0.7
        table = evaluate([GENDER], {"gender": one_hot(1 - right.astype(int), 2)}, {"gender": torch.zeros(200).long()})
        covered += table.low[0] <= 0.7 <= table.high[0]
    assert 0.91 <= covered / 300 <= 0.98


def test_a_statistic_over_rows_and_in_pieces(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(50, 2))

    def difference(resamples: np.ndarray) -> np.ndarray:
        return resamples[..., 0].mean(1) - resamples[..., 1].mean(1)

    whole = bootstrap_interval(rows, difference, n_boot=300)
    assert whole == pytest.approx(bootstrap_interval(rows[:, 0] - rows[:, 1], n_boot=300), abs=0.12)
    monkeypatch.setattr("facekit.evaluation.metrics._DRAWS_AT_ONCE", 700)
    assert bootstrap_interval(rows, difference, n_boot=300) == whole


def test_intervals_from_counts_are_those_from_drawn_rows():
    rng = np.random.default_rng(0)
    targets = rng.choice(3, 300, p=(0.6, 0.3, 0.1))
    predictions = np.where(rng.random(300) < 0.6, targets, rng.integers(0, 3, 300))
    table = evaluate([COLOUR], {"colour": one_hot(predictions, 3)}, {"colour": torch.from_numpy(targets)}, n_boot=4000)
    drawn = rng.integers(0, 300, (4000, 300))
    for metric, function in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy)):
        expected = np.quantile([function(predictions[rows], targets[rows]) for rows in drawn], (0.025, 0.975))
        row = table[table.metric == metric].iloc[0]
        assert (row.low, row.high) == pytest.approx(tuple(expected), abs=0.01)


@given(predictions_and_targets(), st.randoms(), st.integers(0, 3))
@settings(max_examples=40)
def test_a_table_of_scores_obeys_its_laws(pairs, random, seed):
    predictions, targets = columns(pairs)
    groups = pd.Series([random.choice(["a", "b", "c"]) for _ in pairs])

    def table(order: np.ndarray) -> pd.DataFrame:
        outputs = {"colour": one_hot(predictions[order], 3)}
        labels = {"colour": torch.from_numpy(targets[order])}
        return evaluate([COLOUR], outputs, labels, groups.iloc[order], seed=seed, n_boot=50)

    order = list(range(len(pairs)))
    found = table(np.array(order))
    pd.testing.assert_frame_equal(found, table(np.array(random.sample(order, len(order)))))
    known = found[found.n > 0]
    assert (known.low <= known.value).all() and (known.value <= known.high).all()
    assert found[found.n == 0][["value", "low", "high"]].isna().all().all()
    whole, parts = found[found.group == "all"], found[found.group != "all"]
    for metric in ("accuracy", "balanced_accuracy"):
        assert parts[parts.metric == metric].n.sum() == whole[whole.metric == metric].n.item() == (targets >= 0).sum()
    rights = (parts.value.fillna(0) * parts.n)[parts.metric == "accuracy"].sum()
    assert rights == pytest.approx((whole.value * whole.n)[whole.metric == "accuracy"].item())
    for group, rows in groups.groupby(groups).groups.items():
        row = found[(found.group == group) & (found.metric == "balanced_accuracy")].iloc[0]
        assert row.value == pytest.approx(balanced_accuracy(predictions[rows], targets[rows]), nan_ok=True)


def test_nothing_known_gives_nan_and_no_error():
    tasks = [GENDER, AGE_BAND, YEARS]
    for n in (0, 4):
        outputs = {task.name: torch.zeros(n, task.n_outputs) for task in tasks}
        targets = {
            "gender": torch.full((n,), -1),
            "age": torch.full((n,), -1),
            "age_years": torch.full((n,), torch.nan),
        }
        groups = pd.Series(["x"] * n, dtype=object)
        table = evaluate(tasks, outputs, targets, groups)
        assert (table.n == 0).all() and table[["value", "low", "high"]].isna().all().all()
    assert all(np.isnan(bootstrap_interval([])))


def test_groups_from_categories_tables_and_rows_without_a_name():
    outputs, targets = {"gender": torch.eye(2).repeat(3, 1)}, {"gender": torch.tensor([0, 1, 0, 0, -1, 1])}
    categories = pd.Series(pd.Categorical(["b", "b", "a", None, "a", "a"], categories=["b", "a", "unused"]))
    table = evaluate([GENDER], outputs, targets, categories)
    rows = table[table.metric == "accuracy"]
    assert list(rows.group) == ["all", "b", "a", "unused"] and list(rows.n) == [5, 2, 2, 0]
    several = pd.DataFrame({"race": ["P", "P", "Q", "Q", None, "Q"], "glasses": ["no", "yes", "no", "no", "no", "yes"]})
    table = evaluate([GENDER], outputs, targets, several)
    rows = table[table.metric == "accuracy"].set_index("group")
    assert rows.n.to_dict() == {"all": 5, "P, no": 1, "P, yes": 1, "Q, no": 2, "Q, yes": 1}
    assert rows.value["Q, no"] == 0.5


def test_numbers_behind_bands_enter_the_error_only():
    outputs, targets = {"age": torch.eye(9)}, {"age": torch.arange(9)}
    exact = {"age": np.array(AGE_BAND.midpoints) + 2}
    table = evaluate([AGE_BAND], outputs, targets, numbers=exact).set_index("metric")
    assert table.value.to_dict() == {"accuracy": 1, "balanced_accuracy": 1, "mae": 2}


def test_regression_and_low_precision_outputs():
    outputs = {"age_years": torch.tensor([[3.0], [5.0]], dtype=torch.bfloat16)}
    table = evaluate([YEARS], outputs, {"age_years": torch.tensor([32.0, 46.0])})
    assert list(table.metric) == ["mae"] and table.value.item() == pytest.approx(3) and table.n.item() == 2


def test_what_does_not_fit_together_is_refused():
    outputs, targets = {"gender": torch.zeros(3, 2)}, {"gender": torch.zeros(3).long()}
    with pytest.raises(DataError, match="no outputs of task 'race'"):
        evaluate([RACE], outputs, targets)
    with pytest.raises(DataError, match="must both be"):
        evaluate([GENDER], outputs, {"gender": torch.zeros(4).long()})
    with pytest.raises(DataError, match="2 group names for 3 rows"):
        evaluate([GENDER], outputs, targets, ["a", "b"])
    with pytest.raises(DataError, match="NaN"):
        evaluate([GENDER], {"gender": torch.full((3, 2), torch.nan)}, targets)
    with pytest.raises(DataError, match="class index"):
        confusion_matrix(GENDER, [0, 2], [0, 1])
    with pytest.raises(ConfigError, match="needs classes"):
        confusion_matrix(YEARS, [0.0], [1.0])
    with pytest.raises(ConfigError, match="n_boot"):
        bootstrap_interval([1.0], n_boot=0)
