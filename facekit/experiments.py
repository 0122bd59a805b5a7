"""Controlled experiments: the same rows, the same number of steps and several seeds for everything that is compared.

Each experiment returns a long table with one measurement a row (never an average alone); `summary` makes the means
and spreads that lessons print, and `facekit.records` keeps what was measured on real photos.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from facekit.data.sets import FaceSet, FeatureSet, LabelledSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.models.backbone import Backbone
from facekit.models.heads import Classifier, Heads
from facekit.tasks import Task
from facekit.training.augment import Augment
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.probe import hidden_probe, linear_probe


def few_labels(data: LabelledSet, n: int, seed: int, pool: np.ndarray | None = None) -> LabelledSet:
    """`n` rows drawn at random; with the same seed a smaller draw from the same rows is part of a larger one.

    pool: indices of the rows to draw from, by default all; the others of a large set on disk are then never read.
    Raises ConfigError when there are fewer rows.
    """
    rows = np.arange(len(data)) if pool is None else np.asarray(pool)
    if not 0 < n <= len(rows):
        raise ConfigError(f"cannot draw {n} rows from a {data.kind} of {len(rows)}.")
    return data.select(rows[np.random.default_rng(seed).permutation(len(rows))[:n]])


def scores(
    model: Classifier, data: FaceSet | FeatureSet, tasks: Sequence[Task], precision: Precision = "fp32"
) -> pd.DataFrame:
    """What `model` gets on all rows of `data`: columns task, metric, value (no intervals; see `metrics.evaluate`)."""
    table = evaluate(tasks, predict(model, data, precision=precision), data.targets(tasks), n_boot=1)
    return table[["task", "metric", "value"]]


def learning_curve(
    train: LabelledSet,
    test: LabelledSet,
    tasks: Sequence[Task],
    labels: Sequence[int],
    seeds: Sequence[int],
    methods: Mapping[str, Callable[[LabelledSet, Sequence[Task], int], Classifier]],
) -> pd.DataFrame:
    """Scores on `test` after learning from `n` labelled rows of `train`, for every method, n, seed and task.

    labels: the numbers of rows; those above len(train) are left out (ConfigError when that leaves none). methods:
    name to a function (few rows, one task, seed) -> classifier. All methods learn from the same rows. Columns: method,
    n, seed, task, metric, value, seconds (of the training, wall clock).
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
            for task in tasks:
                for name, method in methods.items():
                    start = time.perf_counter()
                    model = method(few, [task], seed)
                    seconds = time.perf_counter() - start
                    rows = scores(model, test, [task])
                    tables.append(rows.assign(method=name, n=n, seed=seed, seconds=seconds))
    table = pd.concat(tables, ignore_index=True)
    return table[["method", "n", "seed", "task", "metric", "value", "seconds"]]


Probes = dict[str, Callable[[FeatureSet, Sequence[Task], int], Classifier]]
PROBES: Probes = {
    "linear": lambda rows, tasks, seed: linear_probe(rows, tasks),
    "one hidden layer": lambda rows, tasks, seed: hidden_probe(rows, tasks, seed=seed),
}


def chance(train: LabelledSet, test: LabelledSet, tasks: Sequence[Task]) -> pd.DataFrame:
    """The baseline that looks at nothing: always the most frequent class of `train`. Columns task, metric, value.

    For a number it is what fits best without a look (see `Task.constant`).
    """
    outputs = {}
    for task in tasks:
        constant = task.constant(task.encode(train.labels[task.name]))
        outputs[task.name] = constant.expand(len(test), -1)
    return evaluate(tasks, outputs, test.targets(tasks), n_boot=1)[["task", "metric", "value"]]


def summary(rows: pd.DataFrame, by: Sequence[str], metric: str = "accuracy") -> pd.DataFrame:
    """Mean, spread (standard deviation over seeds) and number of seeds of one metric, indexed by `by`."""
    chosen = rows[rows["metric"] == metric].groupby(list(by), sort=False)["value"]
    return chosen.agg(mean="mean", spread="std", seeds="count")


@dataclass(frozen=True)
class Rung:
    """One step of the transfer ladder: which weights it starts from, which plan trains it, how fast.

    lr is the peak learning rate of the heads and of the last trained stage; the plan says the others'.
    """

    name: str
    plan: str
    lr: float
    pretrained: bool = True


LADDER = (
    Rung("frozen", "probe", 3e-3),
    Rung("new last layer", "last_layer", 1e-3),
    Rung("last block", "last_block", 1e-3),
    Rung("discriminative rates", "discriminative", 1e-3),
    Rung("probe, then all", "probe_then_fine_tune", 3e-4),
    Rung("everything", "everything", 1e-3),
    Rung("from scratch", "scratch", 3e-3, pretrained=False),
)


def train_rung(
    rung: Rung,
    backbone: Backbone,
    train: FaceSet,
    tasks: Sequence[Task],
    *,
    epochs: int,
    seed: int,
    batch_size: int = 32,
    precision: Precision = "fp32",
    channels_last: bool = False,
    augment: Augment | None = None,
) -> tuple[Classifier, FitResult]:
    """Trains one rung on all rows of `train`: the classifier, in evaluation mode, and what `fit` says of the training.

    backbone: a fresh copy, pretrained or not as the rung says; it is trained in place. Heads of the same seed start
    from the same numbers, and the photos come in the same order, on every rung. The last epoch's weights count:
    nothing is chosen on validation labels, so that `train` is all there is.
    """
    torch.manual_seed(seed)
    model = Classifier(backbone, Heads(backbone.embedding_dim, tasks))
    steps = plan(rung.plan, list(model.stages), epochs=epochs, lr=rung.lr)
    config = TrainConfig(
        batch_size=min(batch_size, len(train)),
        precision=precision,
        channels_last=channels_last,
        augment=augment,
        seed=seed,
    )
    result = fit(model, Supervised(tasks), train, None, steps, config)
    return model.eval(), result


def climb(
    rung: Rung,
    backbone: Backbone,
    train: FaceSet,
    test: FaceSet,
    tasks: Sequence[Task],
    *,
    epochs: int,
    seed: int,
    precision: Precision = "fp32",
    **options,
) -> tuple[Classifier, pd.DataFrame]:
    """Trains one rung and scores it: the classifier, and rows task, metric, value, rung, seed, moved, seconds, steps.

    moved: parameters whose value changed. seconds: of the training alone, wall clock. options: as `train_rung` takes
    them. Rungs that are compared get the same photos, epochs and batch size, and so the same number of steps.
    """
    how = {"epochs": epochs, "seed": seed, "precision": precision, **options}
    model, result = train_rung(rung, backbone, train, tasks, **how)
    rows = scores(model, test, tasks, precision)
    moved = sum(result.moved.values())
    return model, rows.assign(rung=rung.name, seed=seed, moved=moved, seconds=result.seconds, steps=result.steps)
