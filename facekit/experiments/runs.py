"""Networks that share, trained and compared: the same hidden layers, batches and steps for all of one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.experiments.curves import Learner, learning_curve, scores
from facekit.models.multitask import SharedNet, Stack, mlp, relative_distances
from facekit.tasks import Joint, Task
from facekit.training.methods import Method, Supervised
from facekit.transfer import sharing
from facekit.transfer.sharing import Marginals, train_shared
from facekit.transfer.table import Row

STRENGTHS = (0.001, 0.01, 0.03, 0.1, 1.0, 10.0)


def sharing_methods(
    hidden: Sequence[int] = (128,),
    dropout: float = 0.5,
    strengths: Sequence[float] = STRENGTHS,
    steps: int = 200,
    lr: float = 3e-3,
    joint: bool = False,
) -> dict[str, Learner[FeatureSet]]:
    """Ways to learn several tasks from features with hidden layers of the same size, at the same budget.

    `single`: a network a task, independent; `hard`: all hidden layers shared, a head a task; `soft λ` for every λ of
    `strengths`: a network a task, drawn together by λ times their squared distance; `cross-stitch`; with `joint` also
    `joint classes`: one network with a class for every combination (tasks with a softmax only). Networks of one seed
    start from the same hidden layers, see the same batches and take the same number of steps (see `train_shared`).
    """

    def learner(row: Row, **given: float) -> Learner[FeatureSet]:
        def learn(rows: FeatureSet, tasks: Sequence[Task], seed: int) -> nn.Module:
            torch.manual_seed(seed)

            def stack() -> Stack:
                return mlp(rows.features.shape[1], hidden, dropout)

            net, method = row.trained(stack, lambda: SharedNet(stack(), tasks), tasks, 1, **given)
            return train_shared(net, method, rows, steps=steps, seed=seed, lr=lr)

        return learn

    def learn_joint(rows: FeatureSet, tasks: Sequence[Task], seed: int) -> Marginals:
        both = Joint(tuple(tasks))
        combined = replace(rows, labels=both.add_to(rows.labels))
        return Marginals(found["hard"](combined, [both.task], seed), both)

    ways = {row.name: row for row in sharing.ROWS}
    found = {name: learner(ways[name]) for name in ("single", "hard")}
    found |= {f"soft {value:g}": learner(ways["soft"], strength=value) for value in strengths}
    found["cross-stitch"] = learner(ways["cross-stitch"])
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
            output: Any = net.outputs[task.name]  # whatever the kind's layer: it has a bias
            output.bias.copy_(task.constant(targets[task.name]))
    return train_shared(net, method(tasks), rows, steps=steps, seed=seed, lr=lr)


def compare_sharing(
    train: FeatureSet,
    test: FeatureSet,
    tasks: Sequence[Task],
    labels: Sequence[int],
    seeds: Sequence[int],
    methods: Mapping[str, Learner[FeatureSet]] | None = None,
) -> pd.DataFrame:
    """Scores on `test` after learning all tasks from the same `n` rows of `train`, for every method, n and seed.

    methods: by default all of `sharing_methods`; labels and columns as in `learning_curve`; seconds are those of all
    tasks together. What is shared shows best beside `single`, seed by seed: both start from the same hidden layers.
    """
    return learning_curve(train, test, tasks, labels, seeds, methods or sharing_methods(), together=True)


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
        """The same by task, and their `mean`: one row a seed and one column a method, for `paired.clearly_better`."""
        found = self.accuracies(data)
        tables = {
            name: rows.pivot(index="seed", columns="method", values="value")[list(self.nets)]
            for name, rows in found.groupby("task", sort=False)
        }
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
