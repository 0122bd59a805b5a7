"""Plots of lesson 09: what centroids of patches look like, where in a face they are near, and a long training run."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from facekit.data.sets import FaceSet
from facekit.show import plots

COLUMNS = 16
BORDER = 1  # pixels between two patches
BESIDE = ("pixels", "patches", "facenet-mini", "from scratch")  # what a long run has to beat


@plots.style()
def centroids(found: torch.Tensor, mean: torch.Tensor, whitening: torch.Tensor) -> Figure:
    """Centroids (K, D) of whitened patches as the patches that they stand for, each at its own contrast."""
    patches = (found @ torch.linalg.inv(whitening) + mean).numpy()
    side = math.isqrt(patches.shape[1] // 3)
    patches = patches.reshape(len(patches), 3, side, side).transpose(0, 2, 3, 1)
    patches = 0.5 + patches / (2 * np.abs(patches).max((1, 2, 3), keepdims=True))
    rows = -(-len(patches) // COLUMNS)
    sheet = np.ones((rows * (side + BORDER) - BORDER, COLUMNS * (side + BORDER) - BORDER, 3))
    for i, patch in enumerate(patches):
        y, x = (place * (side + BORDER) for place in divmod(i, COLUMNS))
        sheet[y : y + side, x : x + side] = patch
    fig, axis = plots.figure(size=(6.4, 6.4 * sheet.shape[0] / sheet.shape[1]))
    axis.set_axis_off()
    axis.imshow(sheet)
    return fig


@plots.style()
def where_near(faces: FaceSet, maps: torch.Tensor, n: int = 4) -> Figure:
    """Faces, and beside each where n centroids are nearer than on average: maps (faces, K, rows, columns).

    Shown are those centroids of which neighbouring places are most alike, which follow something in the face.
    """
    shown = smoothest(maps)[:n]
    fig, axes = plots.figure(len(faces), 1 + len(shown), size=(1.25 * (1 + len(shown)), 1.4 * len(faces)))
    for row, (picture, codes) in enumerate(zip(faces.images, maps.numpy(), strict=True)):
        axes[row, 0].imshow(np.asarray(picture).transpose(1, 2, 0))
        for axis, place in zip(axes[row, 1:], shown, strict=True):
            axis.imshow(codes[place], cmap="cividis", vmin=0, vmax=maps[:, place].max().item())
            if not row:
                axis.set_title(f"centroid {place}", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    return fig


def table_of_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds, a row a step: accuracy of the tasks, dead directions of 512, what the training told."""
    table = rows[~rows["metric"].isin(["balanced_accuracy", "mae"])].pivot_table("value", "step", ["task", "metric"])
    table["features", "dead"] *= 512
    return table.round(3)


@plots.style()
def over_steps(rows: pd.DataFrame, others: pd.DataFrame) -> Figure:
    """Accuracy over the steps of a training run, one plot a task: the mean over seeds, with a bar from low to high.

    rows: columns step, n, seed, task, metric, value. others: of methods without steps, columns method, n, seed, task,
    metric, value; those of BESIDE are drawn as level lines with their names, with the same n and seeds.
    """
    rows = rows[rows["metric"] == "accuracy"]
    same = others[(others["metric"] == "accuracy") & others["n"].isin(rows["n"]) & others["seed"].isin(rows["seed"])]
    beside = same.pivot_table("value", "method", "task").loc[list(BESIDE)]
    fig, axes = plots.figure(1, beside.shape[1], size=(4.4 * beside.shape[1], 3.8))
    for axis, task in zip(np.ravel(axes), beside, strict=True):
        runs = rows[rows["task"] == task].pivot(index="seed", columns="step", values="value")
        plots.lines_with_spread(axis, list(runs.columns), {"contrastive": runs.to_numpy()}, log_x=False)
        for value in beside[task]:
            axis.axhline(value, color="#666666", linewidth=1, linestyle="--")
        axis.margins(y=0.1)
        low, high = axis.get_ylim()
        for height, name in zip(apart(beside[task].to_numpy(), (high - low) / 16), beside.index, strict=True):
            axis.text(1.02, height, name, transform=axis.get_yaxis_transform(), fontsize=9, va="center")
        axis.get_legend().remove()
        axis.set(title=task.replace("_", " "), xlabel="steps of contrastive learning", ylabel="accuracy")
    return fig


def apart(heights: np.ndarray, least: float) -> np.ndarray:
    """Heights for names beside lines, in the same order, each moved up until it is `least` above the next lower one."""
    places = np.array(heights, float)
    order = places.argsort(kind="stable")
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + least)
    return places


def smoothest(maps: torch.Tensor) -> list[int]:
    """The centroids by how alike their maps (faces, K, rows, columns) are at neighbouring places, most alike first."""
    centred = maps - maps.mean((2, 3), keepdim=True)
    alike = (centred[..., 1:] * centred[..., :-1]).sum((0, 2, 3)) / centred.square().sum((0, 2, 3)).clamp(min=1e-9)
    return alike.argsort(descending=True, stable=True).tolist()
