"""Plots of lesson 03: a confusion matrix, and bars with their intervals beside chance."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facekit.show import plots


@plots.style()
def bars_with_intervals(axis: Axes, rows: pd.DataFrame, chance: float | None = None) -> None:
    """One bar a row of `rows` (columns value, low, high; names in the index), its interval, and its value below it.

    chance: what looking at nothing would score, as a grey bar before the others and a dashed line through them.
    """
    names = [f"{name}\n{value:.2f}" for name, value in rows["value"].items()]
    for place, (value, low, high) in enumerate(rows[["value", "low", "high"]].itertuples(index=False)):
        color, hatch = plots.COLORS[place % len(plots.COLORS)], plots.HATCHES[place % len(plots.HATCHES)]
        axis.bar(place, value, color=color, hatch=hatch, edgecolor="white", width=0.65)
        axis.errorbar(place, value, [[value - low], [high - value]], color="black", marker="", capsize=4)
    first = 0
    if chance is not None:
        first = -1
        names.insert(0, f"chance\n{chance:.2f}")
        axis.bar(first, chance, color="#BBBBBB", width=0.65)
        axis.axhline(chance, color="black", marker="", linestyle="--", linewidth=1)
    axis.set_xticks(range(first, len(rows)), names)
    axis.set_ylim(bottom=0)


@plots.style()
def confusion(counts: pd.DataFrame, title: str) -> Figure:
    """A confusion matrix in percent of each row, from counts (classes, classes) as `metrics.confusion_matrix` has them.

    Rows are labels, columns predictions; a row without photos stays empty.
    """
    classes = [textwrap.fill(str(name).replace("_", " "), 12) for name in counts.index]
    totals = counts.to_numpy().sum(1, keepdims=True)
    shares = np.divide(100 * counts.to_numpy(), totals, where=totals > 0, out=np.zeros(counts.shape))
    side = 1.4 + 0.52 * max(len(classes), 4)
    fig, axis = plots.figure(size=(side + 0.5, side + 0.3))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if totals[row] > 0:
            color = "white" if share > 50 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=10, color=color)
    axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=9)
    axis.set_yticks(range(len(classes)), classes, fontsize=9)
    axis.set(xlabel="predicted", ylabel="label")
    axis.set_title(title, fontsize=11)
    axis.grid(False)
    return fig
