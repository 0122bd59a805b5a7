"""Drawn portraits with four labels each, and plots of lesson 06."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.evaluation.paired import with_spread
from facekit.experiments import few_labels
from facekit.models.multitask import SharedNet, mlp
from facekit.show import plots
from facekit.tasks import EXPRESSION, GENDER, Task
from facekit.training.loop import fit
from facekit.training.plans import plan
from facekit.transfer.weighting import PCGrad

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
    """Faces with their four labels, or with what `outputs` (N, classes) by task say; after a wrong answer the label."""
    captions = []
    for place in range(len(faces)):
        words = {}
        for task in FOUR:
            label = faces.labels[task.name].iloc[place]
            answer = label if outputs is None else task.classes[int(outputs[task.name][place].argmax())]
            known = isinstance(label, str)
            words[task.name] = (
                f"{answer} (is {label})" if known and answer != label else answer if known else "stranger"
            )
        first = [words["who"], words["gender"]]
        if outputs is not None and first[0] == "stranger":
            first = first[1:]  # its gender may be answered wrongly, which takes the whole line
        captions.append("\n".join([", ".join(first), words["expression"], words["pose"]]))
    return plots.image_grid(faces.images, captions, columns=6, cell=1.35)


@plots.style()
def two_errors(runs: pd.DataFrame) -> Figure:
    """A point a method: accuracy of gender over years off, means with bars of a standard error each way.

    runs: a row a seed, the columns ("gender", method) with accuracies and ("age", method) with mean errors in years.
    """
    fig, axis = plots.figure(size=(plots.WIDEST, 4.2))
    for place, name in enumerate(runs["gender"]):
        (y, high), (x, wide) = ((runs[task][name].mean(), runs[task][name].sem()) for task in ("gender", "age"))
        look = {"color": plots.COLORS[place % len(plots.COLORS)], "marker": plots.MARKERS[place % len(plots.MARKERS)]}
        axis.errorbar(x, y, xerr=wide, yerr=high, linestyle="", capsize=3, markersize=9, label=name, **look)
    axis.set(xlabel="age: mean error in years", ylabel="gender: accuracy")
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


def cosines(pool: FeatureSet, tasks: Sequence[Task], hidden: Sequence[int], seeds: int = 3) -> Figure:
    """Cosine of the gradients of each pair of tasks over ten epochs with PCGrad, from the lowest to the highest seed.

    Each seed learns from 1,000 rows of `pool`. hidden: units of the layers, all of them shared.
    """
    histories = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        net, rows = SharedNet(mlp(pool.features.shape[1], hidden), tasks), few_labels(pool, 1000, seed)
        history = fit(net, PCGrad(tasks), rows, None, plan("everything", list(net.stages), epochs=10, lr=3e-3)).history
        histories.append(history.filter(like="cosine_"))
    names = {column: column.partition("cosine_")[2].replace("_", ", ") for column in histories[0]}
    pairs = {name: np.stack([each[column] for each in histories]) for column, name in names.items()}
    fig, axis = plots.figure(size=(7.2, 3.8))
    plots.lines_with_spread(axis, range(1, len(histories[0]) + 1), pairs, log_x=False)
    axis.axhline(0, color="black", linewidth=1, linestyle="-", marker="")
    axis.set(xlabel="epoch", ylabel="cosine of two gradients")
    axis.legend(**BESIDE)
    return fig


def gap(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in training minus that on the test, by (task, method), with its spread and with both accuracies.

    runs: a row a seed, the columns (task, method, "train" or "test").
    """
    seen, new = (runs.xs(part, axis=1, level=2) for part in ("train", "test"))
    found = with_spread(seen - new, 2).rename(columns={"mean": "gap"}).drop(columns="seeds")
    return found.assign(train=seen.mean().round(2), test=new.mean().round(2))


def ahead(rows: pd.DataFrame) -> pd.DataFrame:
    """How far `hard` is ahead of `single`, and `single` of `linear`, by task and n: means and standard errors.

    rows: a long table of `experiments.learning_curve` or of a record.
    """
    by_seed = rows.query("metric == 'accuracy'").pivot_table("value", ["task", "n", "seed"], "method")
    pairs = (("hard", "single"), ("single", "linear"))
    gains = pd.DataFrame({f"{one} - {other}": by_seed[one] - by_seed[other] for one, other in pairs})
    return gains.groupby(["task", "n"]).agg(["mean", "sem"]).round(3).rename(columns={"sem": "±"})
