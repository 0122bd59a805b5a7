"""Gender, race and age in years on UTKFace, by networks that share and that do not: the record `utkface_tasks`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from facekit.data.catalogue import photos
from facekit.data.leaks import HONEST, divide
from facekit.data.readers.utkface import UTK_RACE
from facekit.data.sets import FeatureSet
from facekit.evaluation.metrics import evaluate
from facekit.experiments import Learner, sharing_methods
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier
from facekit.studies.common import first
from facekit.studies.reference import SEEDS, TERMS
from facekit.studies.runner import Block, Study, study
from facekit.tasks import GENDER, Task, age_in_years
from facekit.training.loop import predict
from facekit.transfer.probe import PRIOR, STAGE_PRIOR, linear_probe

AGES: dict[str, Task] = {kind: age_in_years(kind) for kind in ("regression", "expectation")}
STRENGTHS = (0.01, 0.1, 1.0)
CHILD = 10  # years; below it are nearly a third of the crops


def methods_of(steps: int) -> dict[str, Learner]:
    """The methods of `record utkface`: a network a task, hard, soft and cross-stitch sharing, and linear probes."""

    def probe(rows: FeatureSet, tasks: Sequence[Task], seed: int) -> Classifier:
        return linear_probe(rows, tasks, PRIOR if rows.features.shape[1] == FaceNet.embedding_dim else STAGE_PRIOR)

    return {**sharing_methods(strengths=STRENGTHS, steps=steps), "linear probe": probe}


def measure_ages(
    train: FeatureSet, test: FeatureSet, age: Task, methods: Mapping[str, Learner], seed: int
) -> pd.DataFrame:
    """Gender, race and age in years by every method with one seed (of start and order), scored on `test`.

    Columns method, n, seed, task, metric, value, seconds (of all three tasks together). The error of age, `mae`, is in
    years; `mae_10_and_over` and `accuracy_10_and_over` are those of people of ten years and over.
    """
    tasks = (GENDER, UTK_RACE, age)
    years = test.labels[age.name].astype(np.float64)
    groups = (years >= CHILD).map({True: f"{CHILD}_and_over"})
    tables = []
    for name, learn in methods.items():
        start = time.perf_counter()
        model = learn(train, tasks, seed)
        seconds = time.perf_counter() - start
        rows = evaluate(tasks, predict(model, test), test.targets(tasks), groups, numbers={age.name: years}, n_boot=1)
        tables.append(rows.assign(method=name, seconds=seconds, n=len(train), seed=seed))
    table = pd.concat(tables, ignore_index=True)
    table["metric"] += np.where(table["group"] == "all", "", "_" + table["group"])
    # Age is judged by its error alone, and of those of ten years and over only accuracies and errors are of interest.
    wanted = (table["task"] == age.name) == table["metric"].str.startswith("mae")
    table = table[wanted & ~table["metric"].str.startswith("balanced_accuracy_")].reset_index(drop=True)
    table["task"] = table["task"].replace({UTK_RACE.name: "race"})
    return table[["method", "n", "seed", "task", "metric", "value", "seconds"]]


def measure(
    features: FeatureSet, train: np.ndarray, scored: np.ndarray, name: str, kind: str, steps: int, seed: int
) -> pd.DataFrame:
    """All methods on one kind of features, with one way to ask for age.

    train, scored: rows of `features`. Columns as `measure_ages`, after features (`name`) and age (`kind`, of `AGES`).
    """
    rows = measure_ages(features.select(train), features.select(scored), AGES[kind], methods_of(steps), seed)
    return first(rows, features=name, age=kind)


@study
def record(steps: int = 600, stages: tuple[str, ...] = (), seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `utkface_tasks`: gender, race and age in years on UTKFace, by networks that share and that do not.

    Age is a regression or the expected value over a class a year (DEX). Every seed holds out another tenth of the
    photos, the same as the honest protocol of `record reference`; networks take the same number of steps with the same
    batches.

    Args:
        steps: Of the optimiser, for every network.
        stages: Of FaceNet, whose averaged output is learnt from beside the embedding; repeat_3 is the last before it.
        seeds: Of the split, the start and the order.
    """
    faces, facenet = photos("utkface"), FaceNet.from_pretrained()
    several = {"embedding": embed(facenet, faces)}
    divided = {seed: divide(several["embedding"], HONEST, UTK_RACE.name, seed) for seed in seeds}
    sides = {seed: (each.train_rows, each.scored_rows) for seed, each in divided.items()}
    several |= {stage: embed(facenet, faces, stage=stage) for stage in stages}
    return Study(
        "utkface_tasks",
        what="gender, race (five) and age in years together on FaceNet's frozen features of the photo: networks with "
        f"one hidden layer, {steps} steps, and linear probes; each seed is scored on another tenth of the photos",
        data=f"{TERMS}, {len(faces):,} photos",
        blocks=[
            Block(f"{name}-{kind}-{seed}", measure, (features, *sides[seed], name, kind, steps, seed))
            for name, features in several.items()
            for kind in AGES
            for seed in seeds
        ],
    )
