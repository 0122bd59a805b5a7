"""Plots of lesson 03: bars with their intervals beside chance, and confusion matrices, with faces beside one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facekit.data.sets import FaceSet
from facekit.evaluation.metrics import confusion_matrix
from facekit.show import plots
from facekit.tasks import Task


@plots.style()
def bars_with_intervals(rows: pd.DataFrame, chance: Mapping[str, float]) -> Figure:
    """One plot a task, in it a lying bar for chance and one for each input, with its value and its interval.

    rows: columns input, task, value, low, high. chance: by task, what looking at nothing scores; also a dashed line.
    """
    tasks = list(rows["task"].unique())
    fig, axes = plots.figure(1, len(tasks), size=(plots.WIDEST, 2.6), sharey=True, squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        found = rows[rows["task"] == task].set_index("input")
        names, values = ["chance", *found.index], [chance[task], *found["value"]]
        for place, value in enumerate(values):
            color = plots.COLORS[place - 1] if place else "#BBBBBB"
            hatch = plots.HATCHES[place - 1] if place else ""
            axis.barh(place, value, color=color, hatch=hatch, edgecolor="white", height=0.65)
            end = value
            if place:
                low, end = found["low"].iloc[place - 1], found["high"].iloc[place - 1]
                axis.errorbar(value, place, xerr=[[value - low], [end - value]], color="black", marker="", capsize=4)
            axis.annotate(f"{value:.2f}", (end, place), (4, 0), textcoords="offset points", va="center", fontsize=10)
        axis.axvline(chance[task], color="black", marker="", linestyle="--", linewidth=1)
        axis.set(title=task.replace("_", " "), xlabel="accuracy", xlim=(0, 1.05), yticks=range(len(names)))
        axis.set_yticklabels(names)
    axes[0, 0].invert_yaxis()
    return fig


@plots.style()
def confusion(task: Task, labels: pd.Series, said: np.ndarray, title: str) -> Figure:
    """A confusion matrix in percent of each row: rows are labels, columns answers; a row without labels stays empty.

    labels: (N,) of the task. said: (N,) class indices that were answered.
    """
    counts = confusion_matrix(task, said, task.encode(labels))
    side = 1.4 + 0.52 * max(len(counts), 4)
    fig, axis = plots.figure(size=(side + 0.5, side + 0.3))
    _matrix(axis, counts, title)
    return fig


@plots.style()
def confusion_with_faces(faces: FaceSet, task: Task, said: np.ndarray, seed: int = 0) -> Figure:
    """The confusion matrix of a task, and beside it two faces answered as labelled and one of each commonest error.

    faces: with labels for the task. said: (N,) class indices that were answered. Errors are the six most frequent pairs
    of label and answer, in their order; of fewer all.
    """
    codes = task.encode(faces.labels[task.name]).numpy()
    counts = confusion_matrix(task, said, codes)
    fig, axes = plots.figure(4, 3, size=(plots.WIDEST, 6.4), width_ratios=[3.6, 1, 1])
    large = fig.add_subplot(axes[0, 0].get_gridspec()[:, 0])
    for axis in axes[:, 0]:
        axis.remove()
    _matrix(large, counts, f"{task.name.replace('_', ' ')}, percent of each label")
    errors = counts.to_numpy().copy()
    np.fill_diagonal(errors, 0)
    pairs = [divmod(int(at), len(counts)) for at in errors.ravel().argsort(kind="stable")[::-1] if errors.ravel()[at]][
        :6
    ]
    rng = np.random.default_rng(seed)
    right = rng.permutation(np.flatnonzero(codes == said))[:2]
    wrong = [rng.permutation(np.flatnonzero((codes == i) & (said == j)))[0] for i, j in pairs]
    for axis, row in zip(axes[:, 1:].flat, [*right, *wrong], strict=False):
        axis.imshow(faces.images[row].transpose(1, 2, 0))
        axis.set_title(f"label {task.classes[codes[row]]}\nsaid {task.classes[said[row]]}", fontsize=9)
    for axis in axes[:, 1:].flat:
        axis.set_axis_off()
    return fig


def _matrix(axis: Axes, counts: pd.DataFrame, title: str) -> None:
    classes = [textwrap.fill(str(name).replace("_", " "), 12) for name in counts.index]
    totals = counts.to_numpy().sum(1, keepdims=True)
    shares = np.divide(100 * counts.to_numpy(), totals, where=totals > 0, out=np.zeros(counts.shape))
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
