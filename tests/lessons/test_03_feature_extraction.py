"""Plots of lesson 03: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.course import lesson
from facekit.show import plots

FIGURES = lesson("03").figures


def test_a_confusion_matrix_shows_percent_of_each_row():
    counts = pd.DataFrame([[3, 1], [0, 0]], index=["cat", "dog"], columns=["cat", "dog"])
    axis = FIGURES.confusion(counts, "pets").axes[0]
    assert [text.get_text() for text in axis.texts] == ["75", "25"]  # a row without photos has no percentages
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "label")
    assert np.array_equal(axis.images[0].get_array(), [[75, 25], [0, 0]])


def test_bars_with_intervals_write_the_value_and_draw_the_interval():
    rows = pd.DataFrame({"value": [0.5, 0.71], "low": [0.4, 0.7], "high": [0.6, 0.75]}, index=["pixels", "embeddings"])
    fig, axis = plots.figure()
    FIGURES.bars_with_intervals(axis, rows, chance=0.3)
    names = [label.get_text() for label in axis.get_xticklabels()]
    assert names == ["chance\n0.30", "pixels\n0.50", "embeddings\n0.71"]
    assert [bar.get_hatch() for bar in axis.patches[:2]] == ["", "///"]
    assert [bar.get_height() for bar in axis.patches] == [0.5, 0.71, 0.3]
    segments = [line.get_segments()[0] for line in axis.collections]
    assert np.allclose([segment[:, 1] for segment in segments], [[0.4, 0.6], [0.7, 0.75]])
    assert axis.get_ylim()[0] == 0
