"""Plots and tables of lesson 08: means over the seeds of what the records have."""

from __future__ import annotations

from facekit.course import lesson
from facekit.records import recorded

FIGURES = lesson("08").figures


def test_every_way_is_a_row_with_the_means_over_its_seeds():
    rows = recorded("domains_drawn").rows
    table = FIGURES.ways_table(rows)
    assert list(table.index) == list(rows["method"].unique())
    assert table.loc["a network each", "share"] == 1 and table["share"].idxmin() in ("frozen, heads", "one network")
    for task, metric in (("object", "accuracy"), ("box", "iou")):
        one = rows.query("method == 'one network' and task == @task and metric == @metric")["value"]
        assert len(one) > 1 and table.loc["one network", f"{task} {metric}"] == round(one.mean(), 3)
    assert len(FIGURES.ways_figure(rows).axes) == 3


def test_an_interval_over_the_pictures_stands_beside_its_score():
    tested = recorded("domains_real").rows.query("split == 'test'")
    assert len(FIGURES.ways_figure(tested, FIGURES.REAL_PANELS).axes) == 3
    one = tested.query("method == 'parallel adapters' and task == 'object' and metric == 'accuracy'")
    expected = "{value:.3f} ({low:.2f} to {high:.2f})".format(**one[["value", "low", "high"]].mean())
    assert FIGURES.ways_table(tested, FIGURES.REAL_PANELS).loc["parallel adapters", "object accuracy"] == expected
