"""Scores of predictions, overall and by group, each with its bootstrap interval and the number of labels behind it.

Predictions and targets are tensors or arrays (N,), of boxes (N, 4), of texts (N, positions). A missing label (-1, or
NaN for numbers) is left out; where no label is left, a score is NaN. Intervals are percentile intervals (Efron &
Tibshirani 1993, section 13.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch

from facekit.errors import ConfigError, DataError
from facekit.tasks import Task

Values: TypeAlias = torch.Tensor | np.ndarray | pd.Series | Sequence[float]
Statistic = Callable[[np.ndarray], np.ndarray]
Score = tuple[float, float, float, int]  # value, low, high, n
N_BOOT = 1000
LEVEL = 0.95
_DRAWS_AT_ONCE = 2**22  # bounds the memory of a bootstrap to some tens of megabytes


def accuracy(predictions: Values, targets: Values) -> float:
    """Share of the known class indices in `targets` (N,) that `predictions` (N,) name; NaN where none is known."""
    predictions, targets = known_classes(predictions, targets)
    return float(np.mean(predictions == targets)) if len(targets) else float("nan")


def age_mae(task: Task, predictions: Values, targets: Values, years: Values | None = None) -> float:
    """Mean absolute error in the number's unit (years of age, steps of skin tone); NaN where no label is known.

    task: one that predicts numbers, or classes with midpoints. predictions, targets: as `Task.predict` and
    `Task.encode` give them, (N,). For classes a prediction counts as its class's midpoint, and so does a target unless
    `years` (N,), the exact numbers with NaN for unknown, has it. Raises ConfigError for classes without midpoints.
    """
    pair = task.both_as("number", as_array(predictions), as_array(targets))
    if pair is None:
        raise ConfigError(f"task {task.name!r} has classes without midpoints, so no error in numbers.")
    errors = absolute_errors(*pair, years)
    return float(np.nanmean(errors)) if np.isfinite(errors).any() else float("nan")


def confusion_matrix(task: Task, predictions: Values, targets: Values) -> pd.DataFrame:
    """Counts of known labels (rows, `true`) by prediction (columns, `predicted`), int64 (classes, classes).

    A predicted number counts as the class with the nearest midpoint. Raises ConfigError for a task without classes.
    """
    pair = task.both_as("class", as_array(predictions), as_array(targets))
    if pair is None:
        raise ConfigError(f"task {task.name!r} predicts a number; a confusion matrix needs classes.")
    counts = confusion_counts(*known_classes(*pair), len(task.classes))
    classes = list(task.classes)
    return pd.DataFrame(counts, pd.Index(classes, name="true"), pd.Index(classes, name="predicted"))


def bootstrap_interval(
    values: Values, statistic: Statistic | None = None, n_boot: int = N_BOOT, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a statistic over rows drawn with replacement.

    values: (N,) or (N, …), one entry a row. statistic: takes resamples (B, N, …) and returns (B,), so it is computed
    for many resamples at once; None is the mean of (N,) values. The interval is widened to the value on the rows
    themselves where it misses it, which can happen to a biased statistic (a largest gap, say). (NaN, NaN) where there
    are no rows. Raises ConfigError for an n_boot or a level that gives no interval.
    """
    return _bootstrap(as_array(values), statistic, n_boot, level, seed)[1:]


def evaluate(
    tasks: Sequence[Task],
    outputs: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
    groups: pd.Series | pd.DataFrame | Sequence[str] | None = None,
    seed: int = 0,
    numbers: Mapping[str, Values] | None = None,
    n_boot: int = N_BOOT,
) -> pd.DataFrame:
    """Every score of every task, over all rows and in every group, with 95 % bootstrap intervals.

    outputs: task name to (N, n_outputs), on any device. targets: task name to (N,), see `Task.encode`. groups: (N,)
    group names, or a table of several columns whose combinations are the groups (joined by ", "); rows without a name
    are in no group, unused categories of a categorical are groups with n = 0. numbers: task name to the exact numbers
    (N,) behind banded labels (ages in years). Returns the columns task, metric, group, value, low, high, n: metrics
    are what the task's kind has: `accuracy` and `balanced_accuracy` of classes (a number counts as the class with the
    nearest midpoint, if the task has any), `mae` of numbers and of classes with midpoints, `iou` of boxes,
    `character_error_rate` and `exact_match` of texts; the group of all rows is `all`; n counts the labels that the
    value rests on. Raises DataError where lengths or names do not match or where outputs are NaN.
    """
    rows = []
    for task in tasks:
        predictions, truth = _predictions(task, outputs, targets)
        exact = None if numbers is None or task.name not in numbers else numbers[task.name]
        metrics = list(_metrics(task, predictions, truth, exact))
        for group, member in _members(groups, len(truth)):
            for metric, score in metrics:
                rows.append((task.name, metric, group, *score(member, n_boot, seed)))
    return pd.DataFrame(rows, columns=["task", "metric", "group", "value", "low", "high", "n"])


