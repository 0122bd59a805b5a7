"""Scores by group: parity with fairlearn and with a bootstrap of rows, and the laws of the worst group."""

from __future__ import annotations

import warnings
from functools import partial

import fairlearn.metrics as fairlearn
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special
from sklearn import metrics as sklearn_metrics

from facekit.errors import ConfigError, DataError
from facekit.evaluation import calibration
from facekit.evaluation.groups import METRICS, GroupCounts, calibration_by_group, group_scores, published
from facekit.evaluation.metrics import evaluate
from facekit.tasks import AGE_BAND, GENDER, RACE, Task

YEARS = Task("age_years", "regression", scale=10.0)


def people(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.DataFrame]:
    """Predictions, targets (some missing), probabilities and groups in 63 cells, some of them small, one empty."""
    rng = np.random.default_rng(seed)
    race = rng.choice(7, n, p=np.array([8, 4, 4, 2, 2, 1, 1]) / 22)
    age = rng.choice(9, n, p=np.array([3, 6, 6, 8, 8, 3, 2, 1, 1]) / 38)
    keep = (race != 6) | (age != 8)
    groups = pd.DataFrame({"race": np.array(RACE.classes)[race], "age": np.array(AGE_BAND.classes)[age]})[keep]
    gender = rng.integers(0, 2, n)
    logits = rng.normal(size=(n, 2)) * 2
    logits[np.arange(n), gender] += 1.5 - 0.15 * race
    targets = np.where(rng.random(n) < 0.05, -1, gender)
    probabilities = special.softmax(logits, axis=1)[keep]
    return probabilities.argmax(1), targets[keep], probabilities, groups.reset_index(drop=True)


def plain(groups: pd.DataFrame, by: list[str], function, *columns: np.ndarray) -> pd.Series:
    """function(columns of a cell) for every cell, by a loop."""
    cells = groups.groupby(by, observed=True).indices
    return pd.Series({cell: function(*(column[rows] for column in columns)) for cell, rows in cells.items()})


