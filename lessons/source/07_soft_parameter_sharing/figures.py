"""Plots of lesson 07, soft sharing over its strength, and what two networks' layers have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facekit.errors import ConfigError
from facekit.models.multitask import SharedNet
from facekit.show import plots


@plots.style()
def sharing_dial(
    strength: float,
    scores: pd.DataFrame,
    distances: pd.DataFrame,
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]],
    names: tuple[str, str],
) -> Figure:
    """Soft sharing over its strength λ: above, the accuracy of each task; below, distances and weights at one λ.

    strength: the λ that a vertical line marks. scores: columns method, task, value, one run a row; a method that is a
    number is a λ. The others, and 0 as `single`, are bands from the lowest to the highest run with a line at the mean.
    distances: columns method, stage, distance. weights: by title, corresponding weights (N,) of the two networks in
    `names` at `strength`. The values of λ stand at equal steps, so that 0 has its place.
    """
    tasks = list(scores["task"].unique())
    places = sorted(method for method in scores["method"].unique() if not isinstance(method, str))
    if strength not in places:
        raise ConfigError(f"there is no run at strength {strength}; those are {places}.")
    bands = {0: "single"} if 0 in places else {}
    bands |= {method: method for method in scores["method"].unique() if isinstance(method, str)}
    columns = max(len(tasks), 1 + len(weights))
    fig, axes = plots.figure(2, columns, size=(plots.WIDEST, 5.8), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=False):
        rows = scores[scores["task"] == task]
        for place, (method, name) in enumerate(bands.items()):
            values = rows.loc[rows["method"] == method, "value"]
            color = ("#555555", *plots.COLORS[1:])[place]
            axis.axhspan(values.min(), values.max(), color=color, alpha=0.13, linewidth=0)
            axis.axhline(values.mean(), color=color, linestyle=plots.DASHES[1 + place], marker="", label=name)
        _over_strengths(axis, places, rows, "value", "soft")
        axis.set_title(task)
    for place, (stage, rows) in enumerate(distances.groupby("stage", sort=False)):
        look = {"color": plots.COLORS[2 + place], "marker": plots.MARKERS[1 + place]}
        _over_strengths(axes[1, 0], places, rows, "distance", str(stage).replace("_", " "), **look)
    axes[1, 0].set(title="relative distance", ylim=(0, 1))
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].legend(fontsize=9, loc="upper right")
    for axis in (*axes[0, : len(tasks)], axes[1, 0]):
        axis.axvline(places.index(strength), color="black", linestyle="-", linewidth=1, marker="")
        axis.set_xticks(range(len(places)), [f"{value:g}".removeprefix("0") or "0" for value in places], fontsize=9)
        axis.set_xlabel("λ")
    for axis, (title, (x, y)) in zip(axes[1, 1:], weights.items(), strict=False):
        reach = 1.05 * max(np.abs(x).max(), np.abs(y).max())
        axis.plot([-reach, reach], [-reach, reach], color="#999999", linestyle="-", linewidth=1, marker="")
        axis.scatter(x, y, s=4, alpha=0.4, color=plots.COLORS[0], linewidths=0)
        words = {"title": f"{title} at λ = {strength:g}".replace("_", " "), "xlabel": f"weights for {names[0]}"}
        axis.set(**words, ylabel=f"for {names[1]}", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for axis in [*axes[0, len(tasks) :], *axes[1, 1 + len(weights) :]]:
        axis.set_axis_off()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def _over_strengths(axis: Axes, places: Sequence[float], rows: pd.DataFrame, column: str, label: str, **look) -> None:
    """A line over the values of λ at equal steps: the mean of `column`, with a bar from its lowest to its highest."""
    found = rows.groupby("method")[column].agg(["mean", "min", "max"]).reindex(places)
    look = {"color": plots.COLORS[0], "marker": plots.MARKERS[0], "linestyle": "-"} | look
    errors = plots.error_lengths(found["mean"], found["min"], found["max"])
    axis.errorbar(range(len(places)), found["mean"], yerr=errors, capsize=3, label=label, **look)


def gain_panels(tables: Mapping[str, pd.DataFrame], baseline: str, columns: int = 2) -> Figure:
    """One plot for each table (by its title): what each method gains over `baseline` in the same seed, in points.

    tables: one row a seed, one column a method, the values accuracies; a point is 0.01. Every seed is a dot, the mean
    a lying bar with its number and standard error. columns: plots beside one another. Raises ConfigError where a table
    lacks the baseline.
    """
    if missing := [title for title, table in tables.items() if baseline not in table]:
        raise ConfigError(f"no column {baseline!r} in the tables {missing}.")
    gains = {title: 100 * table.sub(table[baseline], axis=0).drop(columns=baseline) for title, table in tables.items()}
    fig = plots.lying_bar_panels(gains, "{:+.1f}", columns, sharex=True)
    for axis in fig.axes:
        axis.axvline(0, color="black", marker="", linestyle="-", linewidth=1)
    fig.supxlabel(f"points over {baseline}", fontsize=11)
    return fig


@plots.style()
def curves(trained: Mapping[float, Sequence]) -> Figure:
    """Losses and distance over the steps, a plot for each column of the logs and in it a line a strength.

    trained: by λ what the training by hand returns, of which the last is its log, a table with a row a step.
    """
    logs = {f"λ = {strength:g}": log for strength, (*_, log) in trained.items()}
    names = list(next(iter(logs.values())))
    fig, axes = plots.figure(1, len(names), size=(plots.WIDEST, 3.0), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for label, log in logs.items():
            axis.plot(range(1, len(log) + 1), log[name], label=label, marker="")
        axis.set(title=name if name == "squared distance" else f"loss of {name}", xlabel="step", ylim=(0, None))
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(logs))
    return fig


@torch.no_grad()
def _copies(net: SharedNet, stage: str, tasks: Sequence[str]) -> list[torch.Tensor]:
    """The numbers (N,) of a stage in the copy of each of these tasks."""
    return [torch.cat([p.flatten() for p in net.towers[task][stage].parameters()]) for task in tasks]


def first_direction(net: SharedNet) -> pd.Series:
    """The first singular value's share of the trace norm of the tasks' copies of each stage; index: stage.

    The copies are the rows of a matrix (tasks, numbers of the stage), whose trace norm Yang & Hospedales 2017 penalise.
    1 where all rows are multiples of one; 1 / T for T rows of one length that are perpendicular to each other.
    """
    found = {}
    for name in net.private:
        values = torch.linalg.svdvals(torch.stack(_copies(net, name, list(net.towers))).cpu().double())
        found[name] = (values[0] / values.sum()).item() if values[0] > 0 else 1.0
    return pd.Series(found, name="first_direction", dtype=float)


def corresponding_weights(net: SharedNet, one: str, other: str, every: int = 1) -> dict[str, tuple[np.ndarray, ...]]:
    """By stage, the weights and biases of two tasks' copies, each (N,), so that place k is the same in both.

    every: only each so many-th, for pictures.
    """
    return {
        name: tuple(copy[::every].cpu().numpy() for copy in _copies(net, name, (one, other))) for name in net.private
    }
