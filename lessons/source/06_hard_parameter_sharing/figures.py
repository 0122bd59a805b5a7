"""Drawn portraits with four labels each, and plots of lesson 06."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet
from facekit.show import plots
from facekit.tasks import EXPRESSION, GENDER, Task

WHO = Task("who", "multiclass", tuple("ABCDEFGHIJKLMNOPQRST"))
POSE = Task("pose", "multiclass", ("left", "front", "right"))
FOUR = (WHO, EXPRESSION, GENDER, POSE)
EACH, TO_LEARN = 48, 32  # portraits of each person in `WHO`, and how many of them are learnt from
STRANGERS = 640
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}  # a legend that hides no error bar
FRONT = 4.0  # degrees: a head that is turned less looks to the front; cuts the poses into three about equal parts


def portraits(seed: int = 0, size: int = 64) -> FaceSet:
    """Drawn portraits, labelled with who, expression, gender and pose; splits `train` and `test`.

    The twenty people of `WHO` come first, 48 portraits each, 32 of them in train. Then 640 strangers, a portrait each,
    half of them in train; who they are is missing. The four expressions are equally frequent.
    """
    ask = {EXPRESSION.name: EXPRESSION.classes}
    parts = []
    for place, (n, each) in enumerate(((EACH * len(WHO.classes), EACH), (STRANGERS, 1))):
        parts.append(render_portraits(n, 1000 + 2 * seed + place, size, attributes=ask, per_person=each))
    known, strangers = (part.labels for part in parts)
    known["who"] = np.repeat(WHO.classes, EACH)
    known["split"] = np.where(np.arange(len(known)) % EACH < TO_LEARN, "train", "test")
    strangers["who"] = None
    strangers["split"] = np.where(np.arange(len(strangers)) < STRANGERS // 2, "train", "test")
    labels = pd.concat([known, strangers], ignore_index=True)
    labels["pose"] = np.select([labels["yaw"] < -FRONT, labels["yaw"] > FRONT], ["left", "right"], "front")
    return FaceSet(np.concatenate([part.images for part in parts]), labels, parts[0].manifest)


def told(faces: FaceSet, outputs: Mapping[str, torch.Tensor] | None = None) -> Figure:
    """Faces with their four labels, or with what `outputs` (N, classes) by task say; behind a wrong answer the label."""
    captions = []
    for place in range(len(faces)):
        words = {}
        for task in FOUR:
            label = faces.labels[task.name].iloc[place]
            answer = label if outputs is None else task.classes[int(outputs[task.name][place].argmax())]
            known = isinstance(label, str)
            words[task.name] = f"{answer} (is {label})" if known and answer != label else answer if known else "stranger"
        first = [words["who"], words["gender"]]
        if outputs is not None and first[0] == "stranger":
            first = first[1:]  # its gender may be answered wrongly, which takes the whole line
        captions.append("\n".join([", ".join(first), words["expression"], words["pose"]]))
    return plots.image_grid(faces.images, captions, columns=6, cell=1.35)


@plots.style()
def two_errors(runs: pd.DataFrame, right: str, off: str) -> Figure:
    """A point a method, the means over the seeds of two scores, with bars of a standard error each way.

    runs: a row a seed, the columns (method, score). right: the score that goes up, off: the one that goes to the right.
    """
    fig, axis = plots.figure(size=(plots.WIDEST, 4.2))
    for place, name in enumerate(runs.columns.get_level_values(0).unique()):
        mean, error = runs[name].mean(), runs[name].sem()
        color, marker = plots.COLORS[place % len(plots.COLORS)], plots.MARKERS[place % len(plots.MARKERS)]
        filled = "none" if place >= len(plots.COLORS) else "full"
        axis.errorbar(
            mean[off], mean[right], xerr=error[off], yerr=error[right], linestyle="", capsize=3,
            color=color, marker=marker, fillstyle=filled, markersize=9, label=name,
        )  # fmt: skip
    axis.set(xlabel=off, ylabel=right)
    axis.legend(**BESIDE)
    return fig


def by_layers(runs: pd.DataFrame, splits: Sequence[str]) -> Figure:
    """Accuracy of each task over the number of shared layers, with the lowest and the highest seed.

    runs: a row a seed, the columns (task, split). splits: those of 0, 1, 2 … shared layers.
    """
    fig, axis = plots.figure(size=(7.2, 3.8))
    tasks = runs.columns.get_level_values(0).unique()
    plots.lines_with_spread(axis, range(len(splits)), {task: runs[task][list(splits)] for task in tasks}, log_x=False)
    axis.set(xlabel="shared layers, of three with 16 units", ylabel="accuracy", xticks=range(len(splits)))
    axis.legend(**BESIDE)
    return fig


def cosines(histories: Sequence[pd.DataFrame]) -> Figure:
    """Cosine of the gradients of each pair of tasks over the epochs, with the lowest and the highest seed.

    histories: one of each seed, with a column `…cosine_one_other` a pair and a row an epoch.
    """
    fig, axis = plots.figure(size=(7.2, 3.8))
    names = {name: name.partition("cosine_")[2].replace("_", ", ") for name in histories[0]}
    pairs = {name: np.stack([each[column] for each in histories]) for column, name in names.items()}
    plots.lines_with_spread(axis, range(1, len(histories[0]) + 1), pairs, log_x=False)
    axis.axhline(0, color="black", linewidth=1, linestyle="-", marker="")
    axis.set(xlabel="epoch", ylabel="cosine of two gradients")
    axis.legend(**BESIDE)
    return fig
