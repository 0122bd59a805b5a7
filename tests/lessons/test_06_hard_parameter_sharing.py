"""Drawn portraits and tables of lesson 06: four labels each, gaps, and who is ahead."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from facekit.course import lesson
from facekit.evaluation.paired import over_seeds

FIGURES = lesson("06").figures


@pytest.fixture(scope="module")
def faces():
    return FIGURES.portraits(size=32)


def test_each_person_is_in_both_splits_and_strangers_have_no_name(faces):
    labels = faces.labels
    known, strangers = labels[labels["who"].notna()], labels[labels["who"].isna()]
    counts = known.groupby(["who", "split"]).size().unstack()
    assert (counts["train"] == 32).all() and (counts["test"] == 16).all() and len(counts) == 20
    assert known.groupby("who")["identity"].nunique().eq(1).all() and strangers["identity"].is_unique
    assert strangers["split"].value_counts().to_dict() == {"train": 320, "test": 320}


def test_poses_are_where_the_head_turns_and_expressions_are_equally_frequent(faces):
    yaw = faces.labels.groupby("pose")["yaw"]
    assert yaw.max()["left"] < -4 <= yaw.min()["front"] and yaw.max()["front"] <= 4 < yaw.min()["right"]
    assert faces.labels["pose"].value_counts(normalize=True).between(0.28, 0.4).all()
    assert faces.labels["expression"].value_counts(normalize=True).between(0.24, 0.26).all()
    for task in FIGURES.FOUR:
        targets = faces.targets([task])[task.name]
        assert set(targets.tolist()) <= {-1, *range(len(task.classes))}


def test_a_wrong_answer_is_told_with_its_label(faces):
    few = faces.select([0, 960])
    sure = {
        task.name: torch.eye(len(task.classes))[few.targets([task])[task.name].clamp_min(0)] for task in FIGURES.FOUR
    }
    right, wrong = FIGURES.told(few, sure), FIGURES.told(few, sure | {"gender": -sure["gender"]})
    texts = [[axis.texts[0].get_text() for axis in fig.axes] for fig in (FIGURES.told(few), right, wrong)]
    assert texts[0][0] == texts[1][0] and "stranger" in texts[0][1] and "stranger" not in texts[1][1]
    assert all("(is " not in text for text in texts[1])
    assert [text.count(f"(is {few.labels['gender'][place]})") for place, text in enumerate(texts[2])] == [1, 1]


def test_the_gap_is_training_minus_test():
    values = {"train": [0.9, 0.8], "test": [0.6, 0.7]}
    runs = over_seeds(lambda seed: {("t", "own", part): each[seed] for part, each in values.items()}, seeds=range(2))
    row = FIGURES.gap(runs).loc[("t", "own")]
    assert row.to_dict() == pytest.approx({"gap": 0.2, "±": 0.1, "train": 0.85, "test": 0.65})


def test_ahead_compares_within_seed_and_number():
    rows = pd.DataFrame(
        [
            (task, n, seed, method, "accuracy", value + 0.1 * seed)
            for task in ("a", "b")
            for n in (50, 200)
            for seed in (0, 1)
            for method, value in (("linear", 0.5), ("single", 0.4), ("hard", 0.43 + 0.02 * seed))
        ],
        columns=["task", "n", "seed", "method", "metric", "value"],
    )
    table = FIGURES.ahead(rows)
    assert list(table.index) == [("a", 50), ("a", 200), ("b", 50), ("b", 200)]
    np.testing.assert_allclose(table[("hard - single", "mean")], 0.04)
    np.testing.assert_allclose(table[("hard - single", "±")], 0.01)
    np.testing.assert_allclose(table[("single - linear", "mean")], -0.1)
