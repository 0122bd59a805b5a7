"""Plots of lesson 13: examples of sources and targets, accuracies of sources on targets, and places by score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from facekit.data.sets import FaceSet
from facekit.show import plots
from facekit.tasks import Task

SHOWN, SIDE = 4, 96
SCORES = {"LogME": "logme", "LogME, bias": "logme_bias", "H-score": "h_score", "trying": "guess"}
Labelled = Mapping[str, tuple[FaceSet, Task]]


def examples(sources: Labelled, targets: Labelled) -> Figure:
    """Four pictures of each source and of each target, a row each, with what they are and their labels."""
    pictures, captions = [], []
    for kind, sets in (("source", sources), ("target", targets)):
        for name, (data, task) in sets.items():
            some = data.select(range(SHOWN))
            pictures.append(some.resized(SIDE).images)
            captions += [f"{kind} {name}\n{label}" for label in some.labels[task.name]]
    return plots.image_grid(np.concatenate(pictures), captions, columns=2 * SHOWN, cell=plots.WIDEST / (2 * SHOWN))


@plots.style()
def heat(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A square for each way (row) and target (column): accuracy in points ± its standard error over the draws.

    tables: target to a table of `over_seeds`. Colours are by column, from its worst to its best way; the best is
    framed, and so is every way whose mean is within two standard errors of the difference, draw by draw.
    """
    means = pd.DataFrame({target: table.mean() for target, table in tables.items()})
    errors = pd.DataFrame({target: table.sem() for target, table in tables.items()})
    low, high = means.min(), means.max()
    shade = ((means - low) / (high - low).where(high > low, 1)).to_numpy()
    fig, axis = plots.figure(size=(1.9 + 1.35 * means.shape[1], 1.1 + 0.5 * len(means)))
    _squares(axis, shade, means.index, means.columns)
    for column, (target, table) in enumerate(tables.items()):
        behind = table.sub(table[means[target].idxmax()], axis=0)
        near = behind.mean() >= -2 * behind.sem()
        for row, way in enumerate(means.index):
            text = f"{100 * means.loc[way, target]:.0f} ± {100 * errors.loc[way, target]:.0f}"
            _write(axis, row, column, text, shade[row, column], bool(near[way]))
    axis.set_title("accuracy in points; framed: the best, and what cannot be told from it", fontsize=10, loc="left")
    return fig


@plots.style()
def places(tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """One plot a way to judge: the place of each way (row) on each target (column), 1 for the highest mean.

    tables: way to judge to target to a table of `over_seeds`. Places that differ from the first plot's by two or more
    are framed.
    """
    fig, _ = plots.figure(1, len(tables), size=(plots.WIDEST, 3.4), sharey=True)
    first: np.ndarray | None = None
    for axis, (name, by_target) in zip(fig.axes, tables.items(), strict=True):
        means = pd.DataFrame({target: table.mean() for target, table in by_target.items()})
        ranks = means.rank(ascending=False, method="min").to_numpy().astype(int)
        first = ranks if first is None else first
        shade = 1 - (ranks - 1) / max(len(means) - 1, 1)
        _squares(axis, shade, means.index, means.columns)
        for row, column in np.ndindex(*ranks.shape):
            far = abs(ranks[row, column] - first[row, column]) >= 2
            _write(axis, row, column, str(ranks[row, column]), shade[row, column], bool(far))
        axis.tick_params(axis="x", rotation=90)
        axis.set_title(name, fontsize=11)
    return fig


def _squares(axis, shade: np.ndarray, rows, columns) -> None:
    """A picture of shades from 0 to 1 with names at its sides."""
    axis.imshow(shade, cmap="Blues", vmin=-0.15, vmax=1.25, aspect="auto")
    axis.set_xticks(range(shade.shape[1]), columns, fontsize=9)
    axis.set_yticks(range(shade.shape[0]), rows)
    axis.tick_params(length=0)
    axis.grid(False)


def _write(axis, row: int, column: int, text: str, shade: float, framed: bool) -> None:
    """A square's text, and its frame."""
    color = "white" if shade > 0.6 else "#222222"
    axis.text(column, row, text, ha="center", va="center", color=color, fontsize=11 if len(text) < 3 else 10)
    if framed:
        square = {"fill": False, "edgecolor": plots.COLORS[1], "linewidth": 2.5}
        axis.add_patch(Rectangle((column - 0.46, row - 0.43), 0.92, 0.86, **square))


def by_task(rows: pd.DataFrame, n: int) -> dict[str, pd.DataFrame]:
    """Accuracies with n labels, of the record `networks_real`, as `heat` takes them: by task, a row a seed.

    Where there are fewer than n labels for a task, all of them count.
    """
    found = {}
    for task, some in rows[rows["metric"] == "accuracy"].groupby("task", sort=False):
        at = some["n"][some["n"] <= n].max()
        found[task] = some[some["n"] == at].pivot_table("value", "seed", "network", sort=False)
    return found


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """How cheap scores rank networks, of the record `networks_real`: by score and number of labels.

    rows: those of one test part a task, and those that look at labels alone. Columns: the mean rank correlation with
    the accuracy over tasks and draws, how many points the network that the score puts first is behind the best one on
    average and at most, and the processor's seconds for one network.
    """
    lines = []
    for (n, _task, _seed), some in rows.groupby(["n", "task", "seed"]):
        wide = some.pivot_table("value", "network", "metric")
        seconds = some.groupby("metric")["seconds"].mean()
        for name, metric in SCORES.items():
            best = wide["accuracy"].max() - wide.loc[wide[metric].idxmax(), "accuracy"]
            lines.append((name, n, wide["accuracy"].corr(wide[metric], method="spearman"), 100 * best, seconds[metric]))
    table = pd.DataFrame(lines, columns=["score", "labels", "rank correlation", "points lost", "seconds"])
    found = table.groupby(["score", "labels"], sort=False).agg(
        {"rank correlation": "mean", "points lost": ["mean", "max"], "seconds": "mean"}
    )
    found.columns = ["rank correlation", "points lost", "at most", "seconds"]
    return found.sort_index(level=0, sort_remaining=True, key=_in_order)


def _in_order(values: pd.Index) -> pd.Index:
    """Names of scores as their places in SCORES, numbers as they are."""
    return values.map(list(SCORES).index) if values.name == "score" else values
