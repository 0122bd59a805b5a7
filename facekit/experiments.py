"""Controlled experiments: the same rows, the same number of steps and several seeds for everything that is compared.

Each experiment returns a long table with one measurement a row (never an average alone); `summary` makes the means
and spreads that lessons print, and `facekit.records` keeps what was measured on real photos.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit.data.sets import FaceSet, FeatureSet, LabelledSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.models.backbone import Backbone
from facekit.models.heads import Classifier, Heads
from facekit.models.sharing import CrossStitch, SharedNet, Stack, mlp, relative_distances
from facekit.tasks import Joint, Task
from facekit.training.augment import Augment
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Method, Supervised
from facekit.training.plans import plan
from facekit.transfer.probe import hidden_probe, linear_probe
from facekit.transfer.sharing import Marginals, SoftSharing, train_shared

# Few labelled rows, tasks and a seed to a network that predicts these tasks.
Learner = Callable[[LabelledSet, Sequence[Task], int], nn.Module]


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
    methods: Mapping[str, Learner],
) -> pd.DataFrame:
    """Scores on `test` after learning from `n` labelled rows of `train`, for every method, n, seed and task.

    labels: the numbers of rows; those above len(train) are left out (ConfigError when that leaves none). methods:
    name to a function (few rows, one task, seed) -> classifier. All methods learn from the same rows. Columns: method,
    n, seed, task, metric, value, seconds (of the training, wall clock).
    """
    return _curve(train, test, [[task] for task in tasks], labels, seeds, methods)


def _curve(
    train: LabelledSet,
    test: LabelledSet,
    together: Sequence[Sequence[Task]],
    labels: Sequence[int],
    seeds: Sequence[int],
    methods: Mapping[str, Learner],
) -> pd.DataFrame:
    """As `learning_curve`; together: the tasks that one call of a method learns."""
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
            for tasks in together:
                for name, method in methods.items():
                    start = time.perf_counter()
                    model = method(few, tasks, seed)
                    seconds = time.perf_counter() - start
                    rows = scores(model, test, tasks)
                    tables.append(rows.assign(method=name, n=n, seed=seed, seconds=seconds))
    table = pd.concat(tables, ignore_index=True)
    return table[["method", "n", "seed", "task", "metric", "value", "seconds"]]


STRENGTHS = (0.001, 0.01, 0.03, 0.1, 1.0, 10.0)


def sharing_methods(
    hidden: Sequence[int] = (128,),
    dropout: float = 0.5,
    strengths: Sequence[float] = STRENGTHS,
    steps: int = 200,
    lr: float = 3e-3,
    joint: bool = False,
) -> dict[str, Learner]:
    """Ways to learn several tasks from features with hidden layers of the same size, at the same budget.

    `single`: a network a task, independent; `hard`: all hidden layers shared, a head a task; `soft λ` for every λ of
    `strengths`: a network a task, drawn together by λ times their squared distance; `cross-stitch`; with `joint` also
    `joint classes`: one network with a class for every combination (tasks with a softmax only). Networks of one seed
    start from the same hidden layers, see the same batches and take the same number of steps (see `train_shared`).
    """

    def with_net(make: Callable[[Stack, Sequence[Task]], SharedNet], method: Callable[..., Method]) -> Learner:
        def learn(rows: FeatureSet, tasks: Sequence[Task], seed: int) -> SharedNet:
            torch.manual_seed(seed)
            net = make(mlp(rows.features.shape[1], hidden, dropout), tasks)
            return train_shared(net, method(tasks), rows, steps=steps, seed=seed, lr=lr)

        return learn

    def learn_joint(rows: FeatureSet, tasks: Sequence[Task], seed: int) -> Marginals:
        both = Joint(tuple(tasks))
        combined = replace(rows, labels=both.add_to(rows.labels))
        return Marginals(with_net(SharedNet, Supervised)(combined, [both.task], seed), both)

    def separate(stack: Stack, tasks: Sequence[Task]) -> SharedNet:
        return SharedNet(stack, tasks, shared=0)

    found = {"single": with_net(separate, Supervised), "hard": with_net(SharedNet, Supervised)}
    for value in strengths:
        found[f"soft {value:g}"] = with_net(separate, partial(SoftSharing, strength=value))
    found["cross-stitch"] = with_net(CrossStitch, Supervised)
    return found | ({"joint classes": learn_joint} if joint else {})


def train_net(
    rows: FeatureSet,
    tasks: Sequence[Task],
    seed: int,
    *,
    hidden: Sequence[int] = (128,),
    dropout: float = 0.0,
    shared: int | str | None = None,
    method: Callable[[Sequence[Task]], Method] = Supervised,
    steps: int = 150,
    lr: float = 3e-3,
) -> SharedNet:
    """A `SharedNet` of hidden layers on features, trained on all of `rows` (see `train_shared`), in evaluation mode.

    seed: of start, batches and dropout. Each head starts at the best answer that looks at nothing (`Task.constant`):
    one that answers in years would else spend its first steps on getting there. shared: as in `SharedNet`. method: from
    tasks to a Method, such as a class of `transfer.weighting`.
    """
    torch.manual_seed(seed)
    net = SharedNet(mlp(rows.features.shape[1], hidden, dropout), tasks, shared)
    targets = rows.targets(tasks)
    with torch.no_grad():
        for task in tasks:
            net.outputs[task.name].bias.copy_(task.constant(targets[task.name]))
    return train_shared(net, method(tasks), rows, steps=steps, seed=seed, lr=lr)


def compare_sharing(
    train: FeatureSet,
    test: FeatureSet,
    tasks: Sequence[Task],
    labels: Sequence[int],
    seeds: Sequence[int],
    methods: Mapping[str, Learner] | None = None,
) -> pd.DataFrame:
    """Scores on `test` after learning all tasks from the same `n` rows of `train`, for every method, n and seed.

    methods: by default all of `sharing_methods`; labels and columns as in `learning_curve`; seconds are those of all
    tasks together. What is shared shows best beside `single`, seed by seed: both start from the same hidden layers.
    """
    return _curve(train, test, [tasks], labels, seeds, sharing_methods() if methods is None else methods)


@dataclass(frozen=True)
class Runs:
    """Trained networks that are compared: by the name of their method (a text, or λ), one for each of `seeds`.

    All are networks for the same tasks. For networks that are looked into; else `compare_sharing` is enough.
    """

    nets: Mapping[str | float, Sequence[SharedNet]]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        if any(len(nets) != len(self.seeds) for nets in self.nets.values()) or not self.nets or not self.seeds:
            raise ConfigError(f"every method needs one network for each of the seeds {list(self.seeds)}.")

    def __iter__(self) -> Iterator[tuple[str | float, int, SharedNet]]:
        """Method, seed and network of every run."""
        for name, nets in self.nets.items():
            for seed, net in zip(self.seeds, nets, strict=True):
                yield name, seed, net

    def accuracies(self, data: FeatureSet) -> pd.DataFrame:
        """The accuracy of every run on all rows of `data`: columns method, seed, task, value."""
        rows = [scores(net, data, net.tasks).assign(method=name, seed=seed) for name, seed, net in self]
        found = pd.concat(rows, ignore_index=True)
        return found.loc[found["metric"] == "accuracy", ["method", "seed", "task", "value"]].reset_index(drop=True)

    def by_seed(self, data: FeatureSet) -> dict[str, pd.DataFrame]:
        """The same by task, and their `mean`: one row a seed and one column a method, as `paired.better` takes it."""
        found = self.accuracies(data)
        tables = {
            name: rows.pivot(index="seed", columns="method", values="value")
            for name, rows in found.groupby("task", sort=False)
        }
        tables = {name: table[list(self.nets)] for name, table in tables.items()}
        return tables | {"mean": sum(tables.values()) / len(tables)}

    def distances(self) -> pd.DataFrame:
        """The relative distances of every run with layers of its own: columns method, seed, stage, distance."""
        rows = [
            relative_distances(net).rename_axis("stage").reset_index().assign(method=name, seed=seed)
            for name, seed, net in self
            if net.private
        ]
        empty = pd.DataFrame(columns=["method", "seed", "stage", "distance"])
        return pd.concat(rows, ignore_index=True)[list(empty)] if rows else empty


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
        constant = task.constant(train.targets([task])[task.name])
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
