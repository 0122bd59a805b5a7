"""Plots of lesson 15: how many labels there are, what more of them bring, and ways side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facekit.data.sets import SPLITS, FaceSet
from facekit.show import plots
from facekit.tasks import Task

MISSING = "no label"


@plots.style()
def counts(faces: FaceSet, tasks: Sequence[Task]) -> Figure:
    """One plot a task: lying bars with the photos of each class by split, those without a label last."""
    sizes = [len(task.classes) + 1 for task in tasks]
    fig, _ = plots.figure(1, len(tasks), size=(plots.WIDEST, 1.5 + 0.27 * max(sizes)))
    for axis, task in zip(fig.axes, tasks, strict=True):
        labels = faces.labels[task.name].astype(object).where(faces.labels[task.name].notna(), MISSING)
        names, start = [*task.classes, MISSING], np.zeros(len(task.classes) + 1)
        for place, split in enumerate(SPLITS):
            n = labels[faces.labels["split"] == split].value_counts().reindex(names, fill_value=0).to_numpy()
            look = {"color": plots.COLORS[place], "hatch": plots.HATCHES[place], "edgecolor": "white"}
            axis.barh(range(len(names)), n, left=start, label=split, **look)
            start = start + n
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set(title=task.name.replace("_", " "), xlabel="photos")
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10)
    return fig


@plots.style()
def curves(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy over the number of labels, a line for each thing that is scored, from the lowest seed to the highest.

    tables: by name, a row a seed and a column a number of labels.
    """
    fig, axis = plots.figure(size=(6.8, 4.0))
    plots.lines_with_spread(axis, list(next(iter(tables.values()))), {name: t.to_numpy() for name, t in tables.items()})
    axis.set(xlabel="labelled photos (each step doubles them)", ylabel="accuracy")
    return fig


@plots.style()
def ways(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """One plot for each thing that is scored: a row a way, every seed a small dot, the mean a large one with its ±.

    tables: by name, a row a seed and a column a way, the same ways in all.
    """
    names = list(next(iter(tables.values())))
    fig, _ = plots.figure(1, len(tables), size=(plots.WIDEST, 1.2 + 0.38 * len(names)), sharey=True)
    for axis, (title, table) in zip(fig.axes, tables.items(), strict=True):
        values, rows, color = table.to_numpy(float), np.arange(len(names)), plots.COLORS[0]
        for seed in values:
            axis.plot(seed, rows, linestyle="", marker="o", color="#888888", markersize=3)
        axis.errorbar(
            values.mean(axis=0), rows, xerr=table.sem().to_numpy(), linestyle="", marker="D", color=color, capsize=3
        )
        axis.set(title=title, xlabel="accuracy")
        axis.set_yticks(rows, names)
        axis.locator_params(axis="x", nbins=4)
        axis.margins(y=0.08)
    fig.axes[0].invert_yaxis()
    return fig
