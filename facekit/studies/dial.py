"""The dial of soft sharing on FairFace: the record `dial_fairface`.

Lesson 07 turns λ on drawn features; this is the same recipe, step by step, on FaceNet's embeddings of real photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.experiments import few_labels, scores, sharing_methods
from facekit.models.multitask import SharedNet, relative_distances
from facekit.studies.common import TASKS, facenet_features, labelled, train_and_test
from facekit.studies.runner import Study, blocks_of, study

SEEDS = (0, 1, 2, 3, 4)
LABELS = (200, 1000)
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 1.0)  # and 0, which is `single`
RECIPE = {"hidden": (64, 64), "dropout": 0.3, "steps": 120, "lr": 3e-3}


def measure(
    train: FeatureSet, test: FeatureSet, recipe: dict, strengths: Sequence[float], n: int, seed: int
) -> pd.DataFrame:
    """The whole dial once, with both its ends and cross-stitch, after learning from the same n rows of `train`.

    Columns method (as in `sharing_methods`), n, seed, task, metric, value. Beside the tasks' metrics on `test` a row
    for each stage of networks that have their own: its name as task, `distance` (relative) as metric.
    """
    few, tables = few_labels(train, n, seed), []
    for method, learn in sharing_methods(strengths=strengths, **recipe).items():
        net = cast(SharedNet, learn(few, TASKS, seed))  # all of them are
        distances = relative_distances(net).rename_axis("task").rename("value").reset_index().assign(metric="distance")
        found = [scores(net, test, TASKS), *([distances] if net.private else [])]
        tables += [rows.assign(method=method, n=n, seed=seed) for rows in found]
    return pd.concat(tables, ignore_index=True)[["method", "n", "seed", "task", "metric", "value"]]


@study
def record(labels: tuple[int, ...] = LABELS, seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `dial_fairface`: soft sharing at rising λ, single networks, hard sharing and cross-stitch.

    Learns from draws of the official training photos, tests on the official validation photos. Takes about two
    minutes on one core once the photos are embedded; what was measured is kept when it is stopped.

    Args:
        labels: Numbers of labelled photos.
        seeds: Of the draws of labelled rows, of the networks' weights, of order and dropout.
    """
    train, test = train_and_test(facenet_features())
    return Study(
        "dial_fairface",
        what="race, gender and age band from FaceNet's frozen embeddings (mean of photo and mirror image) by networks "
        "with two hidden layers at every strength of soft sharing; 120 steps for all",
        data=labelled(len(train), test),
        blocks=blocks_of(measure, (train, test, RECIPE, STRENGTHS), labels, seeds),
    )
