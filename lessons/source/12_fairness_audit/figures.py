"""Plots of lesson 12: faces that were seen right and wrong, groups with their intervals, calibration, who gains."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from facekit.commands.cli import main
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import LessonError
from facekit.evaluation.calibration import calibration_curve, temperature_scaled
from facekit.show import plots
from facekit.tasks import Task

SHOWN = 6
AUDITED = "held-out training photos"


def right_and_wrong(faces: FaceSet, task: Task, outputs: torch.Tensor, seed: int = 0) -> Figure:
    """Six faces whose answer is as labelled and six whose answer is not; all that there are of fewer.

    outputs: (N, classes), the network's.
    """
    said = np.array(task.classes)[task.predict(outputs).numpy()]
    return plots.right_and_wrong(faces.images, faces.labels[task.name], said, SHOWN, seed)


@plots.style()
def groups(tables: Mapping[str, Mapping[str, pd.DataFrame]], recorded: pd.DataFrame | None = None) -> Figure:
    """One plot a task: for every group and classifier a dot with its interval, and the groups' mean as a dotted line.

    tables: task to classifier to a table with the groups as index and columns value, low, high. recorded: rows of the
    record `fairness_audits`; classifiers of the same name stand beside, where it has them, the means over the seeds.
    """
    fig, _ = plots.figure(1, len(tables), size=(plots.WIDEST, 4.8), sharey=True)
    for axis, (task, given) in zip(fig.axes, tables.items(), strict=True):
        drawn = dict(given)
        if recorded is not None:
            kept = recorded[
                (recorded[["task", "by", "metric", "audited"]] == [task, "race", "accuracy", AUDITED]).all(axis=1)
            ]
            for name in given:
                found = kept[kept["network"] == name].groupby("group")[["value", "low", "high"]].mean()
                if len(found):
                    drawn[f"{name}, recorded"] = found.reindex(given[name].index)
        for place, (name, table) in enumerate(drawn.items()):
            values, rows = table.astype(float), np.arange(len(table)) + 0.19 * (place - (len(drawn) - 1) / 2)
            color, marker = plots.COLORS[place % len(plots.COLORS)], plots.MARKERS[place % len(plots.MARKERS)]
            lengths = plots.error_lengths(values["value"], values["low"], values["high"])
            look: dict[str, Any] = {"marker": marker, "color": color, "markersize": 4, "capsize": 2}
            axis.errorbar(values["value"], rows, xerr=lengths, linestyle="", label=name, **look)
            axis.axvline(values["value"].mean(), color=color, linewidth=1, linestyle=":", marker="")
        axis.set(title=task, xlabel="accuracy")
        axis.locator_params(axis="x", nbins=4)
        axis.set_yticks(range(len(table)), [str(name).replace("_", " ") for name in table.index])
    fig.axes[0].invert_yaxis()
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    return fig


@plots.style()
def reliability(outputs: torch.Tensor, targets: torch.Tensor, fitted: pd.DataFrame) -> Figure:
    """Accuracy over confidence in ten bins, as trained and with one temperature; the diagonal is perfect calibration.

    outputs: (N, classes). targets: (N,). fitted: a table of `calibration_by_group`, which says the temperature. The
    size of a mark is the share of the rows in its bin.
    """
    temperature = fitted.loc[fitted["scaling"] == "one", "temperature"].iloc[0]
    fig, axis = plots.figure(size=(5.2, 4.4))
    axis.plot([0, 1], [0, 1], color="#555555", linestyle="--", linewidth=1, marker="", label="as sure as right")
    for place, (name, each) in enumerate({"as trained": 1.0, f"temperature {temperature:.1f}": temperature}.items()):
        curve = calibration_curve(temperature_scaled(outputs, each), targets, bins=10).dropna()
        color, marker = plots.COLORS[place], plots.MARKERS[place]
        sizes = 20 + 400 * curve["n"] / curve["n"].sum()
        axis.plot(curve["confidence"], curve["accuracy"], color=color, linestyle=plots.DASHES[place], marker="")
        axis.scatter(curve["confidence"], curve["accuracy"], s=sizes, color=color, alpha=0.7, marker=marker, label=name)
    low = 1 / outputs.shape[1]
    axis.set(xlabel="how sure (mean of the bin)", ylabel="how often right", xlim=(low - 0.03, 1.03))
    axis.set_ylim(min(low, *(line.get_ydata().min() for line in axis.lines[1:])) - 0.05, 1.03)
    for handle in axis.legend(loc="lower right").legend_handles[1:]:
        handle.set_sizes([40])
    return fig


@plots.style()
def moved(runs: pd.DataFrame, *steps: tuple[str, str]) -> Figure:
    """One plot a step: every group's accuracy with one method and with another, an arrow between them, in points.

    runs: rows by seed and method, groups as columns; the mean over the seeds is shown. steps: the methods from and to.
    The groups are in the order of the first step's first method.
    """
    table = runs.groupby(level=1).mean()
    fig, _ = plots.figure(1, len(steps), size=(plots.WIDEST, 3.4), sharex=True, sharey=True)
    order = table.loc[steps[0][0]].sort_values().index
    for axis, (before, after) in zip(fig.axes, steps, strict=True):
        for row, group in enumerate(order):
            start, end = table.loc[before, group], table.loc[after, group]
            color = plots.COLORS[0] if end >= start else plots.COLORS[1]
            axis.annotate("", (end, row), (start, row), arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2})
            axis.plot(start, row, marker="o", color=color, markersize=6)
            place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontsize": 10}
            axis.annotate(f"{round(100 * (end - start)) + 0:+d}", (max(start, end), row), **place)
        axis.set(title=f"{before} → {after}", xlabel="accuracy")
        axis.locator_params(axis="x", nbins=5)
        axis.set_yticks(range(len(order)), [str(name).replace("_", " ") for name in order])
        axis.margins(x=0.12, y=0.08)
    return fig


def card(faces: FeatureSet, *commands: str) -> str:
    """The model card that commands of `python -m facekit` leave, run in a folder of their own, in which `faces` are.

    commands: without `python -m facekit`; one of them writes `model_card.md` somewhere. Headings become two levels
    lower, to fit into a lesson. The folder is deleted. Raises LessonError where a command fails or leaves no card.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), open(os.devnull, "w") as nowhere:
        faces.save("faces")
        for command in commands:
            with contextlib.redirect_stdout(nowhere):
                status = main(command.split())
            if status:
                raise LessonError(f"`python -m facekit {command}` failed; run it in a terminal to see why.")
        found = list(Path().rglob("model_card.md"))
        if len(found) != 1:
            raise LessonError(f"{len(found)} model cards instead of one; have `evaluate` among the commands, once.")
        return re.sub("^#", "###", found[0].read_text(encoding="utf-8"), flags=re.MULTILINE)
