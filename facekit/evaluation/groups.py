"""For whom a classifier works: scores by group and intersection, the worst group and the gap, each with its interval.

Everything rests on counts by cell (a cell is a group, or an intersection of groups), which are added batch by batch:
confusions, and histograms of errors and of confidences, fine enough for their resampling to be that of the rows. So
memory does not grow with the rows, and a bootstrap costs the same for a hundred rows and for a million. Each cell is
resampled by itself (a stratified bootstrap), so no resample loses a cell.

What not to believe: an interval of a cell with few rows. A resample holds only faces that are there, so the interval
of one row, or of ten right answers out of ten, has no width. Below `SMALL` rows a cell is marked; below `PUBLISHED`
faces no statistic should leave the machine (`published` takes it out of a table).

The worst of several groups is biased: it is the lowest of numbers with errors, so it is too low, the more so the more
groups there are and the smaller they are, even where all groups are equal. `GroupCounts.worst` says how far.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from facekit.errors import ConfigError, DataError
from facekit.evaluation.calibration import BINS, confidences, fit_temperature, in_bin, temperature_scaled
from facekit.evaluation.metrics import (
    LEVEL,
    N_BOOT,
    Values,
    absolute_errors,
    around,
    as_array,
    confusion_counts,
    known_classes,
    mean_recall,
    resampled,
)
from facekit.tasks import Task

SMALL = 30  # rows of a cell, below which its interval is not to be believed
PUBLISHED = 20  # faces, below which no statistic is published
_PER_OCTAVE, _OCTAVES = 16, 40  # errors from 2^-20 to 2^20 of the unit, in bins 4 % wide
_FINE = 5  # parts of each bin of confidence
NAN = float("nan")


@dataclass(frozen=True)
class _Metric:
    """A score as a function of a cell's counts.

    source: the kind of counts. strata: counts (K,) and the index of the positive class to (strata, categories): the
    categories in which rows fall, sorted into strata whose sizes are given (of a true positive rate: the positives).
    value: such counts (B, strata, categories) and each category's mean number to (B,). worst: min or max.
    """

    source: str
    strata: Callable[[np.ndarray, int], np.ndarray]
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    worst: Callable = np.min
    one_class: bool = False  # about one class against the rest
    bounded: bool = True  # over all rows it cannot be worse than in the worst group
    most: float = 1.0

    def n(self, strata: np.ndarray) -> int:
        """The labels that a value of counts (strata, categories) rests on."""
        return int(strata.sum() if self.value is not _rate else strata[0].sum())


def _rate(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The first stratum's share in its first category."""
    return _divided(counts[:, 0, 0], counts[:, 0].sum(1))


