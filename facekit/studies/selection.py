"""Weights against a biased draw, and mixtures of classes: the records `selection_fairface`, `label_shift_fairface`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.experiments import scores
from facekit.studies.common import facenet_features, rows_of
from facekit.studies.runner import Study, blocks_of, study
from facekit.tasks import AGE_BAND, GENDER, RACE, Task
from facekit.training.loop import predict
from facekit.transfer.label_shift import estimated_mixture, mixture_by_confusion, reweighted
from facekit.transfer.probe import linear_probe
from facekit.transfer.selection import density_ratio, effective_size, kernel_mean_matching, rejection_sample
from facekit.transfer.selftaught import components

SEEDS = (0, 1, 2, 3, 4)
AXES = 49  # directions that the probes see; they hold nearly all of the variance
N, N_TARGET, N_TEST = 2000, 4000, 4000  # source rows, unlabelled target rows, rows that are scored
DRAWS = {
    f"{group} {ratio} : 1": (bands, ratio)
    for group, bands in {"children": ("0-2", "3-9"), "over 50": ("50-59", "60-69", "more than 70")}.items()
    for ratio in (18, 45)
}
BIASED = (GENDER, RACE)
# Label shift: how often each class is drawn for the target; `*` stands for all others.
SHIFTS: Mapping[str, tuple[Task, Mapping[str, float]]] = {
    "a school": (AGE_BAND, {"3-9": 5.0, "10-19": 5.0, "*": 0.3}),
    "nine in ten women": (GENDER, {"Female": 9.0, "*": 1.0}),
    "East Asia": (RACE, {"East Asian": 6.0, "Southeast Asian": 2.0, "*": 0.2}),
}
LEARNT, HELD_OUT, TARGET = 6000, 3000, 1500  # rows of label shift


def measure_bias(pool: FeatureSet, test: FeatureSet, draw: str, seed: int) -> pd.DataFrame:
    """All ways to learn from one biased draw of N rows, scored on the whole population.

    Rows of the group that `draw` names were more likely to be drawn, as many times as it says. Columns draw, method,
    seed, task, metric, value; the metric `effective_rows` of the weights has the task `rows`.
    """
    bands, ratio = DRAWS[draw]
    chance = np.where(pool.labels["age"].isin(bands), 1.0, 1 / ratio)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(pool), N, replace=False, p=chance / chance.sum())
    source, target = pool.select(drawn), pool.select(rng.permutation(len(pool))[:N_TARGET])
    fair = pool.select(rng.permutation(len(pool))[:N])
    ratios, exact = density_ratio(source, target), 1 / chance[drawn]
    weights = {
        "ratio": ratios,
        "√ratio": np.sqrt(ratios),
        "kernel means": kernel_mean_matching(source, target, most=50),
    }
    weights["exact"] = exact
    tables = []
    for task in BIASED:
        learnt = {"equal": linear_probe(source, [task]), "fair": linear_probe(fair, [task])}
        learnt |= {name: linear_probe(source, [task], weights=each) for name, each in weights.items()}
        learnt["chosen rows"] = linear_probe(rejection_sample(source, exact, seed), [task])
        tables += [scores(probe, test, [task]).assign(method=name) for name, probe in learnt.items()]
    sizes = [("rows", "effective_rows", effective_size(each), name) for name, each in weights.items()]
    tables.append(pd.DataFrame(sizes, columns=["task", "metric", "value", "method"]))
    rows = pd.concat(tables, ignore_index=True).assign(draw=draw, seed=seed)
    return rows[["draw", "method", "seed", "task", "metric", "value"]]


def measure_shift(pool: FeatureSet, test: FeatureSet, shift: str, seed: int) -> pd.DataFrame:
    """A probe of LEARNT rows on a target with another mixture of classes, before and after it is corrected.

    Methods: as it is, EM, by confusion, and the target's true mixture, which nobody has. Columns shift, method, seed,
    task, metric (`accuracy`; `mixture_error`, half the sum of absolute differences), value.
    """
    task, wanted = SHIFTS[shift]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool))
    train, held_out = pool.select(order[:LEARNT]), pool.select(order[LEARNT : LEARNT + HELD_OUT])
    classes = test.targets([task])[task.name].numpy()
    chance = np.array([wanted.get(name, wanted["*"]) for name in task.classes])[classes] * (classes >= 0)
    target = test.select(rng.choice(len(test), TARGET, p=chance / chance.sum()))
    probe = linear_probe(train, [task])

    def said(rows: FeatureSet) -> np.ndarray:
        return predict(probe, rows)[task.name].double().softmax(1).numpy()

    before, true = (shares(rows, task) for rows in (train, target))
    answers, truth = said(target), target.targets([task])[task.name].numpy()
    labels = held_out.targets([task])[task.name].numpy()
    mixtures = {
        "as it is": before,
        "EM": estimated_mixture(answers, before),
        "by confusion": mixture_by_confusion(answers, said(held_out), labels, before),
        "true mixture": true,
    }
    rows = []
    for method, mixture in mixtures.items():
        right = (reweighted(answers, before, mixture).argmax(1) == truth).mean()
        rows += [(method, "accuracy", right), (method, "mixture_error", np.abs(mixture - true).sum() / 2)]
    table = pd.DataFrame(rows, columns=["method", "metric", "value"]).assign(shift=shift, seed=seed, task=task.name)
    return table[["shift", "method", "seed", "task", "metric", "value"]]


def shares(rows: FeatureSet, task: Task) -> np.ndarray:
    """How frequent each class is among the labelled rows, float64 (K,)."""
    found = rows.targets([task])[task.name].numpy()
    counts = np.bincount(found[found >= 0], minlength=len(task.classes))
    return counts / counts.sum()


@study
def record(seeds: tuple[int, ...] = SEEDS) -> list[Study]:
    """Records `selection_fairface` and `label_shift_fairface`: biased draws with weights, other mixtures of classes.

    Of FairFace's official training photos 4,000 are scored, which nothing learns from; all else is drawn from the rest.
    Takes a few minutes on one core once the photos are embedded.

    Args:
        seeds: Of the draws.
    """
    faces = facenet_features()
    rows = rows_of(faces, "train", "validation")
    order = np.random.default_rng(0).permutation(rows)
    compact = components(faces.select(order[N_TEST:]), AXES)
    test, pool = compact(faces.select(order[:N_TEST])), compact(faces.select(order[N_TEST:]))
    on = f"FaceNet's frozen embeddings (mean of photo and mirror image) on {AXES} components"
    data = f"FairFace, official training photos: {len(pool):,} to draw from, {len(test):,} others to test"
    return [
        Study(
            "selection_fairface",
            what=f"linear probes on {on}: {N:,} rows of a biased draw, weighted in several ways, on a fair test",
            data=data,
            blocks=blocks_of(measure_bias, (pool, test), DRAWS, seeds),
        ),
        Study(
            "label_shift_fairface",
            what=f"linear probes on {on}: {TARGET:,} test rows with another mixture of classes, before and after",
            data=data,
            blocks=blocks_of(measure_shift, (pool, test), SHIFTS, seeds),
        ),
    ]
