"""Figures of the course: fixed sizes, a palette that colour-blind readers can tell apart, text for every picture.

Colour never stands alone: lines also differ in marker and dash, bars in hatch. Figures are PNG, never SVG, and are
made without pyplot, so none is left open and none shows up twice. `show` demands a text alternative. It goes into
the output's metadata, and below the picture as text. JupyterLab and its export to HTML leave that metadata out;
`python -m facekit lab` has both read it (course/jupyter/share).
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import matplotlib.style
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
DPI = 100  # pixels of the screen an inch
SHARP = 2  # pixels of a picture for each of them: screens with small pixels show it sharp
WIDTH, HEIGHT = 6.4, 3.8  # inches of one plot: 640 x 380 px
SMALL_WIDTH, SMALL_HEIGHT = 3.4, 3.0  # inches of one plot among several
WIDEST = 8.2  # inches: JupyterLab shrinks what is wider, and in a window of 1024 px labels then fall below 9 px

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


def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, **options) -> tuple[Figure, Any]:
    """A figure in the style of the course and its axes: one Axes, or an array (rows, columns) squeezed.

    size: (width, height) in inches; by default 6.4 x 3.8 for one plot and 3.4 x 3.0 for each of several; never wider
    than `WIDEST`, whatever is asked for. options: those of `Figure.subplots` (sharex, sharey, width_ratios …).
    """
    if size is None:
        size = (WIDTH, HEIGHT) if rows * columns == 1 else (SMALL_WIDTH * columns, SMALL_HEIGHT * rows)
    with style():
        made = Figure(figsize=(min(size[0], WIDEST), size[1]), layout="constrained")
        FigureCanvasAgg(made)
        return made, made.subplots(rows, columns, **options)


def png(fig: Figure) -> bytes:
    """The figure as PNG bytes at `SHARP` times its own size, which the bytes say, without a note of who made it."""
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, dpi=SHARP * DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 0})
    picture, still = PIL.Image.open(buffer).convert("RGB"), 1
    # 256 colours that cover those of the picture: a third of the bytes, in every notebook, and nothing that one sees.
    # Photos have ten thousands, and k-means looks at each of them again until fewer than `still` pixels move. In steps
    # of 3 (0 and 255 stay) there are a fifth as many: a tenth of the time, and as close to the picture.
    if picture.getcolors(1 << 14) is None:
        picture = picture.point([round(value / 3) * 3 for value in range(256)] * 3)
        still = picture.width * picture.height // 100
    few = picture.quantize(256, PIL.Image.Quantize.MAXCOVERAGE, kmeans=still)
    small = io.BytesIO()
    few.save(small, format="png", optimize=True, dpi=(SHARP * DPI, SHARP * DPI))
    return small.getvalue()


def shown_width(data: bytes) -> int:
    """Pixels of the screen that a PNG is wide: fewer than its own where it says that it is sharper."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return round(picture.width * DPI / picture.info.get("dpi", (DPI,))[0])


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
    publish(bundle, {"image/png": {"alt": alt, "width": shown_width(data)}})
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

    images: uint8 (N, 3, H, W). captions: N texts of one to three short lines. cell: inches a picture.
    Raises ConfigError when there is no image or the captions do not match.
    """
    pictures = np.asarray(images)
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.dtype != np.uint8 or not len(pictures):
        raise ConfigError(f"image_grid needs uint8 images (N, 3, H, W), got {pictures.dtype} {pictures.shape}.")
    if captions is not None and len(captions) != len(pictures):
        raise ConfigError(f"{len(captions)} captions for {len(pictures)} images.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = 0 if captions is None else max(text.count("\n") + 1 for text in captions)
    fig, _ = figure(rows, columns, size=(columns * cell, rows * (cell + 0.17 * lines + 0.1 * (lines > 2))))
    below: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, -3), "textcoords": "offset points"}
    for axis, picture, caption in zip_longest(fig.axes, pictures, captions or ()):
        axis.set_axis_off()
        if picture is not None:
            axis.imshow(picture.transpose(1, 2, 0))
        if caption is not None:
            axis.annotate(caption, (0.5, 0), **below, ha="center", va="top", fontsize=9)
    return fig


def right_and_wrong(
    images: torch.Tensor | np.ndarray, labels: Sequence[str], said: Sequence[str], each: int = 6, seed: int = 0
) -> Figure:
    """Faces whose answer is as labelled, then faces whose answer is not, with both below; all that there are of fewer.

    images: uint8 (N, 3, H, W). labels, said: N names of classes. each: how many of both kinds, drawn at random.
    """
    rng, known, answered = np.random.default_rng(seed), np.asarray(labels), np.asarray(said)
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(kind))[:each] for kind in (known == answered, known != answered)]
    )
    captions = [f"label {label}\nsaid {answer}" for label, answer in zip(known[rows], answered[rows], strict=True)]
    return image_grid(np.asarray(images)[rows], captions, columns=each)


@style()
def lines_with_spread(axis: Axes, x: Sequence[float], runs: Mapping[str, np.ndarray], *, log_x: bool = True) -> None:
    """One line a method: the mean over seeds, with a bar from the lowest to the highest seed.

    x: P places. runs: by name, values (seeds, P); NaN where a run was not made.
    """
    for name, values in runs.items():
        values = np.atleast_2d(np.asarray(values, dtype=float))
        if values.shape[1] != len(x):
            raise ConfigError(f"{name!r}: {values.shape[1]} values a run for {len(x)} places.")
        mean, low, high = np.nanmean(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)
        axis.errorbar(x, mean, yerr=error_lengths(mean, low, high), capsize=3, label=name)
    if log_x:
        axis.set_xscale("log")
        axis.set_xticks(list(x), [f"{value:,}" for value in x])
        axis.minorticks_off()
    axis.legend()


def error_lengths(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of error bars below and above; the mean of equal numbers can miss them by a rounding error."""
    return np.maximum(mean - low, 0), np.maximum(high - mean, 0)