def test_scores_are_those_of_fairlearn_to_the_digit():
    predictions, targets, _, groups = people()
    known = targets >= 0
    table = group_scores(GENDER, predictions, targets, groups, positive=GENDER.classes[1], n_boot=2)
    theirs = {
        "accuracy": sklearn_metrics.accuracy_score,
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score,
        "selection_rate": partial(fairlearn.selection_rate, pos_label=1),
        "true_positive_rate": partial(fairlearn.true_positive_rate, pos_label=1),
        "false_positive_rate": partial(fairlearn.false_positive_rate, pos_label=1),
        "count": fairlearn.count,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that a small cell has not
        frame = fairlearn.MetricFrame(
            metrics=theirs, y_true=targets[known], y_pred=predictions[known], sensitive_features=groups[known]
        ).by_group
    assert len(frame) == 63
    for metric, mine in table.groupby("metric"):
        mine = mine.set_index(["race", "age"]).reindex(frame.index)
        value = mine["value"][mine["n"] > 0]  # without a positive they say 0 and we say NaN
        assert len(value) > 55
        np.testing.assert_array_equal(value, frame.loc[value.index, metric].astype(float))
        if metric in ("accuracy", "balanced_accuracy", "selection_rate"):
            np.testing.assert_array_equal(mine["n"], frame["count"].fillna(0))
        assert mine["value"][mine["n"] == 0].isna().all() and (mine["n"] == 0).any()


def test_errors_and_calibration_are_those_of_a_loop_over_cells():
    rng = np.random.default_rng(0)
    predictions, targets, probabilities, groups = people()
    years, told = rng.uniform(0, 90, len(groups)), rng.uniform(0, 90, len(groups))
    years[::7] = np.nan
    known = ~np.isnan(years)
    table = group_scores(YEARS, told, years, groups, n_boot=2).set_index(["race", "age"])
    frame = fairlearn.MetricFrame(
        metrics=sklearn_metrics.mean_absolute_error,
        y_true=years[known],
        y_pred=told[known],
        sensitive_features=groups[known],
    ).by_group
    np.testing.assert_allclose(table["value"].reindex(frame.index), frame, rtol=1e-12)
    table = group_scores(GENDER, predictions, targets, groups, probabilities, metrics=["calibration_error"], n_boot=2)
    expected = plain(groups, ["race", "age"], calibration.calibration_error, probabilities, targets)
    np.testing.assert_allclose(table.set_index(["race", "age"])["value"].reindex(expected.index), expected, atol=1e-12)
    whole = GroupCounts(GENDER, []).add(predictions, targets, groups, probabilities)
    curve, mine = calibration.calibration_curve(probabilities, targets), whole.calibration_curve()
    pd.testing.assert_frame_equal(mine, curve)


def test_scores_and_labels_behind_them_are_those_of_evaluate():
    rng = np.random.default_rng(1)
    targets, groups = rng.integers(-1, 9, 500), people(500)[3].iloc[:400]
    outputs = rng.normal(size=(500, 9))
    targets, outputs = targets[: len(groups)], outputs[: len(groups)]
    numbers = np.where(rng.random(len(groups)) < 0.5, rng.uniform(0, 90, len(groups)), np.nan)
    ours = group_scores(AGE_BAND, outputs.argmax(1), targets, groups, numbers=numbers)
    ours["group"] = ours["race"] + ", " + ours["age"]
    theirs = evaluate(
        [AGE_BAND],
        {"age": torch.from_numpy(outputs)},
        {"age": torch.from_numpy(targets)},
        groups,
        numbers={"age": numbers},
    )
    both = ours.merge(theirs, on=["metric", "group"])
    assert len(both) == len(theirs) - 3
    np.testing.assert_array_equal(both["n_x"], both["n_y"])
    np.testing.assert_allclose(both["value_x"], both["value_y"], rtol=1e-12)
    for side in ("low", "high"):  # other draws of the same bootstrap
        assert (both[f"{side}_x"] - both[f"{side}_y"]).abs()[both["metric"] != "mae"].mean() < 0.02


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_are_those_of_drawn_rows(metric):
    predictions, targets, probabilities, groups = people(4000)
    rng = np.random.default_rng(2)
    if metric == "mae":  # nearly constant errors, which all lie in one bin: their spread is that within it
        task, truth = YEARS, np.zeros(len(groups))
        predictions, probabilities = 10.2 + 0.1 * rng.random(len(groups)), None
        targets = truth
    else:
        task = GENDER
    own = (groups["race"] == RACE.classes[0]).to_numpy()
    table = group_scores(
        task,
        predictions,
        targets,
        groups,
        probabilities,
        by=["race"],
        metrics=[metric],
        positive=None if metric == "mae" else "Female",
        n_boot=4000,
    )
    row = table.set_index("race").loc[RACE.classes[0]]
    known = np.flatnonzero(own & (targets >= 0))
    drawn = known[rng.integers(0, len(known), (1500, len(known)))]
    positive = GENDER.classes.index("Female")
    of = {
        "accuracy": lambda rows: (predictions[rows] == targets[rows]).mean(),
        "balanced_accuracy": lambda rows: sklearn_metrics.balanced_accuracy_score(targets[rows], predictions[rows]),
        "mae": lambda rows: predictions[rows].mean(),
        "calibration_error": lambda rows: calibration.calibration_error(probabilities[rows], targets[rows]),
        "selection_rate": lambda rows: (predictions[rows] == positive).mean(),
        "true_positive_rate": lambda rows: (predictions[rows] == positive)[targets[rows] == positive].mean(),
        "false_positive_rate": lambda rows: (predictions[rows] == positive)[targets[rows] != positive].mean(),
    }[metric]
    values = [of(rows) for rows in drawn]
    low, high = np.quantile(values, (0.025, 0.975))
    assert row["value"] == pytest.approx(of(known), rel=1e-12)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_batches_and_their_order_change_nothing_and_memory_stays():
    predictions, targets, probabilities, groups = people()
    whole = GroupCounts(GENDER, ["race", "age"]).add(predictions, targets, groups, probabilities)
    parts = GroupCounts(GENDER, ["race", "age"])
    for rows in np.array_split(np.random.default_rng(0).permutation(len(groups)), 7):
        parts.add(predictions[rows], targets[rows], groups.iloc[rows], probabilities[rows])
    pd.testing.assert_frame_equal(whole.scores(n_boot=20), parts.scores(n_boot=20))
    pd.testing.assert_frame_equal(whole.worst(n_boot=20), parts.worst(n_boot=20))

    def size(counts: GroupCounts) -> int:
        return sum(each.nbytes for cell in counts._cells.values() for each in cell.values())

    before = size(parts)
    for _ in range(3):
        parts.add(predictions, targets, groups, probabilities)
    assert size(parts) == before


def test_groups_keep_their_order_and_a_row_without_one_is_left_out_where_it_matters():
    groups = pd.DataFrame(
        {
            "race": pd.Categorical(["b", "b", "a", None, "a"], categories=["b", "a", "unused"]),
            "glasses": ["no", "yes", "no", "no", None],
        }
    )
    counts = GroupCounts(GENDER, ["race", "glasses"]).add([0, 1, 0, 0, 1], [0, 0, 0, 1, 1], groups)
    table = counts.scores(metrics=["accuracy"])
    cells = [("b", "no"), ("b", "yes"), ("a", "no"), ("a", "yes"), ("unused", "no"), ("unused", "yes")]
    assert list(zip(table["race"], table["glasses"], strict=True)) == cells
    assert list(table["n"]) == [1, 1, 1, 0, 0, 0] and table["small"].all()
    assert counts.scores(["race"], ["accuracy"])["n"].tolist() == [2, 2, 0]
    assert counts.scores(["glasses"], ["accuracy"])["value"].tolist() == [pytest.approx(2 / 3), 0]
    assert counts.scores([], ["accuracy"])["n"].tolist() == [5]
    assert counts.confusion(race="a").to_numpy().tolist() == [[1, 0], [0, 1]]
    assert counts.confusion().to_numpy().sum() == 5
    named = GroupCounts(GENDER, {"race": ["a", "c"]}).add([0, 1, 0, 0, 1], [0, 0, 0, 1, 1], groups)
    assert named.groups("race") == ["a", "c", "b", "unused"]


def test_a_small_cell_is_marked_has_too_narrow_an_interval_and_is_not_published():
    groups = pd.DataFrame({"race": ["one"] + ["ten"] * 10 + ["many"] * 40})
    table = group_scores(GENDER, np.zeros(51), np.r_[np.zeros(31), np.ones(20)], groups, metrics=["accuracy"])
    table = table.set_index("race")
    assert table["small"].to_dict() == {"one": True, "ten": True, "many": False}
    for name in ("one", "ten"):  # all right, so that no resample has a fault
        assert table.loc[name, ["low", "value", "high"]].tolist() == [1, 1, 1]
    shown = published(table)
    assert shown["n"].isna().to_dict() == {"one": True, "ten": True, "many": False}
    assert shown.loc[["one", "ten"], ["value", "low", "high"]].isna().all().all()
    pd.testing.assert_series_equal(shown.loc["many"], table.loc["many"], check_dtype=False)


def rates(truth: np.ndarray, n: int, seed: int) -> GroupCounts:
    """n rows of each of several groups, right with the chances `truth`."""
    right = np.random.default_rng(seed).random((len(truth), n)) < truth[:, None]
    groups = pd.DataFrame({"race": np.repeat([f"g{i}" for i in range(len(truth))], n)})
    return GroupCounts(GENDER, ["race"]).add(right.ravel().astype(int), np.ones(right.size, int), groups)


@pytest.mark.parametrize("truth", [np.full(7, 0.8), np.linspace(0.6, 0.9, 7), np.r_[0.5, np.full(6, 0.85)]])
def test_the_worst_group_is_too_low_and_its_correction_less_so(truth):
    runs = 120
    tables = [rates(truth, 60, seed).worst(metrics=["accuracy"], n_boot=300).set_index("what") for seed in range(runs)]
    for what, true in (("worst", truth.min()), ("gap", np.ptp(truth))):
        plain_, corrected = (
            np.mean([table.loc[what, name] for table in tables]) - true for name in ("value", "corrected")
        )
        sign = 1 if what == "gap" else -1
        assert sign * plain_ > -0.005  # biased towards what is bad
        assert abs(corrected) < max(0.6 * abs(plain_), 0.012)
        covered = [table.loc[what, "low"] <= true <= table.loc[what, "high"] for table in tables]
        assert np.mean(covered) >= 0.95


def test_what_equal_groups_would_show_is_what_they_show():
    truth = np.full(7, 0.8)
    tables = [rates(truth, 60, seed).worst(metrics=["accuracy"], n_boot=200).set_index("what") for seed in range(150)]
    for what in ("worst", "gap"):
        values = np.array([table.loc[what, "value"] for table in tables])
        null = np.array([table.loc[what, "if_equal"] for table in tables])
        assert values.mean() == pytest.approx(null.mean(), abs=0.01)
        p = np.array([table.loc[what, "p"] for table in tables])
        assert 0.4 < p.mean() < 0.65 and (p <= 0.05).mean() < 0.11  # a small p is as rare as it says
    apart = rates(np.linspace(0.5, 0.95, 7), 300, 0).worst(metrics=["accuracy"]).set_index("what")
    assert (apart["p"] < 0.01).all()
    assert apart["corrected"]["gap"] == pytest.approx(apart["value"]["gap"], abs=0.02)


def test_equal_rates_given_the_class_are_equal_though_the_classes_are_not():
    """Groups of one class each: the true positive rate of the others does not exist, and nothing is said of it."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 0, 1], 200)
    predictions = np.where(rng.random(800) < 0.8, targets, 1 - targets)
    groups = pd.DataFrame({"race": np.repeat(["a", "b"], 400), "gender": np.array(GENDER.classes)[targets]})
    counts = GroupCounts(GENDER, ["race", "gender"]).add(predictions, targets, groups)
    row = counts.worst(metrics=["true_positive_rate"], positive=GENDER.classes[1]).iloc[1]
    assert row["groups"] == 2 and row["left_out"] == 2 and row["value"] < 0.1
    one = counts.worst(["gender"], ["true_positive_rate"], GENDER.classes[1])
    assert one["value"].isna().all() and (one["groups"] == 1).all()


def test_directions_and_names_of_the_worst():
    groups = pd.DataFrame({"race": ["a"] * 100 + ["b"] * 100})
    right = np.r_[np.arange(100) < 90, np.arange(100) < 60].astype(int)
    found = GroupCounts(GENDER, ["race"]).add(right, np.ones(200, int), groups).worst(metrics=["accuracy"])
    assert found["group"].tolist() == ["b", "b to a"] and found["value"].tolist() == [0.6, pytest.approx(0.3)]
    found = GroupCounts(YEARS, ["race"]).add(right * 10.0, np.zeros(200), groups).worst()
    assert found["group"].tolist() == ["a", "a to b"] and found["value"].tolist() == [9, 3]
    assert found["corrected"][0] <= 9 + 1e-9 and found["if_equal"][0] >= 7.5 and (found["p"] < 0.01).all()


def test_a_temperature_for_each_group_mends_what_one_for_all_cannot():
    rng = np.random.default_rng(0)
    n = 6000
    groups = pd.DataFrame({"race": rng.choice(["cool", "hot", "few"], n, p=[0.4975, 0.4975, 0.005])})
    logits = rng.normal(size=(n, 3)) * 2
    scale = groups["race"].map({"cool": 0.5, "hot": 4, "few": 1}).to_numpy()[:, None]
    targets = (special.softmax(logits / scale, axis=1).cumsum(1) < rng.random((n, 1))).sum(1)
    task = Task("colour", "multiclass", ("red", "green", "blue"))
    sides = [(logits[rows], targets[rows], groups.iloc[rows]) for rows in (slice(0, n // 2), slice(n // 2, n))]
    table = calibration_by_group(task, *sides, n_boot=50).set_index(["scaling", "race"])
    for race, true in (("cool", 0.5), ("hot", 4)):
        assert table.loc[("own", race), "temperature"] == pytest.approx(true, rel=0.2)
        assert table.loc[("own", race), "value"] < 0.06 < table.loc[("one", race), "value"]
    common = calibration.fit_temperature(*sides[0][:2])
    assert (table.loc["one", "temperature"] == common).all() and (table.loc["none", "temperature"] == 1).all()
    assert table.loc[("own", "few"), "temperature"] == common and table.loc[("own", "few"), "small"]


def test_what_does_not_fit_is_refused():
    groups = pd.DataFrame({"race": ["a", "b"]})
    counts = GroupCounts(GENDER, ["race"]).add([0, 1], [0, 1], groups)
    with pytest.raises(DataError, match="no group column 'age'"):
        GroupCounts(GENDER, ["age"]).add([0, 1], [0, 1], groups)
    with pytest.raises(DataError, match="groups of 2 rows for 3"):
        GroupCounts(GENDER, ["race"]).add([0, 1, 1], [0, 1, 1], groups)
    with pytest.raises(ConfigError, match="no group column 'age'"):
        counts.scores(["age"])
    with pytest.raises(ConfigError, match="no metric 'f1'"):
        counts.scores(metrics=["f1"])
    with pytest.raises(ConfigError, match="name it as `positive`"):
        counts.scores(metrics=["selection_rate"])
    with pytest.raises(ConfigError, match="no class 'Woman'"):
        counts.scores(positive="Woman")
    with pytest.raises(ConfigError, match="needs confidences"):
        counts.scores(metrics=["calibration_error"])
    with pytest.raises(ConfigError, match="no confidences"):
        counts.calibration_curve()
    with pytest.raises(DataError, match="class index"):
        GroupCounts(GENDER, ["race"]).add([0, 2], [0, 1], groups)
    with pytest.raises(DataError, match="prediction of row 1 is not finite"):
        counts.add([0, np.nan], [0, 1], groups)
    with pytest.raises(DataError, match="row 1 of the probabilities sums to 3"):
        counts.add([0, 1], [0, 1], groups, np.array([[0.5, 0.5], [1, 2]]))
    assert counts.scores([], ["accuracy"])["n"].tolist() == [2]
    with pytest.raises(ConfigError, match="neither classes nor numbers"):
        GroupCounts(Task("nose", "box"), ["race"]).add(np.zeros((2, 4)), np.zeros((2, 4)), groups)
    with pytest.raises(ConfigError, match="n_boot"):
        counts.scores(n_boot=0)


def test_nothing_known_gives_nan_and_no_error():
    groups = pd.DataFrame({"race": ["a", "b"]})
    for rows in (0, 2):
        counts = GroupCounts(GENDER, {"race": ["a", "b"]}).add(np.zeros(rows), np.full(rows, -1), groups[:rows])
        table = counts.scores(positive="Male")
        assert len(table) == 10 and (table["n"] == 0).all() and table[["value", "low", "high"]].isna().all().all()
        assert counts.worst()["value"].isna().all()
