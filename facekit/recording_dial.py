"""The dial of soft sharing on FairFace: the record `dial_fairface`, made by `python -m facekit record dial`.

Lesson 07 turns λ on drawn features; this is the same recipe, step by step, on FaceNet's embeddings of real photos.
"""

from __future__ import annotations

import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.experiments import few_labels, scores, sharing_methods
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.multitask import relative_distances
from facekit.recording import TASKS, Sheet, fairface_photos, rows_of, write_record

SEEDS = (0, 1, 2, 3, 4)
LABELS = (200, 1000)
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 1.0)  # and 0, which is `single`
RECIPE = {"hidden": (64, 64), "dropout": 0.3, "steps": 120, "lr": 3e-3}


def measure_dial(train: FeatureSet, test: FeatureSet, n: int, seed: int) -> pd.DataFrame:
    """The whole dial once, with both its ends and cross-stitch, after learning from the same n rows of `train`.

    Columns method (as in `sharing_methods`), n, seed, task, metric, value. Beside the tasks' metrics on `test` a row
    for each stage of networks that have their own: its name as task, `distance` (relative) as metric.
    """
    few, tables = few_labels(train, n, seed), []
    for method, learn in sharing_methods(strengths=STRENGTHS, **RECIPE).items():
        net = learn(few, TASKS, seed)
        distances = relative_distances(net).rename_axis("task").rename("value").reset_index().assign(metric="distance")
        found = [scores(net, test, TASKS), *([distances] if net.private else [])]
        tables += [rows.assign(method=method, n=n, seed=seed) for rows in found]
    return pd.concat(tables, ignore_index=True)[["method", "n", "seed", "task", "metric", "value"]]


def record_dial(labels: tuple[int, ...] = LABELS, seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `dial_fairface`: soft sharing at rising λ, single networks, hard sharing and cross-stitch.

    Learns from draws of the official training photos, tests on the official validation photos. Takes about two
    minutes on one core once the photos are embedded; what was measured is kept when it is stopped.

    Args:
        labels: Numbers of labelled photos.
        seeds: Of the draws of labelled rows, of the networks' weights, of order and dropout.
    """
    faces = fairface_photos()
    features = embed(FaceNet.from_pretrained(), faces, flip=True)
    train, test = (features.select(rows_of(faces, *splits)) for splits in (("train", "validation"), ("test",)))
    sheet = Sheet("dial_fairface", {"photos": faces.content_hash(), "recipe": str((RECIPE, STRENGTHS))})
    for n in labels:
        for seed in seeds:
            sheet.block(f"{n}-{seed}", lambda n=n, seed=seed: measure_dial(train, test, n, seed))
    return write_record(
        "dial_fairface",
        sheet,
        what="race, gender and age band from FaceNet's frozen embeddings (mean of photo and mirror image) by networks "
        "with two hidden layers at every strength of soft sharing; 120 steps for all",
        data=f"FairFace, {len(train):,} labelled photos to draw from, {len(test):,} test photos",
        command=f"record dial --labels [{','.join(map(str, labels))}]",
        seeds=seeds,
    )
