"""Plots and tables of lesson 08: means over the seeds of what the records have, and what was seen and read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from facekit.course import lesson
from facekit.data.sets import FaceSet
from facekit.records import recorded
from facekit.show import plots
from facekit.tasks import Task
from facekit.training.shares import domain_shares

FIGURES = lesson("08").figures
BOX, TEXT = Task("box", "box"), Task("text", "string", ("a", "b"))


def test_every_way_is_a_row_with_the_means_over_its_seeds():
    rows = recorded("domains_drawn").rows
    table = FIGURES.ways_table(rows)
    assert list(table.index) == list(rows["method"].unique())
    assert table.loc["a network each", "share"] == 1 and table["share"].idxmin() in ("frozen, heads", "one network")
    for task, metric in (("object", "accuracy"), ("box", "iou"), ("text", "character_error_rate")):
        one = rows.query("method == 'one network' and task == @task and metric == @metric")["value"]
        found = table.loc["one network", f"{task} {metric.replace('_', ' ')}"]
        assert len(one) > 1 and found == round(one.mean(), 3)


def test_the_figure_has_a_plot_a_task_with_a_bar_a_way_and_a_dot_a_seed():
    rows = recorded("domains_drawn").rows
    fig = FIGURES.ways_figure(rows)
    wanted = {"box: IoU": "iou", "object: accuracy": "accuracy", "text: character error rate": "character_error_rate"}
    assert fig.get_figwidth() <= plots.WIDEST and wanted.keys() <= {axis.get_title() for axis in fig.axes}
    for axis in fig.axes:
        if axis.get_title() in wanted:
            task, metric = axis.get_title().partition(":")[0], wanted[axis.get_title()]
            own = rows[(rows["task"] == task) & (rows["metric"] == metric)].groupby("method", sort=False)["value"]
            assert [bar.get_width() for bar in axis.patches] == pytest.approx(list(own.mean()))
            dots = [line.get_xdata() for line in axis.lines if line.get_marker() == "o"]
            assert np.allclose(np.sort(dots, 1), [sorted(each) for _, each in own])


def test_an_interval_over_the_pictures_stands_beside_its_score():
    tested = recorded("domains_real").rows.query("split == 'test'")
    assert len(FIGURES.ways_figure(tested, FIGURES.REAL_METRICS).axes) == 3
    one = tested.query("method == 'parallel adapters' and task == 'object' and metric == 'accuracy'")
    expected = "{value:.3f} ({low:.2f} to {high:.2f})".format(**one[["value", "low", "high"]].mean())
    assert FIGURES.ways_table(tested, FIGURES.REAL_METRICS).loc["parallel adapters", "object accuracy"] == expected


def test_curves_have_a_line_a_task():
    (axis,) = FIGURES.curves(pd.DataFrame({"box": [1.0, 0.5], "text": [9.0, 4.0]})).axes
    assert {line.get_label(): list(line.get_ydata()) for line in axis.lines} == {"box": [1, 0.5], "text": [9, 4]}


def pictures(labels, size=(16, 16)):
    """Black pictures with these labels."""
    images = np.zeros((len(labels), 3, *size), np.uint8)
    return FaceSet(images, labels.assign(split="test"))


def shown(fig):
    """The pictures of a grid, uint8 (N, H, W, 3)."""
    return [axis.images[0].get_array() for axis in fig.axes if axis.images]


def test_boxes_are_drawn_on_the_pictures_that_have_one():
    sides = {
        "left": [0.25, None, 0.1],
        "top": [0.25, None, 0.1],
        "right": [0.75, None, 0.5],
        "bottom": [0.75, None, 0.5],
    }
    labels = pd.DataFrame({f"box_{side}": values for side, values in sides.items()})
    outputs = torch.zeros(3, 4)
    seen = shown(FIGURES.boxes(pictures(labels), BOX, outputs))
    assert len(seen) == 2 and all(picture.max() == 255 for picture in seen)


def test_readings_are_right_ones_first_with_what_was_written_and_both_ways_to_read_it():
    outputs = torch.full((3, 2, 3), -9.0)
    for row, path in enumerate(([1, 0], [1, 2], [0, 0])):
        outputs[row, range(2), path] = 0
    labels = pd.DataFrame({"text": ["a", "b", "b"]})
    captions = [axis.texts[0].get_text() for axis in FIGURES.readings(pictures(labels), TEXT, outputs).axes]
    assert captions == ["a\na\na", "b\nab\nab", "b\n–\n–"]


def test_shares_are_those_of_the_temperature():
    (axis,) = FIGURES.shares_at(2).axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx(list(domain_shares(FIGURES.SIZES, 2).values()))


def test_examples_have_their_labels_below():
    labels = pd.DataFrame({"object": [f"thing {i}" for i in range(10)]})
    captions = [axis.texts[0].get_text() for axis in FIGURES.examples(pictures(labels), "object", 3).axes]
    assert captions == ["object:\nthing 0", "object:\nthing 4", "object:\nthing 9"]
