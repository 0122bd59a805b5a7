"""Plots of lesson 11: two crowds of faces, and weights beside the exact ones."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from facekit.data.sets import FaceSet
from facekit.show import plots

SHOWN = 12


def two_crowds(faces: FaceSet, chances: np.ndarray, seed: int = 3) -> Figure:
    """Twelve faces drawn with these chances and twelve drawn fairly, with their ages; the draws are named."""
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(len(faces), SHOWN, replace=False, p=each / each.sum()) for each in (chances, np.ones(len(faces)))
    ]
    rows = np.concatenate(drawn)
    names = np.repeat(["biased", "fair"], SHOWN)
    captions = [f"{name}\n{age}" for name, age in zip(names, faces.labels["age"].iloc[rows], strict=True)]
    return plots.image_grid(faces.select(rows).images, captions, columns=SHOWN // 2, cell=1.1)


@plots.style()
def weights(estimated: np.ndarray, exact: np.ndarray, child: np.ndarray) -> Figure:
    """Histograms of the estimated weights of children and of all others, with the exact weights as dashed lines."""
    fig, axis = plots.figure()
    edges = np.geomspace(estimated.min(), max(estimated.max(), (exact / exact.mean()).max()) * 1.05, 30)
    for place, (name, rows) in enumerate({"children": child, "others": ~child}.items()):
        color, hatch = plots.COLORS[place], plots.HATCHES[place]
        axis.hist(estimated[rows], edges, color=color, hatch=hatch, alpha=0.7, label=f"{name}, estimated")
        value = exact[rows][0] / exact.mean()
        axis.axvline(value, color=color, linestyle="--", marker="", label=f"{name}, exact: {value:.2f}")
    axis.set_xscale("log")
    axis.set_xlabel("weight")
    axis.set_ylabel("source rows")
    axis.legend()
    return fig
