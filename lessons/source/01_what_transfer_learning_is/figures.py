"""Plots of lesson 01: accuracy over labels, measured and recorded."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from facekit.records import recorded
from facekit.show import plots


def over_labels(rows: pd.DataFrame) -> Figure:
    """Accuracy over labels, a panel a task and a line a method; rows: task, metric, n, seed, method, value."""
    return plots.learning_curve_panels(dict(list(rows.groupby("method", sort=False))))


def on_real_photos() -> tuple[Figure, str]:
    """The same, recorded: a probe on FaceNet's embeddings and a network from scratch; and what the records are."""
    probes, networks = recorded("probe_fairface"), recorded("mini_fairface")
    curves = {
        "FaceNet, frozen": probes.rows.query("method == 'linear'"),
        "a smaller network from scratch": networks.rows.query("network == 'same network from scratch'"),
    }
    return plots.learning_curve_panels(curves), f"{probes.caption()}\n{networks.caption()}"