def _metrics(task: Task, predictions: np.ndarray, targets: np.ndarray, years: Values | None) -> Iterator[tuple]:
    """Metric name and a function from a row mask, n_boot and a seed to its score."""
    for name, rows in task.scores(predictions, targets).items():
        yield name, partial(_row_score, rows)
    if (pair := task.both_as("class", predictions, targets)) is not None:
        _same_length(*pair)
        yield "accuracy", partial(_class_score, _accuracy, len(task.classes), pair)
        yield "balanced_accuracy", partial(_class_score, _balanced, len(task.classes), pair)
    if (pair := task.both_as("number", predictions, targets)) is not None:
        yield "mae", partial(_row_score, absolute_errors(*pair, years))


def _class_score(
    statistic: Statistic, n_classes: int, pair: Sequence[np.ndarray], member: np.ndarray, n_boot: int, seed: int
) -> Score:
    """Scores that depend on the rows through their confusion counts (B, classes, classes) only."""
    counts = confusion_counts(*known_classes(*(side[member] for side in pair)), n_classes)
    n = int(counts.sum())
    if n == 0:
        return float("nan"), float("nan"), float("nan"), 0
    draws = resampled(counts, n_boot, np.random.default_rng(seed))
    return *around(statistic(counts[None]), statistic(draws), LEVEL), n


def resampled(counts: np.ndarray, n_boot: int, rng: np.random.Generator, n: int | None = None) -> np.ndarray:
    """Counts of rows by category, of any shape, to those of n_boot resamples (n_boot, ...), int64.

    n: the rows of a resample, as many as there are if None. The counts of n rows drawn with replacement are multinomial
    with the observed shares: drawing counts instead of rows is the same bootstrap at a cost that does not grow with n.
    """
    seen = np.flatnonzero(counts)
    draws = np.zeros((n_boot, counts.size), np.int64)
    if len(seen):
        found = counts.ravel()[seen]
        draws[:, seen] = rng.multinomial(int(found.sum()) if n is None else n, found / found.sum(), n_boot)
    return draws.reshape(n_boot, *counts.shape)


def _row_score(rows: np.ndarray, member: np.ndarray, n_boot: int, seed: int) -> Score:
    """The mean of (N,) rows, NaN where the label is missing.

    Of (N, 2) the sum of the first column over the sum of the second, which is 0 where the label is missing.
    """
    known = rows[member & (~np.isnan(rows) if rows.ndim == 1 else rows[:, 1] > 0)]
    return *_bootstrap(known, None if rows.ndim == 1 else _ratio, n_boot, LEVEL, seed), len(known)


def _bootstrap(
    rows: np.ndarray, statistic: Statistic | None, n_boot: int, level: float, seed: int
) -> tuple[float, float, float]:
    """The statistic of the rows and its interval, see `bootstrap_interval`."""
    if n_boot < 1 or not 0 < level < 1:
        raise ConfigError(f"n_boot {n_boot} must be at least 1 and level {level} between 0 and 1.")
    if not len(rows):
        return float("nan"), float("nan"), float("nan")
    if statistic is None:
        rows, statistic = np.sort(rows), _mean  # sorted, so that the order of the rows does not matter
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // rows.size)
    parts = [
        statistic(rows[rng.integers(0, len(rows), (min(at_once, n_boot - start), len(rows)))])
        for start in range(0, n_boot, at_once)
    ]
    return around(statistic(rows[None]), np.concatenate(parts), level)