@style()
def bars_with_spread(axis: Axes, runs: Mapping[str, Sequence[float] | np.ndarray]) -> None:
    """One bar a method: the mean over seeds as bar and number, every seed as a dot. runs: by name, values (seeds,)."""
    for place, values in enumerate(np.asarray(values, dtype=float) for values in runs.values()):
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

    tables: one row a seed, one column a method, the values accuracies. All plots have the same vertical axis; those
    that do not fit beside one another stand below.
    """
    wide = 1.15 * max(len(table.columns) for table in tables.values())
    columns = min(len(tables), max(1, int((WIDEST - 1) / wide)))
    rows = -(-len(tables) // columns)
    size = (1 + wide * columns, HEIGHT if rows == 1 else SMALL_HEIGHT * rows)
    fig, axes = figure(rows, columns, size=size, sharey=True, squeeze=False)
    for axis, (title, table) in zip(axes.flat, tables.items(), strict=False):
        bars_with_spread(axis, dict(table.items()))
        axis.set_xticks(
            range(len(table.columns)), [textwrap.fill(name, 10, break_long_words=False) for name in table], fontsize=9
        )
        axis.set(title=title)
    for axis in axes.flat[len(tables) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    return fig


def lying_bar_panels(tables: Mapping[str, pd.DataFrame], form: str = "{:.2f}", columns: int = 3, **options) -> Figure:
    """One plot for each table (by its title), in it a lying bar a column: the mean over the rows, every row a dot.

    tables: one row a seed, one column a method. At the right stands the mean, with its standard error where there are
    rows for one; form: how both are written. columns: plots beside one another. options: those of `Figure.subplots`.
    """
    columns = min(columns, len(tables))
    bars = max(len(table.columns) for table in tables.values())
    rows = -(-len(tables) // columns)
    size = (WIDEST if columns > 1 else WIDTH, rows * (1.0 + 0.3 * bars))
    fig, axes = figure(rows, columns, size=size, squeeze=False, sharey=True, **options)
    for axis, (title, table) in zip(axes.flat, tables.items(), strict=False):
        for place, name in enumerate(table):
            values, color = table[name].astype(float), COLORS[place % len(COLORS)]
            axis.barh(place, values.mean(), color=color, height=0.65, alpha=0.75)
            axis.plot(values, [place] * len(values), linestyle="", marker="o", color="black", markersize=3.5)
            spread = f" ± {form.replace('+', '').format(values.sem())}" if len(values) > 1 else ""
            where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "center"}
            axis.annotate(form.format(values.mean()) + spread, (1.02, place), **where, fontsize=9)
        axis.set_title(title)
        axis.set_yticks(range(len(table.columns)), [str(name) for name in table], fontsize=9.5)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(False, axis="y")
    for axis in axes.flat[len(tables) :]:
        axis.remove()
    axes[0, 0].invert_yaxis()
    return fig


@style()
def learning_curves(axis: Axes, runs: Mapping[str, pd.DataFrame]) -> None:
    """One line a method over the number of labels: the mean over seeds, with a bar from the lowest to the highest.

    runs: by name, a table with one measurement a row and the columns `n` and `value`; each may have its own n.
    """
    for name, rows in runs.items():
        found = rows.groupby("n")["value"].agg(["mean", "min", "max"])
        errors = error_lengths(found["mean"], found["min"], found["max"])
        axis.errorbar(found.index, found["mean"], yerr=errors, capsize=3, label=name)
    axis.set_xscale("log")
    sizes = sorted({n for rows in runs.values() for n in rows["n"]})
    if len(sizes) <= 5:
        axis.set_xticks(sizes)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1000 else f"{value / 1000:g}k")
    axis.minorticks_off()  # a narrow range would label them as 2 × 10¹, 3 × 10¹ …
    axis.set_xlabel("labels")


def learning_curve_panels(runs: Mapping[str, pd.DataFrame], metric: str = "accuracy") -> Figure:
    """One plot a task with the learning curves of all methods; a method looks the same in all of them.

    runs: by name, a table with the columns task, metric, n and value, as `experiments.learning_curve` returns it; a
    method may lack some tasks. Tasks come in the order in which they appear, other metrics are left out.
    """
    found = {name: rows[rows["metric"] == metric] for name, rows in runs.items()}
    tasks = pd.concat(found.values())["task"].unique()
    fig, _ = figure(1, len(tasks), size=(SMALL_WIDTH * max(len(tasks), 2), 4.0))
    for axis, task in zip(fig.axes, tasks, strict=True):
        # A method without rows draws nothing, but takes its colour: so the next one keeps its own.
        learning_curves(axis, {name: rows[rows["task"] == task] for name, rows in found.items()})
        axis.set(title=task.replace("_", " "))
    fig.axes[0].set_ylabel(metric.replace("_", " "))
    with style():
        fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    return fig


def bars_by_column(rows: pd.DataFrame) -> Figure:
    """One plot a column, in it one lying bar a row with its value; all from 0 to 1, or from a value below 0."""
    fig, _ = figure(1, len(rows.columns), size=(WIDEST, 1.4 + 0.32 * len(rows)), sharey=True)
    low = min(0, rows.min(axis=None))
    for place, (axis, name) in enumerate(zip(fig.axes, rows, strict=True)):
        bars = axis.barh(rows.index, rows[name], color=COLORS[place % len(COLORS)], height=0.65)
        axis.bar_label(bars, [f"{value + 0.0:.2f}" for value in rows[name].round(2)], padding=3, fontsize=9)
        axis.set(title=name, xlim=(1.1 * low, 1.25))
        axis.set_xticks([0, 0.5, 1])
        axis.grid(False, axis="y")
    fig.axes[0].invert_yaxis()
    return fig
