"""Controlled experiments: the same rows, the same number of steps and several seeds for everything that is compared.

Each experiment returns a long table with one measurement a row (never an average alone); `facekit.records` keeps what
was measured on real photos.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from torch import nn

from facekit.data.sets import FeatureSet, LabelledSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.models.heads import Classifier
from facekit.tasks import Task
from facekit.training.config import Precision
from facekit.training.loop import predict
from facekit.transfer import probe

AnySet = TypeVar("AnySet", bound=LabelledSet)
# Few labelled rows, tasks and a seed to a network that predicts these tasks.
Learner = Callable[[AnySet, Sequence[Task], int], nn.Module]


def few_labels(data: AnySet, n: int, seed: int, pool: np.ndarray | None = None) -> AnySet:
    """`n` rows drawn at random; with the same seed a smaller draw from the same rows is part of a larger one.

    pool: indices of the rows to draw from, by default all; the others of a large set on disk are then never read.
    Raises ConfigError when there are fewer rows.
    """
    rows = np.arange(len(data)) if pool is None else np.asarray(pool)
    if not 0 < n <= len(rows):
        raise ConfigError(f"cannot draw {n} rows from a {data.kind} of {len(rows)}.")
    return data.select(rows[np.random.default_rng(seed).permutation(len(rows))[:n]])


def scores(model: nn.Module, data: LabelledSet, tasks: Sequence[Task], precision: Precision = "fp32") -> pd.DataFrame:
    """What `model` gets on all rows of `data`: columns task, metric, value (no intervals; see `metrics.evaluate`)."""
    table = evaluate(tasks, predict(model, data, precision=precision), data.targets(tasks), n_boot=1)
    return table[["task", "metric", "value"]]


def learning_curve(
    train: AnySet,
    test: AnySet,
    tasks: Sequence[Task],
    labels: Sequence[int],
    seeds: Sequence[int],
    methods: Mapping[str, Learner[AnySet]],
    together: bool = False,
) -> pd.DataFrame:
    """Scores on `test` after learning from `n` labelled rows of `train`, for every method, n, seed and task.

    labels: the numbers of rows; those above len(train) are left out (ConfigError when that leaves none). methods:
    name to a function (few rows, tasks, seed) -> network. All methods learn from the same rows. together: a call learns
    all tasks, not one. Columns: method, n, seed, task, metric, value, seconds (of the training, wall clock).
    """
    possible = [n for n in labels if n <= len(train)]
    if not possible or not seeds or not methods:
        raise ConfigError(
            f"nothing to measure: labels {list(labels)} with {len(train)} rows, seeds {list(seeds)}, methods "
            f"{list(methods)}."
        )
    tables = []
    for n in possible:
        for seed in seeds:
            few = few_labels(train, n, seed)
            for part in [tasks] if together else [[task] for task in tasks]:
                for name, method in methods.items():
                    start = time.perf_counter()
                    model = method(few, part, seed)
                    seconds = time.perf_counter() - start
                    rows = scores(model, test, part)
                    tables.append(rows.assign(method=name, n=n, seed=seed, seconds=seconds))
    table = pd.concat(tables, ignore_index=True)
    return table[["method", "n", "seed", "task", "metric", "value", "seconds"]]


PROBES: dict[str, Callable[[FeatureSet, Sequence[Task], int], Classifier]] = {
    row.name: row.learn for row in probe.ROWS if row.learn
}


def chance(train: LabelledSet, test: LabelledSet, tasks: Sequence[Task]) -> pd.DataFrame:
    """The baseline that looks at nothing: always the most frequent class of `train`. Columns task, metric, value.

    For a number it is what fits best without a look (see `Task.constant`).
    """
    outputs = {}
    for task in tasks:
        constant = task.constant(train.targets([task])[task.name])
        outputs[task.name] = constant.expand(len(test), -1)
    return evaluate(tasks, outputs, test.targets(tasks), n_boot=1)[["task", "metric", "value"]]
