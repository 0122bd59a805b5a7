"""The recorded weights and mixtures: every method once a draw and seed; the toy's population is never learnt from."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from test_studies import reference

from facekit.commands.cli import main
from facekit.data.sets import FeatureSet
from facekit.records import REFERENCE, recorded
from facekit.studies import selection
from facekit.tasks import AGE_BAND, GENDER, RACE

assert reference  # the fixture of toy photos
METHODS = ("equal", "fair", "ratio", "√ratio", "kernel means", "exact", "chosen rows")


@pytest.fixture
def faces(monkeypatch) -> FeatureSet:
    """900 rows of noise in which gender can be seen, otherwise in children."""
    rng = np.random.default_rng(0)
    labels = {task.name: rng.choice(task.classes, 900) for task in (RACE, GENDER, AGE_BAND)}
    child = np.isin(labels["age"], ["0-2", "3-9"])
    features = rng.normal(size=(900, 60))
    features[:, 0] += 2.0 * (labels["gender"] == "Female") * np.where(child, -1, 1)
    features[:, 1] += 3.0 * child
    split = np.where(np.arange(900) < 850, "train", "test")
    made = FeatureSet(features.astype(np.float32), pd.DataFrame({**labels, "split": split}))
    monkeypatch.setattr(selection, "facenet_features", lambda: made)
    for name, value in {
        "N": 200,
        "N_TARGET": 300,
        "N_TEST": 300,
        "LEARNT": 300,
        "HELD_OUT": 150,
        "TARGET": 100,
    }.items():
        monkeypatch.setattr(selection, name, value)
    return made


def test_both_are_recorded_whole(reference, faces):
    assert main(["record", "selection", "--seeds", "[0,3]"]) == 0
    rows = recorded("selection_fairface", reference).rows
    assert list(rows) == ["draw", "method", "seed", "task", "metric", "value"]
    accuracies = rows[rows["metric"] == "accuracy"]
    found = sorted(zip(*(accuracies[name] for name in ("draw", "method", "seed", "task")), strict=True))
    assert found == sorted(itertools.product(selection.DRAWS, METHODS, (0, 3), ("gender", "race")))
    sizes = rows[rows["metric"] == "effective_rows"]
    assert len(sizes) == 4 * 4 * 2 and sizes["value"].between(1, 200).all()
    shifts = recorded("label_shift_fairface", reference).rows
    wanted = itertools.product(selection.SHIFTS, ("as it is", "EM", "by confusion", "true mixture"), (0, 3))
    right = shifts[shifts["metric"] == "accuracy"]
    assert sorted(zip(right["shift"], right["method"], right["seed"], strict=True)) == sorted(wanted)


def test_the_drawn_rows_are_biased_as_the_draw_says(faces):
    pool, test = faces.select(range(600)), faces.select(range(600, 850))
    rows = selection.measure_bias(pool, test, "children 45 : 1", 0)
    sizes = rows[rows["metric"] == "effective_rows"].set_index("method")["value"]
    assert sizes["exact"] < 100 < sizes["√ratio"]


@pytest.mark.skipif(not (REFERENCE / "selection_fairface.json").exists(), reason="selection is not recorded yet")
def test_the_shipped_records_are_whole():
    rows = recorded("selection_fairface").rows
    for keys, some in rows[rows["metric"] == "accuracy"].groupby(["draw", "method", "task"]):
        assert sorted(some["seed"]) == list(selection.SEEDS), keys
    assert set(rows["method"]) == set(METHODS)
    shifts = recorded("label_shift_fairface").rows
    assert shifts.groupby(["shift", "method", "metric"])["seed"].nunique().eq(len(selection.SEEDS)).all()
