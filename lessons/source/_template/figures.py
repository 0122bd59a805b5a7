"""Plots of this lesson alone. What two lessons use belongs to `facekit.show`."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from facekit.show import plots


def bars(values: Sequence[float]) -> Figure:
    """A bar for each value, and a line at their mean."""
    fig, axis = plots.figure()
    axis.bar(range(len(values)), values, color=plots.COLORS[0])
    axis.axhline(sum(values) / len(values), color=plots.COLORS[1], marker="")
    return fig
