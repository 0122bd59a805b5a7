"""Plots of lesson 04: losses, and a plan, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facekit.show import plots


def plan_rates(table: pd.DataFrame, title: str) -> Figure:
    """The peak learning rate of every stage in every epoch of a plan, from its table (`Plan.table`).

    Stages go up from the input to the output; the darker the faster; grey is frozen.
    """
    phases = [rows for _, rows in table.groupby("phase", sort=False)]
    stages = list(phases[0]["stage"])
    rates = np.concatenate([np.tile(p["lr"].to_numpy()[:, None], p["epochs"].iloc[0]) for p in phases], axis=1)
    fig, axis = plots.figure(size=(6.4, 1.2 + 0.32 * len(stages)))
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


@plots.style()
def losses(lines: Mapping[str, Sequence[float]], epochs: int, guess: float | None = None) -> Figure:
    """Training losses over the epochs, a line a name; a dotted line at the loss of guessing.

    lines: by name, the loss of every step or epoch; of steps the mean over each epoch is drawn.
    """
    fig, axis = plots.figure(size=(5.6, 3.2))
    means = {name: np.reshape(values, (epochs, -1)).mean(1) for name, values in lines.items()}
    plots.lines_with_spread(axis, range(1, epochs + 1), means, log_x=False)
    if guess is not None:
        axis.axhline(guess, color="black", linestyle=":", marker="")
    axis.set(xlabel="epoch", ylabel="training loss", xticks=range(1, epochs + 1))
    axis.set_ylim(bottom=0)
    return fig
