"""facenet-mini's figures: who learns from what, groups too small to report, and a card made of records alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from facekit.data.portraits import render_portraits
from facekit.data.sets import FeatureSet
from facekit.errors import WeightsError
from facekit.models.backbones.mini import PACKAGED_WEIGHTS, FaceNetMini
from facekit.records import Record, markdown, recorded
from facekit.studies.mini import (
    CARD,
    HANDED,
    SCRATCH,
    STUDENT,
    TEACHER,
    TUNED,
    about_weights,
    card,
    group_scores,
    pixel_scores,
    probe_scores,
)
from facekit.tasks import AGE_BAND, GENDER, RACE

TASKS = (RACE, GENDER, AGE_BAND)


def embeddings(n: int, seed: int, turn: np.ndarray | None = None) -> FeatureSet:
    """Unit vectors of 12 numbers whose first seven tell the race and whose eighth tells the gender."""
    rng = np.random.default_rng(seed)
    race, gender = rng.integers(0, 7, n), rng.integers(0, 2, n)
    age = np.where(rng.random(n) < 0.04, 8, rng.integers(0, 8, n))
    x = 0.15 * rng.normal(size=(n, 12))
    x[np.arange(n), race] += 1
    x[:, 7] += 2 * gender - 1
    x = x @ turn if turn is not None else x
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    labels = {
        "race": np.array(RACE.classes)[race],
        "gender": np.array(GENDER.classes)[gender],
        "age": np.array(AGE_BAND.classes)[age],
        "split": "train",
    }
    return FeatureSet(x, pd.DataFrame(labels))


@pytest.fixture(scope="module")
def away() -> np.ndarray:
    """An orthogonal matrix: a student that knows as much as its teacher, in a space of its own."""
    return np.linalg.qr(np.random.default_rng(5).normal(size=(12, 12)))[0]


def test_the_teachers_classifier_serves_only_a_student_in_the_teachers_space(away):
    for turn, useful in ((None, True), (away, False)):
        train = {TEACHER: embeddings(400, 0), STUDENT: embeddings(400, 0, turn)}
        test = {TEACHER: embeddings(300, 1), STUDENT: embeddings(300, 1, turn)}
        rows = probe_scores(train, test, TASKS, 200, 0)
        assert list(rows.columns) == ["task", "metric", "value", "network", "n", "seed"]
        found = rows[(rows["task"] == "race") & (rows["metric"] == "accuracy")].set_index("network")["value"]
        assert found[TEACHER] > 0.9 and found[STUDENT] > 0.9
        assert bool(found[HANDED] > 0.9) is useful


def test_groups_of_fewer_than_twenty_are_left_out():
    train, test = embeddings(400, 0), embeddings(300, 1)
    table = group_scores(train, test, test, TASKS)
    sizes = test.labels["age"].value_counts()
    small = set(sizes[sizes < 20].index)
    assert small and not small & set(table["group"]) and table["n"].min() >= 20
    assert set(table["task"]) == {"race", "gender", "age", "faces"}
    assert not table.duplicated(["task", "metric", "group"]).any()
    cosine = table[table["metric"] == "cosine"]
    assert np.allclose(cosine["value"], 1, atol=1e-6)
    assert (table["low"] <= table["value"] + 1e-12).all() and (table["value"] <= table["high"] + 1e-12).all()
    one = table[(table["task"] == "gender") & (table["group"] == "White")]
    assert one["n"].item() == (test.labels["race"] == "White").sum()


def record_of(rows: pd.DataFrame) -> Record:
    about = {
        "hardware": "a machine",
        "seeds": [0, 1],
        "date": "today",
        "command": "record mini",
        "git_commit": "abc",
        "data": "pictures",
    }
    return Record("toy", rows, about)


def test_card_says_what_the_records_say():
    train = {name: embeddings(400, 0) for name in (TEACHER, STUDENT)}
    test = {name: embeddings(300, 1) for name in (TEACHER, STUDENT)}
    single = {"network": STUDENT, "n": 400, "seed": 0, "task": "faces"}
    extra = [
        single | {"metric": "cosine", "value": 0.12345},
        single | {"metric": "validation_cosine", "value": 0.23456},
        single | {"metric": "photos_per_second", "value": 420.0},
        single | {"network": TEACHER, "metric": "photos_per_second", "value": 35.0},
    ]
    probes = [probe_scores(train, test, TASKS, 200, seed) for seed in (0, 1)]
    rows = pd.concat([*probes, pd.DataFrame(extra)], ignore_index=True)
    groups = group_scores(train[STUDENT], test[STUDENT], test[TEACHER], TASKS)
    options = {"epochs": 3, "photos": None, "portraits": 60, "blended": 7000}
    about = {"options": options, "trained_on": 400, "pictures": 7460, "seconds": 9.0, "processes": 2}
    about |= {"hardware": "another machine", "torch": "2"}
    drawn = rows[rows["metric"] == "accuracy"].replace({"task": {"race": "skin_tone"}})
    text = card(record_of(rows), record_of(groups), record_of(drawn), about)
    assert "never saw a label" in text and "--weights" not in text
    later = about | {"options": {"epochs": 5, "portraits": 0, "blended": 0, "answers": 0.25}, "started_from": about}
    of_two = card(record_of(rows), record_of(groups), record_of(drawn), later)
    assert "never saw a label" not in of_two and "with weight 0.25" in of_two
    assert of_two.index("--epochs 3") < of_two.index("--epochs 5") < of_two.index("--weights THESE")
    for said in (
        "0.123",
        "0.235",
        "12 times as fast",
        "--epochs 3",
        "CC BY 4.0",
        "Not for",
        "400 of FairFace",
        "7,460 pictures",
        "60 portraits",
        "7,000 blends",
        "skin tone",
    ):
        assert said in text
    assert "--photos" not in text and "{" not in text
    mean = rows[(rows["network"] == TEACHER) & (rows["task"] == "race") & (rows["metric"] == "accuracy")][
        "value"
    ].mean()
    assert f"| {TEACHER} | 200 | {mean:.3f} |" in text
    white = groups[(groups["group"] == "White") & (groups["task"] == "race")].iloc[0]
    assert f"{white['value']:.3f} ({white['low']:.3f} to {white['high']:.3f})" in text


def test_markdown_table():
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"


def test_weights_that_do_not_say_how_they_were_made_are_refused(tmp_path):
    path = tmp_path / "mini.safetensors"
    with pytest.raises(WeightsError, match="facekit distill"):
        about_weights(path)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="facekit distill"):
        about_weights(path)


def test_pixel_scores_depend_on_their_seed_and_not_on_what_ran_before():
    faces, mini = render_portraits((20, 0, 20), size=96, workers=1), FaceNetMini.from_pretrained()
    tables = []
    for state in (1, 2):
        torch.manual_seed(state)
        tables.append(pixel_scores(mini, faces, faces.split("test"), (GENDER,), 2, 20, 0))
    pd.testing.assert_frame_equal(*tables)
    assert set(tables[0]["network"]) == {SCRATCH, TUNED}


def test_the_shipped_card_is_that_of_the_records():
    shipped = (recorded(f"mini_{name}") for name in ("fairface", "groups", "portraits"))
    assert CARD.read_text(encoding="utf-8") == card(*shipped, about_weights(PACKAGED_WEIGHTS)), "run `record card`"
