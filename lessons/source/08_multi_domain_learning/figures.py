"""Plots and tables of lesson 08: the ways to serve several domains, as the records have them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from facekit.show import plots

PANELS = {"object": "accuracy", "box": "iou", "text": "character_error_rate"}
REAL_PANELS = {"diagnosis": "accuracy", "object": "accuracy", "text": "exact_match"}


def ways_figure(rows: pd.DataFrame, panels: Mapping[str, str] = PANELS) -> Figure:
    """A bar a method with a dot a seed, a panel for each of `panels`, task name to metric; rows: of a record."""
    fig, axes = plots.figure(len(panels), 1, size=(9, 3.2 * len(panels)))
    for axis, (task, metric) in zip(axes, panels.items(), strict=True):
        chosen = rows[(rows["task"] == task) & (rows["metric"] == metric)]
        plots.bars_with_spread(axis, {name: part["value"] for name, part in chosen.groupby("method", sort=False)})
        axis.set(title=f"{task}: {metric.replace('_', ' ')}")
    return fig


def ways_table(rows: pd.DataFrame, panels: Mapping[str, str] = PANELS) -> pd.DataFrame:
    """Index method; means over the seeds of a record's rows of one split, for `panels`, task name to metric.

    Columns: each score, with its interval over the pictures as text where the record has them, `parameters` (that a
    domain adds), their `share` of those of a network of its own, `seconds` (of the training, all domains).
    """
    methods = rows.groupby("method", sort=False)
    scores = {}
    for task, metric in panels.items():
        own = rows[(rows["task"] == task) & (rows["metric"] == metric)].groupby("method", sort=False)
        score = own["value"].mean().round(3)
        if "low" in rows:
            low, high = (own[end].mean().map("{:.2f}".format) for end in ("low", "high"))
            score = score.map("{:.3f}".format) + " (" + low + " to " + high + ")"
        scores[f"{task} {metric.replace('_', ' ')}"] = score
    parameters = methods["parameters"].first()
    share = (parameters / parameters["a network each"]).round(3)
    seconds = methods["seconds"].mean().round().astype(int)
    return pd.DataFrame({**scores, "parameters": parameters, "share": share, "seconds": seconds})
