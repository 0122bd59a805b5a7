"""Tables of lesson 05: all labels right at once, and what an error costs in each coding."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import COLOUR, SIDE, features

from facekit.course import lesson
from facekit.errors import ConfigError
from facekit.experiments import few_labels, sharing_methods
from facekit.tasks import AGE_BAND
from facekit.training.loop import predict

FIGURES = lesson("05").figures


def test_all_right_counts_the_faces_without_any_error():
    train, test = features(60), features(40, seed=1)
    test.labels.loc[:4, "side"] = None
    methods = sharing_methods((4,), 0.0, (), steps=30, lr=0.03, joint=True)
    chosen = {"heads": methods["hard"], "classes": methods["joint classes"]}
    tables = FIGURES.compare_joint(train, test, (COLOUR, SIDE), 30, [2, 5], chosen)
    assert list(tables) == ["colour", "side", "all right"]
    model = chosen["heads"](few_labels(train, 30, 5), (COLOUR, SIDE), 5)
    outputs = predict(model, test)
    answers_of = {task.name: np.array(task.classes)[task.predict(outputs[task.name])] for task in (COLOUR, SIDE)}
    right = [(answers_of[name] == test.labels[name])[5:] for name in ("colour", "side")]
    expected = [right[0].mean(), right[1].mean(), (right[0] & right[1]).mean()]
    for table, value in zip(tables.values(), expected, strict=True):
        assert list(table.index) == [2, 5] and list(table) == ["heads", "classes"]
        assert table.loc[5, "heads"] == pytest.approx(value)
    assert (tables["all right"] <= np.minimum(tables["colour"], tables["side"])).all(axis=None)


@pytest.mark.parametrize("sure", [0.6, 0.9])
def test_costs_have_the_shape_of_their_losses(sure):
    table = FIGURES.relative_costs(AGE_BAND, "20-29", sure)
    assert list(table.index) == list(AGE_BAND.classes) and list(table.columns) == ["classes", "levels", "number"]
    assert (table.max() == 1).all() and (table.idxmin() == "20-29").all()
    away = np.abs(np.arange(9) - 3)
    wrong = table["classes"][away > 0].to_numpy()
    np.testing.assert_allclose(wrong, wrong[0])
    assert table["classes"]["20-29"] == pytest.approx(np.log(sure) / np.log((1 - sure) / 8))
    steps = (table["levels"] - table["levels"]["20-29"]).to_numpy()
    np.testing.assert_allclose(steps, steps[2] * away, atol=1e-12)
    decades = np.abs(np.array(AGE_BAND.midpoints) - 24.5) / 10
    huber = np.where(decades < 1, decades**2 / 2, decades - 0.5)
    np.testing.assert_allclose(table["number"], huber / huber.max(), atol=1e-6)


@pytest.mark.parametrize(("label", "sure"), [("21", 0.9), ("20-29", 1.0), ("20-29", 0.0)])
def test_costs_need_a_class_and_a_probability(label, sure):
    with pytest.raises(ConfigError, match="label must be one of 0-2"):
        FIGURES.relative_costs(AGE_BAND, label, sure)
