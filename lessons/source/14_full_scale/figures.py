"""Plots of lesson 14: what switches bring, where a step's time goes, and losses by precision."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facekit.errors import DataError
from facekit.experiments.speed import SWITCHES
from facekit.records import recorded
from facekit.show import plots

PARTS = ("batch", "forward", "backward", "optimiser", "item")
OPERATIONS = 6  # of a profile that are shown
NOT_MEASURED = "not measured"
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # so that no line runs through a text
SMOOTH = 25  # steps that a point of a curve is the mean of
# Whose rows stand beside those of this machine.
RECORDS = {"speed_cpu": "recorded, processor", "speed_gpu": "recorded, GPU"}


def recorded_steps() -> dict[str, pd.DataFrame | None]:
    """The recorded rows of facenet-mini's step by title, with the machine; None where nothing was measured."""
    found: dict[str, pd.DataFrame | None] = {}
    for name, title in RECORDS.items():
        try:
            record = recorded(name)
        except DataError:
            found[title] = None
            continue
        some = record.rows[record.rows["part"] == "mini"]
        found[f"{title}\n{record.about['hardware']}"] = some if len(some) else None
    return found


@plots.style()
def switches(
    here: pd.DataFrame,
    guess: Mapping[str, float] | None = None,
    others: Mapping[str, pd.DataFrame | None] | None = None,
) -> Figure:
    """How many times as fast as a plain loop each row is: a plot for this machine and one for each record.

    here: as `bench_training` gives it. guess: by row, marked in the first plot. others: by title, as `here`; None where
    nothing was measured; by default the records. A switch that a table lacks is said to be not measured.
    """
    tables = {"this machine": here} | (recorded_steps() if others is None else dict(others))
    names = list(here["row"])
    place = max((names.index(name) for name in SWITCHES if name in names), default=-1) + 1
    names[place:place] = [name for name in SWITCHES if name not in names]
    fig, axes = plots.figure(1, len(tables), size=(plots.WIDEST, 1.3 + 0.36 * len(names)), sharey=True, squeeze=False)
    for place, (axis, (title, table)) in enumerate(zip(axes[0], tables.items(), strict=True)):
        axis.set_title("\n".join(textwrap.fill(line, 26) for line in title.split("\n")), fontsize=10)
        axis.grid(False, axis="y")
        if table is None:
            axis.text(0.5, 0.5, NOT_MEASURED, transform=axis.transAxes, ha="center", fontsize=11)
            axis.set_xticks([])
            continue
        values = table[table["unit"] == "photos/s"].set_index("row")["times"].reindex(names)
        guesses = pd.Series(guess if guess and not place else {}, dtype=float).reindex(names).where(values.notna())
        axis.barh(range(len(names)), values.fillna(0), color=plots.COLORS[place], height=0.65)
        axis.plot(guesses, range(len(names)), "D", color="black", label="your guess", linestyle="", zorder=3)
        for row, (value, end) in enumerate(zip(values, np.fmax(values, guesses), strict=True)):
            text = NOT_MEASURED if np.isnan(value) else f"{value:.1f}"
            where = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
            axis.annotate(text, (0 if np.isnan(end) else end, row), **where, bbox=BEHIND)
        axis.axvline(1, color="#555555", linewidth=1, marker="")
        axis.set_xlim(0, 1.35 * max(1.4, np.nanmax([*values, *guesses])))
        axis.locator_params(axis="x", nbins=4)
    if guess:
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", fontsize=10)
    axes[0, 0].set_yticks(range(len(names)), [textwrap.fill(name, 26) for name in names], fontsize=9.5)
    axes[0, 0].invert_yaxis()
    fig.supxlabel("times as fast as the plain loop", fontsize=10)
    return fig


@plots.style()
def parts(profiles: Mapping[str, Sequence]) -> Figure:
    """Two plots a profile: milliseconds of the parts of a step, and of its longest operations with their calls.

    profiles: by title, the averages by name that torch's profiler gives of **one** step whose parts are named as in
    PARTS. Of operations the device's own time counts where there is one.
    """
    fig, axes = plots.figure(
        len(profiles), 2, size=(plots.WIDEST, 2.9 * len(profiles)), squeeze=False, width_ratios=(1, 1.3)
    )
    for row, (title, events) in enumerate(profiles.items()):
        by_name = {event.key: event for event in events}
        whole = [by_name[name].cpu_time_total / 1000 if name in by_name else 0.0 for name in PARTS]
        longest = sorted((e for e in events if e.key not in PARTS), key=_own_time, reverse=True)[:OPERATIONS]
        shown = [f"{event.key.removeprefix('aten::')[:30]}, {_calls(event.count)}" for event in longest]
        for axis, names, values in (
            (axes[row, 0], list(PARTS), whole),
            (axes[row, 1], shown, [_own_time(event) / 1000 for event in longest]),
        ):
            bars = axis.barh(range(len(names)), values, color=plots.COLORS[row], hatch=plots.HATCHES[row], height=0.65)
            axis.bar_label(bars, [f"{value:.0f}" if value >= 9.5 else f"{value:.1f}" for value in values], padding=3)
            axis.set_yticks(range(len(names)), names, fontsize=9.5)
            axis.set_xlim(0, 1.18 * max(max(values), 1e-3))
            axis.grid(False, axis="y")
            axis.invert_yaxis()
            axis.locator_params(axis="x", nbins=4)
        axes[row, 0].set_title(f"{title}: parts of a step", fontsize=11, loc="left")
        axes[row, 1].set_title("its longest operations", fontsize=11, loc="left")
    fig.supxlabel("milliseconds", fontsize=10)
    return fig


def _own_time(event) -> float:
    """Microseconds of an operation without those that it calls, on the device if it ran on one."""
    return event.self_device_time_total or event.self_cpu_time_total


def _calls(n: int) -> str:
    return f"{n:,} call" + "s" * (n != 1)


@plots.style()
def curves(losses: Mapping[str, Sequence[float]]) -> Figure:
    """A line for each training: the loss over its steps, each point the mean of SMOOTH of them."""
    fig, axis = plots.figure()
    for name, values in losses.items():
        means = np.asarray(values)[: len(values) // SMOOTH * SMOOTH].reshape(-1, SMOOTH).mean(1)
        axis.plot(SMOOTH * (np.arange(len(means)) + 0.5), means, label=name, markevery=3)
    axis.set(xlabel="step", ylabel="loss (cross-entropy)")
    axis.legend()
    return fig
