"""The recorded self-taught learning: every way once an n and seed; labels of the unlabelled faces do not count."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from test_studies import reference

from facekit.commands.cli import main
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.records import REFERENCE, recorded
from facekit.studies import contrastive, selftaught, selftaught_real
from facekit.tasks import GENDER, RACE

assert reference  # the fixture of toy photos
COLUMNS = ["method", "n", "seed", "task", "metric", "value"]


def places(rows: pd.DataFrame, *names: str) -> list[tuple]:
    chosen = rows[rows["metric"] == "accuracy"]
    return sorted(zip(*(chosen[name] for name in names), strict=True))


@pytest.fixture
def small(monkeypatch) -> None:
    """Few portraits, labels, centroids and steps."""
    for name, value in {
        "PORTRAITS": (70, 0, 24),
        "UNLABELLED": 40,
        "CENTROIDS": 8,
        "STEPS": 1,
        "SCRATCH_STEPS": 1,
        "BATCH": 16,
        "LABELS": (10, 20),
    }.items():
        monkeypatch.setattr(selftaught, name, value)


def test_portraits_are_recorded_whole(reference, small):
    assert main(["record", "selftaught", "--seeds", "[0,3]"]) == 0
    rows = recorded("selftaught_portraits", reference).rows
    assert list(rows) == COLUMNS
    methods = (*selftaught.WAYS, "from scratch")
    wanted = itertools.product(methods, (10, 20), (0, 3), ("gender", "skin_tone"))
    assert places(rows, "method", "n", "seed", "task") == sorted(wanted)
    dead = rows[rows["metric"] == "dead"]
    assert len(dead) == len(selftaught.WAYS) * 2 and dead["value"].between(0, 1).all()


def test_labels_of_the_unlabelled_do_not_count(small):
    faces = render_portraits((40, 0, 0), size=32)
    lied = FaceSet(faces.images, faces.labels.assign(gender="Female", skin_tone=faces.labels["skin_tone"].iloc[0]))
    for way in ("patches", "random network", "contrastive"):
        one, other = (selftaught.WAYS[way](each, 0)(faces).features for each in (faces, lied))
        np.testing.assert_array_equal(one, other)


def test_a_long_run_is_looked_at_before_in_and_after_it(reference, small, monkeypatch):
    for name in ("PORTRAITS", "UNLABELLED"):
        monkeypatch.setattr(contrastive, name, getattr(selftaught, name))
    for name, value in {"EPOCHS": 3, "STEPS": 2, "BATCH": 16, "LOOKED_AT": (1, 2), "LABELS": 20}.items():
        monkeypatch.setattr(contrastive, name, value)
    assert main(["record", "contrastive", "--seeds", "[0,3]"]) == 0
    rows = recorded("contrastive_portraits", reference).rows
    assert list(rows) == ["step", *COLUMNS[1:]]
    steps = (0, 2, 4, 6)
    assert places(rows, "step", "n", "seed", "task") == sorted(
        itertools.product(steps, (20,), (0, 3), ("gender", "skin_tone"))
    )
    for metric, seen in (("dead", steps), ("loss", steps[1:]), ("found", steps[1:])):
        some = rows[rows["metric"] == metric]
        assert sorted(zip(some["step"], some["seed"], strict=True)) == sorted(itertools.product(seen, (0, 3)))


def test_a_look_at_a_long_run_changes_nothing_and_sees_the_network_of_that_step(small, monkeypatch):
    faces = render_portraits((40, 0, 0), size=32)
    seen: list[np.ndarray] = []
    for name, value in {"EPOCHS": 2, "BATCH": 16}.items():
        monkeypatch.setattr(contrastive, name, value)

    def look(code, pool, test, tasks, labels, seed):
        seen.append(code(test).features)
        return pd.DataFrame({"n": 0, "task": ["features"], "metric": "dead", "value": 0.0})

    monkeypatch.setattr(contrastive, "measure_code", look)
    for looked_at in ((1,), ()):
        monkeypatch.setattr(contrastive, "LOOKED_AT", looked_at)
        contrastive.measure_longer(faces, faces, faces, 2, 20, 0)
    before, between, after, *again = seen
    np.testing.assert_array_equal([before, after], again)
    assert not np.allclose(before, between) and not np.allclose(between, after)


def test_faces_are_recorded_whole(reference, small, monkeypatch):
    rng = np.random.default_rng(0)
    labels = {task.name: rng.choice(task.classes, 300) for task in (RACE, GENDER)}
    labels["split"] = np.where(np.arange(300) < 280, "train", "test")
    features = rng.normal(size=(300, 20)).astype(np.float32)
    features[:, 0] += 3 * (labels["gender"] == "Female")
    photos = rng.integers(0, 256, (300, 3, 48, 48), dtype=np.uint8)
    monkeypatch.setattr(selftaught_real, "facenet_features", lambda: FeatureSet(features, pd.DataFrame(labels)))
    monkeypatch.setattr(selftaught_real, "fairface", lambda: FaceSet(photos, pd.DataFrame(labels)))
    for name, value in {"LABELS": (10, 20), "FEW": (20, 30), "N_TEST": 80, "NEARBY": 100}.items():
        monkeypatch.setattr(selftaught_real, name, value)
    assert main(["record", "selftaught_real", "--seeds", "[0,1]"]) == 0
    rows = recorded("selftaught_fairface", reference).rows
    assert list(rows) == [*COLUMNS, "on"]
    photos, few = (rows[rows["on"] == on] for on in ("photos", "features"))
    assert places(photos, "method", "n", "seed") == sorted(itertools.product(selftaught_real.WAYS, (10, 20), (0, 1)))
    methods = ("probe", "8 components", "label spreading", "self-training")
    wanted = itertools.product(methods, (20, 30), (0, 1), ("gender", "race"))
    assert places(few, "method", "n", "seed", "task") == sorted(wanted)
    gender = few[(few["task"] == "gender") & (few["n"] == 30)].groupby("method")["value"].mean()
    assert gender["probe"] > 0.7


def test_the_shipped_long_run_is_whole_and_of_the_faces_of_the_others():
    record, other = recorded("contrastive_portraits"), recorded("selftaught_portraits")
    assert record.about["data"] == other.about["data"]
    accuracy = record.rows[record.rows["metric"] == "accuracy"]
    looks = [0, *(n * contrastive.STEPS for n in contrastive.LOOKED_AT), contrastive.EPOCHS * contrastive.STEPS]
    assert places(record.rows, "step", "seed", "task") == sorted(
        itertools.product(looks, contrastive.SEEDS, ("gender", "skin_tone"))
    )
    random = other.rows[(other.rows["method"] == "random network") & (other.rows["n"] == contrastive.LABELS)]
    both = accuracy[accuracy["step"] == 0].merge(random, on=["seed", "task", "metric"])
    assert len(both) == 2 * len(contrastive.SEEDS)
    np.testing.assert_allclose(both["value_x"], both["value_y"], atol=0.01)  # the same network, labels and probe


@pytest.mark.parametrize(
    ("name", "module"), [("selftaught_portraits", selftaught), ("selftaught_fairface", selftaught_real)]
)
def test_the_shipped_records_are_whole(name, module):
    if not (REFERENCE / f"{name}.json").exists():
        pytest.skip(f"{name} is not recorded yet")
    rows = recorded(name).rows
    for keys, some in rows[rows["metric"] == "accuracy"].groupby(["method", "n", "task"]):
        assert some["seed"].nunique() == len(module.SEEDS), keys
    assert set(module.WAYS) <= set(rows["method"])
