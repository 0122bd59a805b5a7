"""Plots and tables of lesson 08: what each domain learns, the ways to serve several, and what was seen and read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from facekit.data.sets import FaceSet
from facekit.show import plots
from facekit.tasks import Task
from facekit.tasks.boxes import outlined
from facekit.tasks.texts import beam_search
from facekit.training.shares import domain_shares

# The score of a task that is shown: the first of these that it has.
METRICS = ("iou", "character_error_rate", "accuracy")
REAL_METRICS = ("exact_match", "accuracy")
SIZES = {"10,000 pictures": 10_000, "1,000": 1_000, "100": 100}


def _shown(rows: pd.DataFrame, metrics: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """By task and metric in words, the rows of each task's first metric among `metrics`."""
    found = {}
    for task, own in rows.groupby("task", sort=False):
        metric = next(name for name in metrics if (own["metric"] == name).any())
        found[f"{task}: {metric.replace('_', ' ')}"] = own[own["metric"] == metric]
    return found


def ways_figure(rows: pd.DataFrame, metrics: tuple[str, ...] = METRICS, form: str = "{:.2f}") -> Figure:
    """A plot a task, in it a lying bar a method: the mean over the seeds, a dot a seed, the standard error beside.

    rows: columns method, seed, task, metric, value, as `Served.scores` with its seed or a record has them. metrics: of
    each task the first one that it has. form: how a number is written.
    """
    tables = {}
    for title, own in _shown(rows, metrics).items():
        table = own.pivot(index="seed", columns="method", values="value")[list(own["method"].unique())]
        tables[title.replace("iou", "IoU")] = table
    return plots.lying_bar_panels(tables, form, columns=3 if len(tables) == 3 else 2)


def ways_table(rows: pd.DataFrame, metrics: tuple[str, ...] = METRICS) -> pd.DataFrame:
    """Index method; means over the seeds of a record's rows of one split, of each task's first one of `metrics`.

    Columns: each score, with its interval over the pictures as text where the record has them, `parameters` (that a
    domain adds), their `share` of those of a network of its own, `seconds` (of the training, all domains).
    """
    methods = rows.groupby("method", sort=False)
    scores = {}
    for title, chosen in _shown(rows, metrics).items():
        own = chosen.groupby("method", sort=False)
        score = own["value"].mean().round(3)
        if "low" in rows:
            low, high = (own[end].mean().map("{:.2f}".format) for end in ("low", "high"))
            score = score.map("{:.3f}".format) + " (" + low + " to " + high + ")"
        scores[title.replace(":", "")] = score
    parameters = methods["parameters"].first()
    share = (parameters / parameters["a network each"]).round(3)
    seconds = methods["seconds"].mean().round().astype(int)
    return pd.DataFrame({**scores, "parameters": parameters, "share": share, "seconds": seconds})


def examples(pictures: FaceSet, task: str, n: int = 6) -> Figure:
    """Pictures of all kinds of labels for a task, with these below."""
    ordered = np.argsort(pictures.labels[task].to_numpy(), kind="stable")
    some = pictures.select(ordered[np.linspace(0, len(pictures) - 1, n).astype(int)])
    captions = [f"{task}:\n" + textwrap.fill(label, 16) for label in some.labels[task]]
    return plots.image_grid(some.images, captions, columns=n)


@plots.style()
def curves(log: pd.DataFrame) -> Figure:
    """The loss of every task over the steps; a column a task, a row a step."""
    fig, axis = plots.figure()
    for name in log:
        axis.plot(range(1, len(log) + 1), log[name], label=name, marker="")
    axis.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axis.legend(title="task")
    return fig


def boxes(pictures: FaceSet, task: Task, outputs: torch.Tensor, n: int = 6) -> Figure:
    """The first `n` pictures that have a box, with it in black and the predicted one in white."""
    targets = pictures.targets([task])[task.name]
    some = torch.isfinite(targets).all(1).nonzero().flatten()[:n]
    images = outlined(pictures.images[some], targets[some], value=0)
    return plots.image_grid(outlined(images, task.predict(outputs[some]), value=255), columns=n)


def readings(pictures: FaceSet, task: Task, outputs: torch.Tensor, n: int = 12) -> Figure:
    """Pictures of words, of `n` half read rightly and half wrongly (or as many as there are), with three texts below.

    What is written, what the best class at each column spells, and what beam search finds.
    """
    written, greedy = pictures.labels[task.name].to_numpy(), np.array(task.texts(task.predict(outputs)), dtype=object)
    rows = np.concatenate([np.flatnonzero(kind)[: n // 2] for kind in (written == greedy, written != greedy)])
    beam = task.texts(beam_search(outputs[rows]))
    found = zip(written[rows], greedy[rows], beam, strict=True)
    captions = ["\n".join(str(text) or "–" for text in texts) for texts in found]
    return plots.image_grid(pictures.images[rows], captions)


@plots.style()
def shares_at(temperature: float, sizes: Mapping[str, int] = SIZES) -> Figure:
    """What share of a step each of three domains gets at a temperature."""
    fig, axis = plots.figure(size=(6.4, 2.2))
    shares = domain_shares(sizes, temperature)
    bars = axis.barh(list(shares), list(shares.values()), color=plots.COLORS[0], height=0.65)
    axis.bar_label(bars, [f"{share:.2f}" for share in shares.values()], padding=3)
    axis.set(title=f"temperature {temperature:g}", xlabel="share of a step", xlim=(0, 1.12))
    axis.invert_yaxis()
    return fig