def _ratio(resamples: np.ndarray) -> np.ndarray:
    totals = resamples.sum(axis=1, dtype=np.float64)
    return totals[:, 0] / totals[:, 1]


def _mean(resamples: np.ndarray) -> np.ndarray:
    return resamples.mean(axis=1, dtype=np.float64)


def _accuracy(counts: np.ndarray) -> np.ndarray:
    """Confusion counts (B, C, C) to accuracy (B,)."""
    return np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2))


def _balanced(counts: np.ndarray) -> np.ndarray:
    """Confusion counts (B, C, C) to the mean recall of the classes that occur, (B,)."""
    return mean_recall(np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2))


def mean_recall(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Of each class the right answers and the rows (B, C) to the mean recall of the classes that occur, (B,)."""
    with np.errstate(invalid="ignore"):  # where no class occurs: NaN
        return (hits / np.maximum(totals, 1)).sum(axis=1) / (totals > 0).sum(axis=1)


def around(values: np.ndarray, statistics: np.ndarray, level: float) -> tuple[float, float, float]:
    """A value (1,) and the interval of its `statistics` (n_boot,), widened to it."""
    value = float(values[0])
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return value, min(float(low), value), max(float(high), value)


def as_array(values: Values) -> np.ndarray:
    """Values as a NumPy array, from any device and dtype."""
    if isinstance(values, torch.Tensor):
        values = values.detach()
        return (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
    return np.asarray(values)


def known_classes(predictions: Values, targets: Values) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets of the rows whose class is known, int64."""
    predictions, targets = as_array(predictions), as_array(targets)
    _same_length(predictions, targets)
    known = targets >= 0
    return predictions[known].astype(np.int64), targets[known].astype(np.int64)


def confusion_counts(predictions: np.ndarray, targets: np.ndarray, n_classes: int) -> np.ndarray:
    """Confusion counts (classes, classes), rows true, columns predicted."""
    if len(targets) and max(predictions.max(), targets.max()) >= n_classes:
        raise DataError(f"a class index is {max(predictions.max(), targets.max())}, but there are {n_classes} classes.")
    return np.bincount(targets * n_classes + predictions, minlength=n_classes**2).reshape(n_classes, n_classes)


def absolute_errors(predictions: np.ndarray, targets: np.ndarray, years: Values | None) -> np.ndarray:
    """|predicted - true| (N,), NaN where nothing is known of the truth."""
    _same_length(predictions, targets)
    if years is not None:
        exact = as_array(years).astype(np.float64)
        _same_length(predictions, exact)
        targets = np.where(np.isnan(exact), targets, exact)
    return np.abs(predictions.astype(np.float64) - targets)


def _same_length(predictions: np.ndarray, targets: np.ndarray) -> None:
    if predictions.shape != targets.shape or predictions.ndim != 1:
        raise DataError(f"predictions {predictions.shape} and targets {targets.shape} must both be (N,).")


def _predictions(task: Task, outputs: Mapping, targets: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets (N,) of one task; raises DataError where they are absent, unequal or NaN."""
    for what, table in (("outputs", outputs), ("targets", targets)):
        if task.name not in table:
            raise DataError(f"no {what} of task {task.name!r}; there are {', '.join(table) or 'none'}.")
    if outputs[task.name].isnan().any():
        raise DataError(f"the outputs of task {task.name!r} contain NaN; the model that made them is broken.")
    return as_array(task.predict(outputs[task.name])), as_array(targets[task.name])


def _members(groups: pd.Series | pd.DataFrame | Sequence[str] | None, n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Group names with their row masks (N,): `all` first, then the groups in order."""
    yield "all", np.ones(n, bool)
    if groups is None:
        return
    if isinstance(groups, pd.DataFrame):
        rows = groups.itertuples(index=False)
        groups = [None if pd.isna(list(row)).any() else ", ".join(map(str, row)) for row in rows]
    labels = pd.Series(groups)
    if len(labels) != n:
        raise DataError(f"{len(labels)} group names for {n} rows; they must match.")
    categories = labels.cat.categories if isinstance(labels.dtype, pd.CategoricalDtype) else None
    names = sorted(labels.dropna().unique(), key=str) if categories is None else categories
    for name in names:
        yield str(name), (labels == name).to_numpy(dtype=bool, na_value=False)
