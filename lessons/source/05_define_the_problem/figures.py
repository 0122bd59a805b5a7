"""Tables of lesson 05: several labels learnt together, and what the loss of each coding charges for an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.experiments import Learner, few_labels
from facekit.experiments.codings import CLASSES, LEVELS, NUMBER, codings
from facekit.studies.reference import PUBLISHED
from facekit.tasks import Task
from facekit.training.loop import predict

ALL_RIGHT = "all right"
__all__ = ["ALL_RIGHT", "PUBLISHED", "compare_joint", "relative_costs"]


def compare_joint(
    train: FeatureSet,
    test: FeatureSet,
    tasks: Sequence[Task],
    n: int,
    seeds: Sequence[int],
    methods: Mapping[str, Learner],
) -> dict[str, pd.DataFrame]:
    """Accuracy on `test` of every task and of all at once after learning them together from the same `n` rows.

    methods: by name, see `experiments.sharing_methods`. Returns a table by name of the task, and by `all right` that of
    the faces with no error in any task: a row a seed, a column a method. Rows of `test` without a label of each task do
    not count.
    """
    targets = test.targets(tasks)
    known = torch.stack([task.known(targets[task.name]) for task in tasks]).all(0)
    tables = {name: pd.DataFrame(index=pd.Index(seeds, name="seed")) for name in [*targets, ALL_RIGHT]}
    for seed in seeds:
        rows = few_labels(train, n, seed)
        for name, learn in methods.items():
            outputs = predict(learn(rows, tasks, seed), test)
            right = {task.name: (task.predict(outputs[task.name]) == targets[task.name])[known] for task in tasks}
            right[ALL_RIGHT] = torch.stack(list(right.values())).all(0)
            for what, each in right.items():
                tables[what].loc[seed, name] = each.double().mean().item()
    return tables


def relative_costs(task: Task, label: str, sure: float) -> pd.DataFrame:
    """What the loss of each coding charges for every answer to a face of the class `label`, the dearest answer as 1.

    sure: probability, between 0 and 1, that the network gives its answer; from `classes` the others share the rest
    evenly, from `levels` it is that of each of the yes-no answers; a number has none. Index: the answers, columns: the
    codings. Raises ConfigError for a label that is no class, and for another probability.
    """
    if label not in task.classes or not 0 < sure < 1:
        raise ConfigError(f"label must be one of {', '.join(task.classes)} and sure in (0, 1), got {label!r}, {sure}.")
    k = len(task.classes)
    logit = torch.tensor(sure, dtype=torch.float64).logit()
    asked = codings(task)
    outputs = {
        CLASSES: torch.full((k, k), (1 - sure) / (k - 1), dtype=torch.float64).fill_diagonal_(sure).log(),
        LEVELS: torch.where(torch.arange(k)[:, None] > torch.arange(k - 1), logit, -logit),
        NUMBER: torch.tensor(task.midpoints, dtype=torch.float64)[:, None] / asked[NUMBER].scale,
    }
    targets = {name: each.encode(pd.Series([label])) for name, each in asked.items()}
    costs = {name: [asked[name].loss(row[None], targets[name]).item() for row in outputs[name]] for name in asked}
    table = pd.DataFrame(costs, pd.Index(task.classes, name="answer"))
    return table / table.max()
