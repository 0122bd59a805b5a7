"""Figures of the course: fixed sizes, a palette that colour-blind readers can tell apart, text for every picture.

Colour never stands alone: lines also differ in marker and dash, bars in hatch. Figures are PNG, never SVG, and are
made without pyplot, so none is left open and none shows up twice. `show` demands a text alternative. It goes into
the output's metadata (for export) and below the picture as text, since JupyterLab does not read that metadata.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib.style
import matplotlib.ticker
import numpy as np
import pandas as pd
import PIL.Image
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from facekit.errors import ConfigError

# Okabe & Ito's palette (Color Universal Design, 2008) without its yellow, which is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++")
DPI = 100
WIDTH, HEIGHT = 6.4, 3.8  # inches of one plot: 640 x 380 px
SMALL_WIDTH, SMALL_HEIGHT = 3.4, 3.0  # inches of one plot among several

STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine has it
    "font.size": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#DDDDDD",
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "image.interpolation": "nearest",
    "axes.prop_cycle": cycler(color=COLORS) + cycler(marker=MARKERS) + cycler(linestyle=DASHES),
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib with the style of the course inside the block, and untouched outside it.

    A decorator, too: what is drawn takes the style that holds when it is drawn, not when its figure was made.
    """
    with matplotlib.style.context(["default", STYLE]):  # "default" undoes what the user's matplotlibrc sets
        yield


def figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, **options
) -> tuple[Figure, object]:
    """A figure in the style of the course and its axes: one Axes, or an array (rows, columns) squeezed.

    size: (width, height) in inches; by default 6.4 x 3.8 for one plot and 3.4 x 3.0 for each of several.
    options: those of `Figure.subplots` (sharex, sharey, width_ratios …).
    """
    if size is None:
        size = (WIDTH, HEIGHT) if rows * columns == 1 else (SMALL_WIDTH * columns, SMALL_HEIGHT * rows)
    with style():
        made = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(made)
        return made, made.subplots(rows, columns, **options)


def png(fig: Figure) -> bytes:
    """The figure as PNG bytes at its own size, without a note of the library that made it."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    small = io.BytesIO()  # the same pixels without the layer of transparency: a tenth less, in every notebook
    PIL.Image.open(buffer).convert("RGB").save(small, format="png", optimize=True)
    return small.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Shows a figure in a notebook as PNG with `alt` as its text alternative and as the line below it.

    alt: what the figure shows and what to see in it, for somebody who cannot see it; raises ConfigError if empty.
    """
    width, height = (round(inches * DPI) for inches in fig.get_size_inches())
    show_png(png(fig), alt, f"Figure, {width} x {height} px, {len(fig.axes)} axes")


def show_png(data: bytes, alt: str, text: str = "Figure") -> None:
    """Shows PNG bytes as `show` does; `text` is the output's text form, which tests compare."""
    alt = " ".join(alt.split())
    if not alt:
        raise ConfigError("a figure needs a text alternative: pass alt='what the figure shows'.")
    bundle = {"image/png": base64.b64encode(data).decode("ascii"), "text/plain": text}
    publish(bundle, {"image/png": {"alt": alt}})
    publish({"text/markdown": f"*Figure:* {alt}", "text/plain": f"Figure: {alt}"})


def publish(bundle: dict, metadata: dict | None = None) -> None:
    """Displays a bundle of MIME types in a notebook; outside one, prints its plain text."""
    from IPython import get_ipython  # only here, so that facekit without Jupyter stays light
    from IPython.display import display

    if get_ipython() is None:
        print(bundle["text/plain"])
    else:
        display(bundle, metadata=metadata or {}, raw=True)