def _recalls(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The mean over strata that have rows of the share in the first category."""
    return mean_recall(counts[:, :, 0], counts.sum(2))


def _average(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return _divided((counts * numbers).sum((1, 2)), counts.sum((1, 2)))


def _calibration(counts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Expected calibration error of counts (B, 1, bins · parts · [wrong, right])."""
    wrong, right = np.moveaxis((counts * numbers).reshape(len(counts), BINS, -1, 2), -1, 0)
    hits = counts.reshape(len(counts), BINS, -1, 2)[..., 1]
    distance = np.abs(hits.sum(2) - wrong.sum(2) - right.sum(2)).sum(1)
    return _divided(distance, counts.sum((1, 2)))


def _divided(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.divide(one, other, out=np.full(len(one), np.nan), where=other > 0)


def _square(counts: np.ndarray) -> np.ndarray:
    return counts.reshape(int(len(counts) ** 0.5), -1)


def _right(counts: np.ndarray, _: int) -> np.ndarray:
    hits = np.trace(_square(counts))
    return np.array([[hits, counts.sum() - hits]])


def _right_by_class(counts: np.ndarray, _: int) -> np.ndarray:
    table = _square(counts)
    return np.stack([np.diagonal(table), table.sum(1) - np.diagonal(table)], 1)


def _selected(counts: np.ndarray, positive: int) -> np.ndarray:
    chosen = _square(counts)[:, positive].sum()
    return np.array([[chosen, counts.sum() - chosen]])


def _selected_of(true: bool) -> Callable[[np.ndarray, int], np.ndarray]:
    """The positives (or the negatives): selected or not; the others are a stratum of their own."""

    def strata(counts: np.ndarray, positive: int) -> np.ndarray:
        table = _square(counts)
        own = np.arange(len(table)) == positive
        of = table[own if true else ~own]
        return np.array([[of[:, own].sum(), of[:, ~own].sum()], [counts.sum() - of.sum(), 0]])

    return strata


def _all(counts: np.ndarray, _: int) -> np.ndarray:
    return counts[None]


METRICS = {
    "accuracy": _Metric("classes", _right, _rate),
    "balanced_accuracy": _Metric("classes", _right_by_class, _recalls, bounded=False),
    "mae": _Metric("errors", _all, _average, np.max, most=np.inf),
    "calibration_error": _Metric("confidences", _all, _calibration, np.max, bounded=False),
    "selection_rate": _Metric("classes", _selected, _rate, one_class=True),
    "true_positive_rate": _Metric("classes", _selected_of(True), _rate, one_class=True),
    "false_positive_rate": _Metric("classes", _selected_of(False), _rate, np.max, one_class=True),
}


class GroupCounts:
    """What scores by group need to know of the rows, added batch by batch.

    task: of classes or of numbers. columns: names of the group columns, or names with the groups of each in order;
    groups that are not named come after these, sorted. A row whose group is missing in a column is left out of tables
    by that column. Scores: `accuracy`, `balanced_accuracy`, and for one class against the rest `selection_rate`,
    `true_positive_rate` and `false_positive_rate` of answers that are classes; `mae` of numbers and of classes with
    midpoints; `calibration_error` where probabilities were given. All rest on rows with a known label, the selection
    rate as well.
    """

    def __init__(self, task: Task, columns: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        given = columns if isinstance(columns, Mapping) else {column: () for column in columns}
        self.task, self._given = task, {column: list(map(str, groups)) for column, groups in given.items()}
        self._sources: set[str] = set()  # the kinds of counts that there are
        self._cells: dict[tuple[str | None, ...], dict[str, np.ndarray]] = {}  # by group of every column

    def add(
        self,
        predictions: Values,
        targets: Values,
        groups: pd.DataFrame,
        probabilities: Values | None = None,
        numbers: Values | None = None,
    ) -> GroupCounts:
        """Adds rows, and returns itself. predictions, targets: (N,), as `Task.predict` and `Task.encode` give them.

        groups: a table (N,) with the columns. probabilities: (N, classes), for the calibration. numbers: exact numbers
        (N,) behind banded labels, NaN where unknown. Raises DataError for lengths or columns that do not fit, or for
        what no model can have said; then nothing is added.
        """
        predictions, targets = as_array(predictions), as_array(targets)
        if missing := set(self._given) - set(groups):
            raise DataError(f"no group column {sorted(missing)[0]!r}; the table has {', '.join(map(str, groups))}.")
        if len(groups) != len(targets):
            raise DataError(f"groups of {len(groups)} rows for {len(targets)} targets; they must match.")
        found = self._categories(predictions, targets, probabilities, numbers)
        if not found:
            raise ConfigError(f"task {self.task.name!r} has neither classes nor numbers, so no scores by group.")
        self._sources |= set(found)
        cell, names = self._sorted_into_cells(groups)
        for source, (known, category, number, size) in found.items():
            where = cell[known] * size + category
            weights = (None, number, number**2) if number is not None else (None,)
            sums = np.stack([np.bincount(where, each, len(names) * size) for each in weights]).astype(np.float64)
            for name, counts in zip(names, np.moveaxis(sums.reshape(len(weights), -1, size), 1, 0), strict=True):
                of = self._cells.setdefault(name, {})
                of[source] = of[source] + counts if source in of else counts.copy()
        return self

    def _sorted_into_cells(self, groups: pd.DataFrame) -> tuple[np.ndarray, list[tuple[str | None, ...]]]:
        """Each row's cell, int64 (N,), and the cells' groups; enters new groups into the lists of groups."""
        code, columns = np.zeros(len(groups), np.int64), []
        for column, known in self._given.items():
            values = groups[column]
            if isinstance(values.dtype, pd.CategoricalDtype):
                known += [str(each) for each in values.cat.categories if str(each) not in known]
            codes, uniques = pd.factorize(values)
            columns.append([*map(str, uniques), None])  # a missing one has the code -1: the last
            code = code * len(columns[-1]) + codes % len(columns[-1])
        found, cell = np.unique(code, return_inverse=True)
        parts = np.unravel_index(found, [len(groups) for groups in columns]) if columns else []
        each = [[names[i] for i in part] for names, part in zip(columns, parts, strict=True)]
        return cell, list(zip(*each, strict=True)) if columns else [()] * len(found)

    def _categories(
        self, predictions: np.ndarray, targets: np.ndarray, probabilities: Values | None, numbers: Values | None
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None, int]]:
        """By kind of counts: which rows are known (N,), their category, their number, and how many categories."""
        if (lost := ~np.isfinite(predictions.astype(np.float64))).any():
            row = int(lost.reshape(len(lost), -1).any(1).argmax())
            raise DataError(f"the prediction of row {row} is not finite; the model that made it is broken.")
        found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None, int]] = {}
        if (pair := self.task.both_as("class", predictions, targets)) is not None:
            size = len(self.task.classes)
            said, true = known_classes(*pair)
            confusion_counts(said, true, size)  # refuses classes that there are not
            found["classes"] = pair[1] >= 0, true * size + said, None, size**2
        if (pair := self.task.both_as("number", predictions, targets)) is not None:
            errors = absolute_errors(*pair, numbers)
            known = ~np.isnan(errors)
            errors = errors[known]
            with np.errstate(divide="ignore"):
                octave = np.log2(errors).clip(-_OCTAVES // 2, _OCTAVES // 2)
            bins = ((octave + _OCTAVES // 2) * _PER_OCTAVE).astype(np.int64)
            found["errors"] = known, bins, errors, _OCTAVES * _PER_OCTAVE + 1
        if probabilities is not None:
            confidence, right = confidences(probabilities, targets)
            part = in_bin(confidence, BINS)
            fine = part * _FINE + in_bin(confidence * BINS - part, _FINE)
            found["confidences"] = targets >= 0, fine * 2 + right, confidence, BINS * _FINE * 2
        return found

    def groups(self, column: str) -> list[str]:
        """The groups of a column, in order."""
        at, given = self._at(column), self._given[column]
        return given + sorted({group for cell in self._cells if (group := cell[at]) is not None} - {*given})

    def _at(self, column: str) -> int:
        if column not in self._given:
            raise ConfigError(f"no group column {column!r}; there are {', '.join(self._given) or 'none'}.")
        return list(self._given).index(column)

    def _pooled(self, by: Sequence[str]) -> dict[tuple[str | None, ...], dict[str, np.ndarray]]:
        """Counts of every combination of the groups of these columns, also of those without rows."""
        at = [self._at(column) for column in by]
        crossed = product(*(self.groups(column) for column in by))
        pooled: dict[tuple[str | None, ...], dict[str, np.ndarray]] = {cell: {} for cell in crossed}
        for cell, counts in self._cells.items():
            of = pooled.get(tuple(cell[i] for i in at))
            if of is not None:  # else a group is missing
                for source, each in counts.items():
                    of[source] = of[source] + each if source in of else each
        return pooled

    def _asked(
        self, by: Sequence[str] | None, metrics: Sequence[str] | None, positive: str | None, n_boot: int
    ) -> tuple[list[str], list[str], int]:
        """Columns, names of metrics and the positive class's index. Raises ConfigError for what there is not."""
        if n_boot < 1:
            raise ConfigError(f"n_boot {n_boot} must be at least 1.")
        sources = self._sources
        if metrics is None:
            metrics = [
                name
                for name, each in METRICS.items()
                if each.source in sources and (positive is not None or not each.one_class)
            ]
        for name in metrics:
            if name not in METRICS:
                raise ConfigError(f"no metric {name!r}; there are {', '.join(METRICS)}.")
            if METRICS[name].one_class and positive is None:
                raise ConfigError(f"{name} is about one class: name it as `positive`.")
            if METRICS[name].source not in sources:
                raise ConfigError(
                    f"{name} needs {METRICS[name].source}, which the rows of {self.task.name!r} have not."
                )
        if positive is not None and positive not in self.task.classes:
            raise ConfigError(
                f"no class {positive!r}; {self.task.name!r} has {', '.join(self.task.classes) or 'none'}."
            )
        columns = list(self._given) if by is None else list(by)
        return columns, list(metrics), -1 if positive is None else self.task.classes.index(positive)

    def scores(
        self,
        by: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        positive: str | None = None,
        small: int = SMALL,
        n_boot: int = N_BOOT,
        seed: int = 0,
    ) -> pd.DataFrame:
        """One row a cell and metric: the columns of `by`, metric, n, value, low, high (95 %), small.

        by: the columns whose groups are crossed; None is all columns, () all rows together. metrics: names in
        `METRICS`; None is all that the rows allow. positive: the class that the rates are about. n: the labels that the
        value rests on (of a true positive rate, the positives). small: whether n is below `small`, so that the
        interval is too narrow to be believed. A calibration error and its interval are too high, the more so the fewer
        rows there are. Cells without rows are there, with NaN. Raises ConfigError for columns,
        metrics or classes that there are not.
        """
        by, metrics, index = self._asked(by, metrics, positive, n_boot)
        rows = []
        cells = self._pooled(by)
        for metric in metrics:
            for number, (cell, counts) in enumerate(cells.items()):
                found = _Cell.of(METRICS[metric], counts, index)
                score = found.interval(n_boot, np.random.default_rng([seed, number]))
                rows.append((*cell, metric, found.n, *score, found.n < small))
        return pd.DataFrame(rows, columns=[*by, "metric", "n", "value", "low", "high", "small"])

    def worst(
        self,
        by: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        positive: str | None = None,
        small: int = SMALL,
        n_boot: int = N_BOOT,
        seed: int = 0,
        without: Collection[tuple[str, ...]] = (),
    ) -> pd.DataFrame:
        """The worst cell of each metric and the gap to the best, as they are and corrected for their bias.

        Takes what `scores` takes; cells of fewer than `small` labels and those of `without`, by their groups, are left
        out. Two rows a metric, `what` is `worst` and `gap`: group (of a gap, worst and best), value, low, high,
        corrected, if_equal, p, groups, left_out.

        The lowest of several estimates is too low, and the gap too wide. if_equal: what this figure would be on average
        if all cells were equal: each keeps its rows and draws its answers from the shares of all cells together (of
        rates given the true class, within that class). p: how often it would then be at least as bad. corrected: the
        value less its bias, which is simulated around the cells' values shrunk towards each other as far as their
        noise demands (constrained empirical Bayes, Louis 1984; moment estimate of DerSimonian & Laird 1986): nothing is
        taken off where cells differ far more than their noise; in simulations most of the bias goes, not all. low,
        high: limits for the worst of the true values, and for their gap. They come from intervals that are right for
        all cells, or all pairs of cells, at once (95 %, by the largest deviation), since the percentile interval of a
        minimum misses the truth. They are wide, and on the safe side. For a selection rate, worst is lowest.
        """
        by, metrics, index = self._asked(by, metrics, positive, n_boot)
        cells = self._pooled(by)
        rows = []
        for metric in metrics:
            kind = METRICS[metric]
            all_cells = {cell: _Cell.of(kind, counts, index) for cell, counts in cells.items()}
            large = {
                cell: found for cell, found in all_cells.items() if found.n >= max(small, 1) and cell not in without
            }
            names = [", ".join(map(str, cell)) for cell in large]
            about = len(large), len(all_cells) - len(large)
            for what, group, score in _extremes(kind, list(large.values()), names, n_boot, seed):
                rows.append((metric, what, group, *score, *about))
        scores = ["value", "low", "high", "corrected", "if_equal", "p"]
        return pd.DataFrame(rows, columns=["metric", "what", "group", *scores, "groups", "left_out"])

    def calibration_curve(self, **cell: str) -> pd.DataFrame:
        """As `calibration.calibration_curve`, of all rows or of one cell: `calibration_curve(race="Black")`."""
        counts, numbers = self._sum("confidences", cell)[:2].reshape(2, BINS, -1, 2)
        with np.errstate(invalid="ignore"):
            n = counts.sum((1, 2))
            means = {"confidence": numbers.sum((1, 2)) / n, "accuracy": counts[..., 1].sum(1) / n}
        return pd.DataFrame({"n": n.astype(np.int64), **means}, pd.Index(np.arange(1, BINS + 1) / BINS, name="bin"))

    def confusion(self, **cell: str) -> pd.DataFrame:
        """Counts of true (rows) by predicted class (columns), int64; of one cell: `confusion(race="Black")`."""
        classes = [pd.Index(self.task.classes, name=name) for name in ("true", "predicted")]
        return pd.DataFrame(_square(self._sum("classes", cell)[0]).astype(np.int64), *classes)

    def _sum(self, source: str, cell: Mapping[str, str]) -> np.ndarray:
        """Counts of one kind over the rows of these groups; raises ConfigError where there is nothing of the kind."""
        at = {self._at(column): str(group) for column, group in cell.items()}
        all_counts = [(name, counts[source]) for name, counts in self._cells.items() if source in counts]
        if not all_counts:
            raise ConfigError(f"no {source} of task {self.task.name!r} were added.")
        zero = np.zeros_like(all_counts[0][1])
        return sum((each for name, each in all_counts if all(name[i] == group for i, group in at.items())), zero)


@dataclass(frozen=True)
class _Cell:
    """One metric's counts in one cell, by stratum and category, with each category's mean number and its variance."""

    metric: _Metric
    counts: np.ndarray
    numbers: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, metric: _Metric, counts: dict[str, np.ndarray], positive: int) -> _Cell:
        if metric.source not in counts:
            return cls(metric, *np.zeros((3, 1, 1)))
        found = counts[metric.source]
        strata = metric.strata(found[0].astype(np.int64), positive)
        if len(found) == 1:
            return cls(metric, strata, *np.zeros((2, 1, 1)))
        means, squares = found[1:] / np.maximum(found[0], 1)
        return cls(metric, strata, means[None], (squares - means**2).clip(0)[None])

    @property
    def n(self) -> int:
        return self.metric.n(self.counts)

    @property
    def value(self) -> float:
        return float(self._values(self.counts[None])[0]) if self.n else NAN

    def _values(self, counts: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        values = self.metric.value(counts, self.numbers)
        if rng is not None and self.metric.value is _average:  # what differs within a bin of numbers
            noise = (counts * self.variances).sum((1, 2)) ** 0.5 / counts.sum((1, 2))
            values = values + noise * rng.standard_normal(len(values))
        return values

    def draws(self, n_boot: int, rng: np.random.Generator) -> np.ndarray:
        """Values of resamples (n_boot,); NaN where one has no label that counts."""
        return self._values(resampled(self.counts, n_boot, rng), rng)

    def interval(self, n_boot: int, rng: np.random.Generator) -> tuple[float, float, float]:
        if not self.n:
            return NAN, NAN, NAN
        draws = self.draws(n_boot, rng)
        return around(np.array([self.value]), draws[~np.isnan(draws)], LEVEL)

    def like(self, pooled: _Cell, n_boot: int, rng: np.random.Generator) -> np.ndarray:
        """Values (n_boot,) that a cell of these rows would have if its answers were drawn like those of `pooled`."""
        pairs = zip(self.counts.sum(1), pooled.counts, strict=True)
        return pooled._values(np.stack([resampled(of, n_boot, rng, int(n)) for n, of in pairs], 1), rng)


def _extremes(
    metric: _Metric, cells: list[_Cell], names: list[str], n_boot: int, seed: int
) -> Iterator[tuple[str, str, tuple[float, ...]]]:
    """`worst` and `gap` of cells that all have rows: what, which groups, and the six figures of `worst`."""
    if len(cells) < 2:
        yield from ((what, "", (NAN,) * 6) for what in ("worst", "gap"))
        return
    rng = np.random.default_rng(seed)
    n = np.array([cell.counts for cell in cells]).sum(0)
    weights = np.array([cell.counts for cell in cells]) / np.maximum(n, 1)
    numbers, seconds = (
        (weights * each).sum(0)
        for each in (
            np.stack([np.broadcast_to(cell.numbers, cell.counts.shape) for cell in cells]),
            np.stack([np.broadcast_to(cell.variances + cell.numbers**2, cell.counts.shape) for cell in cells]),
        )
    )
    pooled = _Cell(metric, n, numbers, (seconds - numbers**2).clip(0))
    values = np.array([cell.value for cell in cells])
    equal = np.stack([cell.like(pooled, n_boot, rng) for cell in cells], 1)
    middle, spread = equal.mean(0), equal.std(0)
    true = _shrunk(values, middle, spread**2)
    simulated = true + equal - middle
    # A cell's own resamples may vary too little, if it is small or all right.
    errors = np.maximum(spread, [np.nanstd(cell.draws(n_boot, rng)) for cell in cells])
    lows, highs = _at_once(values, equal - middle, spread, errors)
    lows, highs = lows.clip(0), highs.clip(None, metric.most)

    flip = 1 if metric.worst is np.min else -1  # so that the worst is the lowest
    first, last = (flip * values).argsort(kind="stable")[[0, -1]]
    for what in ("worst", "gap"):
        if what == "worst":
            group, of, bad = names[first], metric.worst, -flip
            low, high = sorted((metric.worst(lows), metric.worst(highs)))
            corrected_at_best = pooled.value if metric.bounded else values[last]
        else:
            group, of, bad = f"{names[first]} to {names[last]}", np.ptp, 1
            low, high = _at_once_of_pairs(values, equal - middle, spread, errors)
            low, high = max(0.0, low), min(metric.most, high)
        value, null = of(values), of(equal, axis=1)
        corrected = value - (of(simulated, axis=1) - of(true)).mean()
        if what == "worst" and flip * corrected > flip * corrected_at_best:
            corrected = corrected_at_best
        p = (1 + (bad * null >= bad * value - 1e-12).sum()) / (1 + n_boot)
        yield what, group, tuple(map(float, (value, low, high, np.clip(corrected, low, high), null.mean(), p)))


def _at_once(
    values: np.ndarray, noise: np.ndarray, spread: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Limits (cells,) that hold for all values at once, by the largest deviation in their standard errors.

    noise: simulated deviations (B, cells) with the standard deviations `spread`. errors: standard errors of the values.
    """
    times = np.quantile((np.abs(noise) / np.where(spread > 0, spread, np.inf)).max(1), LEVEL)
    return values - times * errors, values + times * errors


def _at_once_of_pairs(
    values: np.ndarray, noise: np.ndarray, spread: np.ndarray, errors: np.ndarray
) -> tuple[float, float]:
    """Limits of the largest difference of two values, from such limits of all differences; see `_at_once`."""
    largest = np.zeros(len(noise))
    for i in range(1, len(values)):
        apart = np.hypot(spread[i], spread[:i])
        each = np.abs(noise[:, [i]] - noise[:, :i]) / np.where(apart > 0, apart, np.inf)
        largest = np.maximum(largest, each.max(1))
    times = np.quantile(largest, LEVEL)
    away, margin = np.abs(values[:, None] - values), times * np.hypot(errors[:, None], errors)
    pairs = ~np.eye(len(values), dtype=bool)
    return float((away - margin)[pairs].max()), float((away + margin)[pairs].max())


def _shrunk(values: np.ndarray, middle: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Values (cells,) moved towards what they would be if cells were equal, until they spread as the truth may do.

    The root keeps the spread of the values that of the truth; without it they would lie too near each other.
    """
    if not (variances > 0).all():
        return values
    weights, away = 1 / variances, values - middle
    surplus = (weights * away**2).sum() - (len(values) - 1)
    between = max(0.0, surplus / (weights.sum() - (weights**2).sum() / weights.sum()))
    return middle + (between / (between + variances)) ** 0.5 * away


def group_scores(
    task: Task,
    predictions: Values,
    targets: Values,
    groups: pd.DataFrame,
    probabilities: Values | None = None,
    numbers: Values | None = None,
    **asked,
) -> pd.DataFrame:
    """`GroupCounts.scores` of rows that are all there; `asked` are its arguments."""
    return GroupCounts(task, list(groups)).add(predictions, targets, groups, probabilities, numbers).scores(**asked)


def calibration_by_group(
    task: Task,
    validation: tuple[Values, Values, pd.DataFrame],
    test: tuple[Values, Values, pd.DataFrame],
    small: int = SMALL,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> pd.DataFrame:
    """The calibration error of every cell without a temperature, with one for all, and with one for each cell.

    validation, test: logits (N, classes), targets (N,) and groups (N, columns); temperatures are fitted on the first,
    errors are those of the second. A cell with fewer than `small` labels for the fit, or with labels of one class, gets
    the temperature of all. Returns the columns of groups, scaling (`none`, `one`, `own`), temperature, n, value, low,
    high, small. A small cell's error is too high, see `calibration_error`. Raises what `fit_temperature` raises.
    """
    fit_logits, fit_targets = map(as_array, validation[:2])
    logits, targets, groups = as_array(test[0]), as_array(test[1]), test[2].reset_index(drop=True)
    common = fit_temperature(fit_logits, fit_targets)
    by = list(groups)
    own: dict[tuple, float] = {}
    for cell, rows in validation[2].reset_index(drop=True).groupby(by, observed=True).indices.items():
        known = fit_targets[rows][fit_targets[rows] >= 0]
        if len(known) >= small and len(np.unique(known)) > 1:
            own[cell if isinstance(cell, tuple) else (cell,)] = fit_temperature(fit_logits[rows], fit_targets[rows])
    each = np.full(len(logits), common)
    for cell, rows in groups.groupby(by, observed=True).indices.items():
        each[rows] = own.get(cell if isinstance(cell, tuple) else (cell,), common)
    parts = []
    for scaling, temperatures in (("none", np.ones_like(each)), ("one", np.full_like(each, common)), ("own", each)):
        table = group_scores(
            task,
            logits.argmax(1),
            targets,
            groups,
            temperature_scaled(logits / temperatures[:, None], 1),
            metrics=["calibration_error"],
            small=small,
            n_boot=n_boot,
            seed=seed,
        )
        told = {tuple(map(str, cell)): found for cell, found in own.items()} if scaling == "own" else {}
        cells = table[by].itertuples(index=False, name=None)
        table.insert(len(by), "temperature", [told.get(cell, 1.0 if scaling == "none" else common) for cell in cells])
        table.insert(len(by), "scaling", scaling)
        parts.append(table.drop(columns="metric"))
    return pd.concat(parts, ignore_index=True)


def published(table: pd.DataFrame, least: int = PUBLISHED) -> pd.DataFrame:
    """A table of `scores` without what rests on fewer than `least` faces: n, value, low and high are empty there.

    A total less its other parts can still give away what one empty cell held.
    """
    few = table["n"] < least
    table = table.assign(n=table["n"].astype("Int64"))
    table.loc[few, "n"] = pd.NA
    table.loc[few, ["value", "low", "high"]] = NAN
    return table
