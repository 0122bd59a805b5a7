"""Lesson 03: the probe by hand is that of facekit, and what its plots draw is what was given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from by_hand import of_lesson
from tiny import COLOUR, faces, features

from facekit.course import lesson
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe

FIGURES = lesson("03").figures


def test_the_probe_by_hand_is_that_of_facekit():
    data = features(40)
    weight, bias = of_lesson("03", "probe_by_hand").probe_by_hand(data.features, data.targets([COLOUR])["colour"], 2)
    x = torch.from_numpy(data.features).double() * data.features.shape[1] ** 0.5
    theirs = predict(linear_probe(data, [COLOUR]), data)["colour"].double()
    torch.testing.assert_close((x @ weight.T + bias).softmax(1), theirs.softmax(1), atol=1e-3, rtol=0)


def test_a_confusion_matrix_shows_percent_of_each_row():
    labels = pd.Series(["dark"] * 4 + [None])
    axis = FIGURES.confusion(COLOUR, labels, np.array([0, 0, 0, 1, 1]), "colours").axes[0]
    assert [text.get_text() for text in axis.texts] == ["75", "25"]  # a row without photos has no percentages
    assert [label.get_text() for label in axis.get_yticklabels()] == list(COLOUR.classes)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "label")
    assert np.array_equal(axis.images[0].get_array(), [[75, 25], [0, 0]])


def test_faces_beside_a_confusion_matrix_are_right_ones_and_then_the_commonest_errors():
    shown = faces(12)
    said = COLOUR.encode(shown.labels["colour"]).numpy().copy()
    said[:3] = 1 - said[:3]
    fig = FIGURES.confusion_with_faces(shown, COLOUR, said)
    captions = [axis.get_title().split() for axis in fig.axes if axis.get_title().startswith("label")]
    assert [caption[1] == caption[3] for caption in captions] == [True] * 2 + [False] * len(captions[2:])
    wrong = pd.Series([tuple(pair) for pair in zip(shown.labels["colour"][:3], said[:3], strict=True)]).value_counts()
    assert len(captions) == 2 + len(wrong) and captions[2][1] == wrong.index[0][0]


def test_bars_with_intervals_write_the_value_and_draw_the_interval():
    rows = pd.DataFrame({"input": ["pixels", "embedding"] * 2, "task": ["a", "a", "b", "b"]})
    rows = rows.assign(value=[0.5, 0.71, 0.6, 0.8], low=[0.4, 0.7, 0.5, 0.7], high=[0.6, 0.75, 0.7, 0.9])
    first, second = FIGURES.bars_with_intervals(rows, {"a": 0.3, "b": 0.2}).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["chance", "pixels", "embedding"]
    assert [bar.get_width() for bar in first.patches] == [0.3, 0.5, 0.71]
    assert [text.get_text() for text in second.texts] == ["0.20", "0.60", "0.80"]
    segments = [line.get_segments()[0] for line in first.collections]
    assert np.allclose([segment[:, 0] for segment in segments], [[0.4, 0.6], [0.7, 0.75]])