@style()
def image_grid(
    images: torch.Tensor | np.ndarray,
    captions: Sequence[str] | None = None,
    columns: int = 6,
    cell: float = 1.25,
) -> Figure:
    """A grid of faces, each with its caption below.

    images: uint8 (N, 3, H, W). captions: N texts of one or two short lines. cell: inches a picture.
    Raises ConfigError when there is no image or the captions do not match.
    """
    pictures = np.asarray(images)
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.dtype != np.uint8 or not len(pictures):
        raise ConfigError(f"image_grid needs uint8 images (N, 3, H, W), got {pictures.dtype} {pictures.shape}.")
    if captions is not None and len(captions) != len(pictures):
        raise ConfigError(f"{len(captions)} captions for {len(pictures)} images.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = max((text.count("\n") + 1 for text in captions), default=0) if captions is not None else 0
    fig, axes = figure(rows, columns, size=(columns * cell, rows * (cell + 0.17 * lines)), squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if place < len(pictures):
            axis.imshow(pictures[place].transpose(1, 2, 0))
            if captions is not None:
                below = {"xycoords": "axes fraction", "xytext": (0, -3), "textcoords": "offset points"}
                axis.annotate(captions[place], (0.5, 0), **below, ha="center", va="top", fontsize=9)
    return fig


@style()
def lines_with_spread(axis: Axes, x: Sequence[float], runs: dict[str, np.ndarray], *, log_x: bool = True) -> None:
    """One line a method: the mean over seeds, with a bar from the lowest to the highest seed.

    x: P places. runs: by name, values (seeds, P); NaN where a run was not made.
    """
    for name, values in runs.items():
        values = np.atleast_2d(np.asarray(values, dtype=float))
        if values.shape[1] != len(x):
            raise ConfigError(f"{name!r}: {values.shape[1]} values a run for {len(x)} places.")
        mean, low, high = np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)
        axis.errorbar(x, mean, yerr=_lengths(mean, low, high), capsize=3, label=name)
    if log_x:
        axis.set_xscale("log")
        axis.set_xticks(list(x), [f"{value:,}" for value in x])
        axis.minorticks_off()
    axis.legend()


def _lengths(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of error bars below and above; the mean of equal numbers can miss them by a rounding error."""
    return np.maximum(mean - low, 0), np.maximum(high - mean, 0)


@style()
def bars_with_spread(axis: Axes, runs: dict[str, Sequence[float]]) -> None:
    """One bar a method: the mean over seeds as bar and number, every seed as a dot. runs: by name, values (seeds,)."""
    for place, values in enumerate(runs.values()):
        values = np.asarray(values, dtype=float)
        color, hatch = COLORS[place % len(COLORS)], HATCHES[place % len(HATCHES)]
        axis.bar(place, values.mean(), color=color, hatch=hatch, edgecolor="white", width=0.65)
        axis.plot(np.full(len(values), place), values, linestyle="", marker="o", color="black", markersize=4)
        axis.annotate(
            f"{values.mean():.2f}", (place, values.max()), xytext=(0, 5), textcoords="offset points", ha="center"
        )
    width = max(8, 45 // max(len(runs), 1))  # characters that fit below a bar of a plot of the usual width
    axis.set_xticks(range(len(runs)), [textwrap.fill(name, width, break_long_words=False) for name in runs])
    axis.margins(y=0.15)


def bar_panels(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """One plot for each table (by its title) with a bar a column: the mean over the rows, every row a dot.

    tables: one row a seed, one column a method, the values accuracies. All plots have the same vertical axis.
    """
    widest = max(len(table.columns) for table in tables.values())
    fig, axes = figure(1, len(tables), size=(1 + 1.15 * widest * len(tables), HEIGHT), squeeze=False, sharey=True)
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        bars_with_spread(axis, {name: table[name].to_numpy() for name in table})
        axis.set_xticks(range(len(table.columns)), [textwrap.fill(name, 10) for name in table], fontsize=9)
        axis.set(title=title)
    axes[0, 0].set_ylabel("accuracy")
    return fig


@style()
def bars_with_intervals(axis: Axes, rows: pd.DataFrame, chance: float | None = None) -> None:
    """One bar a row of `rows` (columns value, low, high; names in the index), its interval, and its value below it.

    chance: what looking at nothing would score, as a grey bar before the others and a dashed line through them.
    """
    names = [f"{name}\n{value:.2f}" for name, value in rows["value"].items()]
    for place, (value, low, high) in enumerate(rows[["value", "low", "high"]].itertuples(index=False)):
        color, hatch = COLORS[place % len(COLORS)], HATCHES[place % len(HATCHES)]
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


@style()
def learning_curves(axis: Axes, runs: Mapping[str, pd.DataFrame]) -> None:
    """One line a method over the number of labels: the mean over seeds, with a bar from the lowest to the highest.

    runs: by name, a table with one measurement a row and the columns `n` and `value`; each may have its own n.
    """
    for name, rows in runs.items():
        found = rows.groupby("n")["value"].agg(["mean", "min", "max"])
        errors = _lengths(found["mean"], found["min"], found["max"])
        axis.errorbar(found.index, found["mean"], yerr=errors, capsize=3, label=name)
    axis.set_xscale("log")
    sizes = sorted({n for rows in runs.values() for n in rows["n"]})
    if len(sizes) <= 5:
        axis.set_xticks(sizes)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.minorticks_off()  # a narrow range would label them as 2 × 10¹, 3 × 10¹ …
    axis.set_xlabel("labels")


def learning_curve_panels(runs: Mapping[str, pd.DataFrame], metric: str = "accuracy") -> Figure:
    """One plot a task with the learning curves of all methods; a method looks the same in all of them.

    runs: by name, a table with the columns task, metric, n and value, as `experiments.learning_curve` returns it; a
    method may lack some tasks. Tasks come in the order in which they appear, other metrics are left out.
    """
    found = {name: rows[rows["metric"] == metric] for name, rows in runs.items()}
    tasks = pd.concat(found.values())["task"].unique()
    fig, axes = figure(1, len(tasks), size=(SMALL_WIDTH * max(len(tasks), 2), 4.0), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        # A method without rows draws nothing, but takes its colour: so the next one keeps its own.
        learning_curves(axis, {name: rows[rows["task"] == task] for name, rows in found.items()})
        axis.set(title=task.replace("_", " "), ylabel=metric.replace("_", " "))
    with style():
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10)
    return fig


@style()
def confusion(counts: pd.DataFrame, title: str) -> Figure:
    """A confusion matrix in percent of each row, from counts (classes, classes) as `metrics.confusion_matrix` has them.

    Rows are labels, columns predictions; a row without photos stays empty.
    """
    classes = [textwrap.fill(str(name).replace("_", " "), 12) for name in counts.index]
    totals = counts.to_numpy().sum(1, keepdims=True)
    shares = np.divide(100 * counts.to_numpy(), totals, where=totals > 0, out=np.zeros(counts.shape))
    side = 1.4 + 0.52 * max(len(classes), 4)
    fig, axis = figure(size=(side + 0.5, side + 0.3))
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


@style()
def scatter_classes(axis: Axes, points: np.ndarray, labels: Sequence[str], classes: Sequence[str]) -> None:
    """Points (N, 2) marked by class, with a legend below; points whose label is no class are left out.

    Classes that are more than the palette has colours get, in their order, colours from dark to light.
    """
    labels = np.asarray(labels)
    if len(labels) != len(points):
        raise ConfigError(f"{len(labels)} labels for {len(points)} points.")
    ramp = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(classes)))
    for place, name in enumerate(classes):
        color = COLORS[place] if len(classes) <= len(COLORS) else ramp[place]
        marker = MARKERS[place % len(MARKERS)]
        axis.scatter(*points[labels == name].T, s=6, alpha=0.6, color=color, marker=marker, linewidths=0, label=name)
    columns = 2 if len(classes) < 8 else 3
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "frameon": False}
    axis.legend(**below, ncols=columns, fontsize=9, markerscale=2.5)


def domain_clouds(sources: Mapping[str, np.ndarray], target: np.ndarray) -> Figure:
    """One plot for each version of the source (by its title) with the target, all seen from the same side.

    sources, target: points (N, D). To the right goes the line from the mean of the first version to the target's, up
    the direction beside it in which the target varies most.
    """
    right = target.mean(0) - next(iter(sources.values())).mean(0)
    right = right / max(float(np.linalg.norm(right)), 1e-12)
    rest = target - target.mean(0)
    up = np.linalg.svd(rest - np.outer(rest @ right, right), full_matrices=False)[2][0]
    fig, axes = figure(1, len(sources), size=(4.2 * len(sources), 4.4), squeeze=False, sharex=True, sharey=True)
    for axis, (title, source) in zip(axes[0], sources.items(), strict=True):
        names = np.repeat(["source", "target"], [len(source), len(target)])
        points = np.concatenate([source, target]) @ np.stack([right, up * np.sign(up.sum() or 1)], axis=1)
        scatter_classes(axis, points, names, ["source", "target"])
        axis.set(title=title, xlabel="from mean to mean", ylabel="most variance beside it")
    return fig


def plan_rates(table: pd.DataFrame, title: str) -> Figure:
    """The peak learning rate of every stage in every epoch of a plan, from its table (`Plan.table`).

    Stages go up from the input to the output; the darker the faster; grey is frozen.
    """
    phases = [rows for _, rows in table.groupby("phase", sort=False)]
    stages = list(phases[0]["stage"])
    rates = np.concatenate([np.tile(p["lr"].to_numpy()[:, None], p["epochs"].iloc[0]) for p in phases], axis=1)
    fig, axis = figure(size=(6.4, 1.2 + 0.32 * len(stages)))
    axis.set_facecolor("#D5DAE0")
    shades = np.log10(np.where(rates > 0, rates, np.nan))
    axis.imshow(shades, cmap="Blues", vmin=-7, vmax=-1.5, aspect="auto", origin="lower")
    for (stage, epoch), rate in np.ndenumerate(rates):
        color = "white" if rate > 1e-4 else "black"
        axis.text(epoch, stage, f"{rate:.0e}" if rate else "frozen", ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(rates.shape[1]), range(1, rates.shape[1] + 1))
    axis.set_yticks(range(len(stages)), stages)
    axis.set(xlabel="epoch", title=title)
    axis.grid(False)
    return fig


def trade_offs(rows: pd.DataFrame, value: str, costs: Mapping[str, str]) -> Figure:
    """One plot a cost: the column `value` over it, one point a row, named by the index in the legend.

    costs: column to the words below its axis, logarithmic unless the highest cost is less than three times the lowest;
    so costs must be positive.
    """
    fig, axes = figure(1, len(costs), size=(9.6, 3.8), sharey=True, squeeze=False)
    for axis, (cost, words) in zip(axes[0], costs.items(), strict=True):
        for place, (name, row) in enumerate(rows.iterrows()):
            look = {"marker": MARKERS[place % len(MARKERS)], "color": COLORS[place % len(COLORS)]}
            axis.plot(row[cost], row[value], linestyle="", markersize=9, label=name, **look)
        axis.set(xlabel=words, xscale="log")
        low, high = axis.get_xlim()
        if high < 3 * low:  # a logarithmic axis would have one number or none
            axis.set_xscale("linear")
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
            axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
            continue
        axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
        axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes[0, 0].set_ylabel(value)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right")
    return fig


def bars_by_column(rows: pd.DataFrame) -> Figure:
    """One plot a column, in it one lying bar a row with its value; all from 0 to 1, or from a value below 0."""
    fig, axes = figure(1, len(rows.columns), size=(11, 1.4 + 0.32 * len(rows)), sharey=True, squeeze=False)
    low = min(0, rows.min(axis=None))
    for place, (axis, name) in enumerate(zip(axes[0], rows, strict=True)):
        bars = axis.barh(rows.index, rows[name], color=COLORS[place % len(COLORS)], height=0.65)
        axis.bar_label(bars, [f"{value + 0.0:.2f}" for value in rows[name].round(2)], padding=3, fontsize=9)
        axis.set(title=name, xlim=(1.1 * low, 1.25))
        axis.set_xticks([0, 0.5, 1])
        axis.grid(False, axis="y")
    axes[0, 0].invert_yaxis()
    return fig


@style()
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
    fig, axes = figure(2, columns, size=(3.5 * columns, 6.2), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=False):
        rows = scores[scores["task"] == task]
        for place, (method, name) in enumerate(bands.items()):
            values = rows.loc[rows["method"] == method, "value"]
            color = ("#555555", *COLORS[1:])[place]
            axis.axhspan(values.min(), values.max(), color=color, alpha=0.13, linewidth=0)
            axis.axhline(values.mean(), color=color, linestyle=DASHES[1 + place], marker="", label=name)
        _over_strengths(axis, places, rows, "value", "soft")
        axis.set(title=task, ylabel="accuracy")
    for place, (stage, rows) in enumerate(distances.groupby("stage", sort=False)):
        look = {"color": COLORS[2 + place], "marker": MARKERS[1 + place]}
        _over_strengths(axes[1, 0], places, rows, "distance", str(stage).replace("_", " "), **look)
    axes[1, 0].set(title="relative distance", ylim=(0, 1))
    axes[1, 0].legend(fontsize=9, loc="upper right")
    for axis in (*axes[0, : len(tasks)], axes[1, 0]):
        axis.axvline(places.index(strength), color="black", linestyle="-", linewidth=1, marker="")
        axis.set_xticks(range(len(places)), [f"{value:g}" for value in places], fontsize=9)
        axis.set_xlabel("λ")
    for axis, (title, (x, y)) in zip(axes[1, 1:], weights.items(), strict=False):
        reach = 1.05 * max(np.abs(x).max(), np.abs(y).max())
        axis.plot([-reach, reach], [-reach, reach], color="#999999", linestyle="-", linewidth=1, marker="")
        axis.scatter(x, y, s=4, alpha=0.4, color=COLORS[0], linewidths=0)
        words = {"title": f"{title} at λ = {strength:g}".replace("_", " "), "xlabel": f"weights for {names[0]}"}
        axis.set(**words, ylabel=f"for {names[1]}", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    for axis in [*axes[0, len(tasks) :], *axes[1, 1 + len(weights) :]]:
        axis.set_axis_off()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def _over_strengths(axis: Axes, places: Sequence[float], rows: pd.DataFrame, column: str, label: str, **look) -> None:
    """A line over the values of λ at equal steps: the mean of `column`, with a bar from its lowest to its highest."""
    found = rows.groupby("method")[column].agg(["mean", "min", "max"]).reindex(places)
    look = {"color": COLORS[0], "marker": MARKERS[0], "linestyle": "-"} | look
    errors = _lengths(found["mean"], found["min"], found["max"])
    axis.errorbar(range(len(places)), found["mean"], yerr=errors, capsize=3, label=label, **look)


def gain_panels(tables: Mapping[str, pd.DataFrame], baseline: str) -> Figure:
    """One plot for each table (by its title): what each method gains over `baseline` in the same seed, in points.

    tables: one row a seed, one column a method, the values accuracies; a point is 0.01. Every seed is a dot, the mean
    a lying bar with its number. Raises ConfigError where a table lacks the baseline.
    """
    if missing := [title for title, table in tables.items() if baseline not in table]:
        raise ConfigError(f"no column {baseline!r} in the tables {missing}.")
    gains = {title: 100 * table.sub(table[baseline], axis=0).drop(columns=baseline) for title, table in tables.items()}
    height = 1.5 + 0.42 * max(len(gain.columns) for gain in gains.values())
    fig, axes = figure(1, len(gains), size=(1.6 + 2.6 * len(gains), height), squeeze=False, sharex=True, sharey=True)
    for axis, (title, gain) in zip(axes[0], gains.items(), strict=True):
        for place, name in enumerate(gain):
            axis.barh(place, gain[name].mean(), color=COLORS[place % len(COLORS)], height=0.6, alpha=0.75)
            axis.plot(gain[name], [place] * len(gain), linestyle="", marker="o", color="black", markersize=4)
            words = f"{gain[name].mean():+.1f}"
            axis.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=9)
        axis.axvline(0, color="black", marker="", linestyle="-", linewidth=1)
        axis.set_yticks(range(len(gain.columns)), list(gain))
        axis.set(title=title, xlabel=f"points over {baseline}")
    axes[0, 0].invert_yaxis()
    return fig
