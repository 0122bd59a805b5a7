"""One label asked in several ways, and several labels at once: what is learnt, what is answered, and how it is scored.

What is learnt (target and loss) and what is answered are two choices. All answers to a band of numbers become a number
in the label's unit, so that one metric fits all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.experiments.curves import Learner, few_labels
from facekit.tasks import Task, nearest_class
from facekit.training.loop import predict

CLASSES, LEVELS, NUMBER = "classes", "levels", "number"


def codings(task: Task, scale: float = 10.0) -> dict[str, Task]:
    """The same bands as `classes` (softmax), as `levels` (CORAL) and as a `number` (Huber loss on number / scale).

    The expected value over classes (DEX) is none of its own: it learns what `classes` learns and answers otherwise.
    Raises ConfigError for a task without midpoints.
    """
    if not task.midpoints:
        raise ConfigError(f"the classes of {task.name!r} stand for no numbers; give the task midpoints.")
    kinds = {CLASSES: "multiclass", LEVELS: "ordinal", NUMBER: "regression"}
    return {name: replace(task, kind=kind, scale=scale) for name, kind in kinds.items()}


def answers(task: Task, outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What outputs (N, n_outputs) for `codings(task)`, by coding, say: numbers (N,) in the label's unit, by answer.

    From `classes` the `most probable` one, which is right most often; the `mean` (DEX, Rothe et al. 2018), which has
    the least expected squared error; the `median`, the least expected absolute error: the first class at which the
    probabilities add up to a half. From `levels` as many bands up as there are yeses (CORAL, Cao et al. 2020), and from
    `number` the number. Bands count as their midpoints. float32.
    """
    middles = torch.tensor(task.midpoints)
    probabilities = outputs[CLASSES].float().softmax(1)
    median = (probabilities.cumsum(1) < 0.5).sum(1).clamp_max(len(middles) - 1)  # a sum may end just below its 1
    asked = codings(task)
    return {
        "most probable": middles[probabilities.argmax(1)],
        "mean": probabilities @ middles,
        "median": middles[median],
        LEVELS: middles[asked[LEVELS].predict(outputs[LEVELS])],
        NUMBER: asked[NUMBER].predict(outputs[NUMBER]),
    }


def score_answers(task: Task, found: Mapping[str, torch.Tensor], targets: torch.Tensor) -> pd.DataFrame:
    """Columns answer, metric, value: how often the number lies nearest to the right band's midpoint, and how far off.

    found: numbers (N,) by name. targets: classes (N,) as `Task.encode` gives them for `task`, rows without a label do
    not count. Metrics are `accuracy` and `mae`, the mean distance to the right band's midpoint.
    """
    known = targets >= 0
    truth = targets[known]
    middles = torch.tensor(task.midpoints, dtype=torch.float64)[truth]
    rows = []
    for name, numbers in found.items():
        numbers = numbers[known].double()
        right = torch.from_numpy(nearest_class(task.midpoints, numbers.numpy())) == truth
        rows += [(name, "accuracy", right.double().mean().item())]
        rows += [(name, "mae", (numbers - middles).abs().mean().item())]
    return pd.DataFrame(rows, columns=["answer", "metric", "value"])


def compare_codings(
    train: FeatureSet, test: FeatureSet, task: Task, labels: Sequence[int], seeds: Sequence[int], learn: Learner
) -> pd.DataFrame:
    """Scores on `test` of every answer after learning each coding from the same `n` rows of `train`.

    task: classes with midpoints. learn: how all codings are learnt (see `experiments.sharing_methods`). Columns answer,
    n, seed, task, metric, value, seconds (of the training of the answer's coding).
    """
    tables = []
    for n in labels:
        for seed in seeds:
            rows = few_labels(train, n, seed)
            outputs, seconds = {}, {}
            for name, coding in codings(task).items():
                start = time.perf_counter()
                model = learn(rows, [coding], seed)
                seconds[name] = time.perf_counter() - start
                outputs[name] = predict(model, test)[task.name]
            table = score_answers(task, answers(task, outputs), test.targets([task])[task.name])
            taken = table["answer"].map(lambda answer, seconds=seconds: seconds.get(answer, seconds[CLASSES]))
            tables.append(table.assign(n=n, seed=seed, task=task.name, seconds=taken))
    return pd.concat(tables, ignore_index=True)[["answer", "n", "seed", "task", "metric", "value", "seconds"]]
