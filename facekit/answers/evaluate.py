"""For whom a model answers well: scores of a loaded model on a set, by groups and by every two of them together.

Rows go through the model some thousand at a time and only counts are kept, so memory does not grow with the photos
(labels are a table in memory, a few bytes a row). What is returned may be shown: no row about a single face, no score
over fewer than `PUBLISHED` faces, and blank cells cannot be had by subtraction (`facekit.evaluation.disclosure`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.answers.model import AT_ONCE, Model
from facekit.data.sets import FaceSet, FeatureSet, LabelledSet, Split
from facekit.errors import ConfigError, DataError
from facekit.evaluation.calibration import temperature_scaled
from facekit.evaluation.disclosure import withheld
from facekit.evaluation.groups import PUBLISHED, GroupCounts
from facekit.evaluation.metrics import N_BOOT
from facekit.models.folder import TOLD, framing
from facekit.tasks import AGE_BANDS, GENDER, RACE, SKIN_TONE, Task, age_band

MOST_GROUPS = 50  # of a column; more are no groups but numbers, or names
UNKNOWN = "unknown"  # the group of rows without a label in a column
YEARS = ("age", "age_years")  # numbers in these columns are ages, and become age bands
BEFORE = "calibration_error_before"
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mae": "mean absolute error",
    BEFORE: "calibration error before",
    "calibration_error": "calibration error",
}
COUNTED = ("accuracy", "balanced_accuracy", "mae")  # also by two columns together
COLUMNS = ("task", "metric", "n", "value", "low", "high", "small")  # of `scores.csv`, beside those of groups
_OTHER = (*COLUMNS, "shown")
FEW, BLANK = f"< {PUBLISHED}", "not shown"
ALL = "all faces"


@dataclass(frozen=True, eq=False)
class TaskScores:
    """How well one task is answered.

    scores: a row a metric and cell: metric, the group columns (None where a row is about all groups of a column
    together), n (missing where it is not shown), shown (`FEW`, `BLANK` or ""), value, low, high, small. worst: columns
    by, metric, and those of `GroupCounts.worst`. confusion: index the true class, columns n and the share of each
    answer; missing where fewer than `PUBLISHED` faces are of a class; None without classes. reliability: by `before`
    and `after` the temperature a table n, confidence, accuracy, a row a bin of at least `PUBLISHED` faces; empty
    without probabilities.
    """

    task: Task
    temperature: float | None
    scores: pd.DataFrame
    worst: pd.DataFrame
    confusion: pd.DataFrame | None
    reliability: dict[str, pd.DataFrame]

    @property
    def main(self) -> str:
        """The metric that groups are compared by: accuracy of classes, mean absolute error of numbers."""
        return "accuracy" if (self.scores["metric"] == "accuracy").any() else "mae"

    def of(self, by: Sequence[str]) -> pd.DataFrame:
        """The rows of `scores` about the groups of these columns (none: all rows together), crossed."""
        columns = [name for name in self.scores if name not in _OTHER]
        there = self.scores[columns].notna()
        return self.scores[(there == [name in by for name in columns]).all(axis=1)].drop(
            columns=[name for name in columns if name not in by]
        )

    def extremes(self, by: Sequence[str]) -> tuple[pd.Series, pd.Series]:
        """The rows of `worst` about the groups of these columns: the worst group, and the gap."""
        name = " × ".join(by)  # compared as Python does: pandas takes a character of code 0 for the end of a text
        worst, gap = (row for _, row in self.worst.iterrows() if row["by"] == name)
        return worst, gap


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found. about: `model.json`. part: its entry of the set that the model learnt these tasks from.

    data: of the set that was answered, as far as it says: source, licence, datasheet, kind, shape, split, rows, and
    whether the training has seen them (`seen`). by: the group columns. groups: of each, its groups in order with the
    number of rows (missing where it is not shown).
    learnt: the same of the rows that the model has learnt from, where they are of the same set; else empty. tasks:
    what was scored. notes: what a reader has to know before the figures, most important first.
    """

    about: Mapping[str, Any]
    part: Mapping[str, Any]
    data: Mapping[str, Any]
    by: tuple[str, ...]
    groups: Mapping[str, pd.Series]
    learnt: Mapping[str, pd.Series]
    tasks: tuple[TaskScores, ...]
    notes: tuple[str, ...]

    @property
    def tables(self) -> list[tuple[str, ...]]:
        """The group columns of each table: none, each alone, every two together."""
        return tables_of(self.by)

    @property
    def scores(self) -> pd.DataFrame:
        """All cells, as in `scores.csv`: task, metric, the group columns, n, value, low, high, small.

        A group column is empty where all its groups are taken together. n is a text where it is not shown.
        """
        parts = []
        for each in self.tasks:
            shown = each.scores["n"].astype(object).where(each.scores["shown"] == "", each.scores["shown"])
            parts.append(each.scores.assign(task=each.task.name, n=shown))
        table = pd.concat(parts, ignore_index=True)
        return table[["task", "metric", *self.by, "n", "value", "low", "high", "small"]]


def tables_of(by: Sequence[str]) -> list[tuple[str, ...]]:
    """No column, each of `by`, every two of them."""
    return [(), *((name,) for name in by), *combinations(by, 2)]


def evaluate(
    model: Model,
    data: FaceSet | FeatureSet,
    by: Sequence[str] = (),
    split: Split | None = "test",
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> Evaluation:
    """Scores of every task of a model on a split of a set (None: on all of it), by group, with 95 % intervals.

    by: label columns of the set whose values are groups. Columns of ages in years become age bands. Tables are made of
    each column and of every two; three would leave few faces in a cell. Rows without a label in a column are its group
    `unknown`, which is no candidate for the worst. Shows a progress bar on a terminal.

    Raises ConfigError for photos where the model takes embeddings (or the other way round), for columns named twice
    or like a column of the results; DataError for a split that is empty or has fewer than 20 rows, columns that there
    are not or that hold one value or more than `MOST_GROUPS`, labels that are none of the model's classes, and a set
    without labels of any task.
    """
    model.check(data)
    rows = np.arange(len(data)) if split is None else np.flatnonzero((data.labels["split"] == split).to_numpy())
    if len(rows) < PUBLISHED:
        there = ", ".join(f"{n} {name}" for name, n in data.labels["split"].value_counts().items()) or "no rows"
        raise DataError(
            f"the split {split!r} of this {data.kind} has {len(rows)} rows, and no score is told over fewer than "
            f"{PUBLISHED} faces; the set has {there}. Name another split, or a set with more rows."
        )
    labels = data.labels.iloc[rows]
    columns, orders, notes = grouped(labels, by, model.tasks)
    targets, unscored = _targets(model.tasks, labels)
    tasks = [task for task in model.tasks if task.name in targets]
    counts = [_Counts(task, model.temperatures.get(task.name), orders) for task in tasks]
    with settings.progress(total=len(rows), desc="faces", unit="face") as bar:
        for start in range(0, len(rows), AT_ONCE):
            chunk = slice(start, start + AT_ONCE)
            outputs = model.outputs(data.select(rows[chunk]))
            for each in counts:
                name = each.task.name
                each.add(outputs[name], targets[name][chunk], columns.iloc[chunk])
            bar.update(len(rows[chunk]))
    found = tuple(each.scores(by, n_boot, seed) for each in counts)
    part = next(
        each
        for each in model.about["sets"]
        if [task["name"] for task in each["tasks"]] == [task.name for task in model.tasks]
    )
    notes = [*_seen(part, data, split, labels), *notes, *unscored, *(note for each in counts for note in each.notes())]
    sizes = {name: _sizes(columns[name], order) for name, order in orders.items()}
    learnt, seen = {}, "not known: this is another set than that of the training, and who is in both was not looked at"
    if _same_inputs(part["data"]["sha256"], data):
        seen = {"test": "no; they are of the same set, and were set aside", "train": "yes, all"}.get(
            split or "", "most of them" if split is None else "the best epoch and the temperature were chosen on them"
        )
        train = data.labels[data.labels["split"] == "train"]
        for name in by:
            texts = _texts(train[name], name).fillna(UNKNOWN)
            if texts.nunique() <= MOST_GROUPS:
                learnt[name] = _sizes(texts, _ordered(name, texts.unique(), model.tasks))
    about = {
        **{key: data.manifest[key] for key in TOLD if key in data.manifest},
        **{"kind": data.kind, "shape": list(data.inputs.shape[1:]), "split": split, "rows": len(rows), "seen": seen},
    }
    return Evaluation(model.about, part, about, tuple(by), sizes, learnt, found, tuple(notes))


def _targets(tasks: Sequence[Task], labels: pd.DataFrame) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Targets of the tasks that the labels have columns for and that have scores by group; a note on each other."""
    targets, notes = {}, []
    for task in tasks:
        empty = np.zeros(0)
        if task.both_as("class", empty, empty) is None and task.both_as("number", empty, empty) is None:
            notes.append(f"{task.name} is a {task.kind}, which has no scores by group; it was not scored.")
        elif missing := [name for name in task.columns if name not in labels]:
            notes.append(f"{task.name} was not scored: this set has no labels of it (no column {missing[0]!r}).")
        else:
            try:
                with np.errstate(over="ignore"):  # a number that float32 cannot hold becomes infinite
                    targets[task.name] = task.encode(labels[task.name])
            except DataError as error:
                raise DataError(
                    f"{str(error).rstrip('.')}. The model answers with its own classes: give that label one of their "
                    "names, or leave it empty, and make the set again."
                ) from None
            if targets[task.name].isinf().any():
                row = labels.index[int(targets[task.name].isinf().nonzero()[0])]
                raise DataError(
                    f"row {row}, column {task.name!r}: {str(labels.at[row, task.name])!r} is too large a number; "
                    "correct it or leave it empty, and make the set again."
                )
            if not task.known(targets[task.name]).any():
                notes.append(f"{task.name} was not scored: no row of this split has a label of it.")
                del targets[task.name]
    if not targets:
        there = ", ".join(map(str, labels.columns))
        raise DataError(f"there is nothing to compare the answers with: {' '.join(notes)} The set has {there}.")
    return targets, notes


def grouped(
    labels: pd.DataFrame, by: Sequence[str], tasks: Sequence[Task] = ()
) -> tuple[pd.DataFrame, dict[str, list[str]], list[str]]:
    """The group columns as texts (N, columns), the groups of each in order, and a note where labels are missing.

    Raises as `evaluate`.
    """
    if twice := [name for name in by if list(by).count(name) > 1]:
        raise ConfigError(f"the group column {twice[0]!r} is named twice; name each once.")
    if taken := [name for name in by if name in _OTHER]:
        raise ConfigError(f"{taken[0]!r} is a column of the results; give the group column another name.")
    columns, orders, notes = {}, {}, []
    for name in by:
        if name not in labels:
            raise DataError(f"the set has no column {name!r} to group by; it has {_candidates(labels)}.")
        values = _texts(labels[name].reset_index(drop=True), name)
        seen = values.dropna().unique()
        if len(seen) > MOST_GROUPS:
            numeric = pd.api.types.is_numeric_dtype(labels[name])
            remedy = "cut the numbers into bands" if numeric else "name a column whose values are shared by many faces"
            raise DataError(
                f"column {name!r} has {len(seen)} different values in {len(values)} rows, more than {MOST_GROUPS}: a "
                f"group of a few faces says nothing, and may be one person; {remedy}. The set has "
                f"{_candidates(labels)}."
            )
        if len(seen) < 2:
            only = f"one value only, {str(seen[0])!r}" if len(seen) else "no label at all"
            raise DataError(
                f"column {name!r} has {only} in these {len(values)} rows, so there are no groups to compare; name "
                f"another column or another split. The set has {_candidates(labels)}."
            )
        if missing := int(values.isna().sum()):
            few = missing if missing >= PUBLISHED else f"fewer than {PUBLISHED}"
            notes.append(
                f"{few} of {len(values):,} rows have no label in the column {name}: they are its group {UNKNOWN!r}, "
                "and no candidate for the worst."
            )
            values = values.fillna(UNKNOWN)
        orders[name] = _ordered(name, values.unique(), tasks)
        columns[name] = values
    return pd.DataFrame(columns, index=range(len(labels))), orders, notes


def _texts(values: pd.Series, name: str) -> pd.Series:
    """The groups of a label column as texts, None or NaN where the label is missing."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        values = age_band(values) if name in YEARS else values.map("{:g}".format, na_action="ignore")
    return values.astype(object).map(str, na_action="ignore")


def _candidates(labels: pd.DataFrame) -> str:
    """The label columns that could be group columns."""
    count = {name: column.nunique() for name, column in labels.items() if name not in ("file", "split")}
    found = [str(name) for name, n in count.items() if 2 <= n <= MOST_GROUPS or name in YEARS]
    return ", ".join(found) or "no column of 2 to 50 groups"


def _ordered(name: str, groups: Sequence[str], tasks: Sequence[Task]) -> list[str]:
    """Groups in the order of a task's classes, of ages or of numbers; others by the alphabet; `unknown` is the last."""
    if UNKNOWN in groups:
        return [*_ordered(name, [group for group in groups if group != UNKNOWN], tasks), UNKNOWN]
    known = [task.classes for task in tasks if task.name == name]
    for order in (*known, AGE_BANDS, RACE.classes, GENDER.classes, SKIN_TONE.classes):
        if set(groups) <= set(order):
            return [each for each in order if each in groups]
    try:
        return sorted(groups, key=float)
    except ValueError:
        return sorted(groups)


def _sizes(column: pd.Series, order: Sequence[str]) -> pd.Series:
    """Rows of each group, Int64; missing where they are too few to be told."""
    n = column.value_counts().reindex(order).astype("Int64")
    return n.mask(withheld(n.to_numpy(np.int64)))


def _seen(part: Mapping[str, Any], data: LabelledSet, split: Split | None, labels: pd.DataFrame) -> list[str]:
    """What the training and these rows have to do with each other, and what the rows are."""
    notes = []
    if _same_inputs(part["data"]["sha256"], data):
        said = {
            "train": "The model has learnt from these very rows: its scores here are better than on new faces.",
            "validation": "The best epoch and the temperature were chosen on these very rows: scores on new faces will "
            "be a little lower, and the calibration a little worse.",
            None: "The model has learnt from most of these rows: its scores here are better than on new faces.",
        }
        notes += [said[split]] if split in said else []
    learnt, here = part["framing"], framing(data)
    if learnt.get("backbone") and here["backbone"] and learnt["backbone"] != here["backbone"]:
        notes.append(
            f"These embeddings are those of {here['backbone']}; the model has learnt from those of "
            f"{learnt['backbone']}, whose numbers may mean something else."
        )
    if learnt["how"] == "rendered" and here["how"] != "rendered":
        notes.append("The model has learnt from drawn faces alone, and these are others.")
    elif {learnt["how"], here["how"]} == {"aligned", "whole photo"}:
        notes.append(
            f"The faces here were cut otherwise ({here['how']}) than those that the model has learnt from "
            f"({learnt['how']}): pack these photos in the same way for a fair score."
        )
    if drawn(data.manifest) and isinstance(data, FaceSet):
        notes.append("These faces are drawn by a program and show nobody: the scores say nothing about photos.")
    elif drawn(data.manifest):
        notes.append("These embeddings are drawn from a statistical model, not computed from photos.")
    elif "fairface" in f"{data.manifest.get('name')} {data.manifest.get('source')}".lower() and len(labels) == 1000:
        notes.append(
            "These 1,000 of FairFace's official validation photos are an easy sample for race and a hard one for age: "
            "on its other photos classifiers of race score lower than here, and of age a little higher."
        )
    if "identity" in labels and (people := labels["identity"].nunique()) < len(labels):
        notes.append(
            f"The {len(labels):,} pictures show {people:,} people. Intervals take every picture for another person, so "
            "they are too narrow."
        )
    return notes


def drawn(about: Mapping[str, Any]) -> bool:
    """Whether a program has drawn a set, by its manifest or what a model says of it."""
    return "generator" in about or "drawn_with_seed" in about


def _same_inputs(trained: Mapping[str, str], data: LabelledSet) -> bool:
    """Whether the inputs of a set are those of a training, by their hash."""
    if "inputs" in trained:
        return trained["inputs"] == data.content_hash()
    files = data.manifest.get("files", {})
    return trained.get("inputs.npy") == files.get("inputs.npy", {}).get("sha256", "")


class _Counts:
    """Counts of one task by group, with the stored temperature and without it."""

    def __init__(self, task: Task, temperature: float | None, orders: Mapping[str, Sequence[str]]) -> None:
        self.task, self.temperature, self.orders = task, temperature, orders
        self.after, self.before = GroupCounts(task, orders), GroupCounts(task, orders)

    def add(self, outputs: torch.Tensor, targets: torch.Tensor, groups: pd.DataFrame) -> None:
        """Adds rows; raises DataError for outputs that are not finite."""
        said = self.task.predict(outputs)
        if not (outputs.isfinite().all() and said.isfinite().all()):
            raise DataError(
                f"the outputs of {self.task.name!r} are not finite: the model is broken, or its inputs are; train "
                "again or repair them."
            )
        if not self.task.softmax:
            self.after.add(said, targets, groups)
            return
        self.after.add(said, targets, groups, temperature_scaled(outputs, self.temperature or 1.0))
        if self.temperature is not None:
            self.before.add(said, targets, groups, temperature_scaled(outputs, 1.0))

    def notes(self) -> Iterator[str]:
        """What is to be said of this task's labels and probabilities."""
        if self.task.classes and self.task.labelled == "class":
            n = self.after.confusion().sum(axis=1)
            if absent := [name for name in self.task.classes if not n[name]]:
                yield (
                    f"{self.task.name}: no face here is labelled {' or '.join(absent)}, so nothing can be said of "
                    "them, and the balanced accuracy is the mean over the other classes."
                )
        if self.task.softmax and self.temperature is None:
            yield f"{self.task.name} has no temperature: its probabilities are as the network gives them."

    def scores(self, by: Sequence[str], n_boot: int, seed: int) -> TaskScores:
        """Everything that may be shown of the counts."""
        parts: list[pd.DataFrame] = []
        worst: list[pd.DataFrame] = []
        for names in tables_of(by):
            # No calibration by two columns together: an error of it says little of small cells (it is above 0 even for
            # perfect probabilities), and takes longer than all other scores together.
            asked = [name for name in parts[0]["metric"].unique() if name in COUNTED] if len(names) > 1 else None
            table = self.after.scores(names, asked, n_boot=n_boot, seed=seed)
            if self.temperature is not None and self.task.softmax and asked is None:
                raw = self.before.scores(names, ["calibration_error"], n_boot=n_boot, seed=seed)
                table = pd.concat([table, raw.assign(metric=BEFORE)], ignore_index=True)
            order = [name for name in METRICS if (table["metric"] == name).any()]
            table = pd.concat([table[table["metric"] == name] for name in order], ignore_index=True)
            main = "accuracy" if "accuracy" in order else "mae"
            n = table.loc[table["metric"] == main, "n"].to_numpy()
            blank = withheld(n.reshape([len(self.orders[name]) for name in names])).ravel() if names else n < PUBLISHED
            cells = [tuple(cell) for cell in table.loc[table["metric"] == main, list(names)].to_numpy()]
            table = _published(table, np.tile(blank, len(order)))
            parts.append(table.assign(**{name: None for name in by if name not in names}))
            if names:
                out = [cell for cell, each in zip(cells, blank, strict=True) if each or UNKNOWN in cell]
                found = self.after.worst(names, [main], n_boot=n_boot, seed=seed, without=out)
                worst.append(found.assign(by=" × ".join(names)))
        columns = ["metric", *by, "n", "shown", "value", "low", "high", "small"]
        return TaskScores(
            self.task,
            self.temperature if self.task.softmax else None,
            pd.concat([part[columns] for part in parts], ignore_index=True),
            pd.concat(worst, ignore_index=True) if worst else pd.DataFrame(),
            self._confusion() if self.task.classes and self.task.labelled == "class" else None,
            self._reliability(),
        )

    def _confusion(self) -> pd.DataFrame:
        counts = self.after.confusion()
        n = counts.sum(axis=1)
        shares = counts.div(n.where(n > 0), axis=0)
        blank = withheld(n.to_numpy())
        shares[blank] = np.nan
        return pd.concat([n.astype("Int64").mask(blank).rename("n"), shares], axis=1)

    def _reliability(self) -> dict[str, pd.DataFrame]:
        if not self.task.softmax:
            return {}
        counts = {"after": self.after} | ({"before": self.before} if self.temperature is not None else {})
        return {name: _joined(each.calibration_curve()) for name, each in counts.items()}


def _published(table: pd.DataFrame, blank: np.ndarray) -> pd.DataFrame:
    """A table of scores without what stays blank (N,), and a column `shown` that says of these rows why."""
    few = (table["n"] < PUBLISHED).to_numpy()
    table = table.assign(n=table["n"].astype("Int64"), shown=np.where(few, FEW, np.where(blank, BLANK, "")))
    table.loc[blank, "n"] = pd.NA
    table.loc[blank, ["value", "low", "high"]] = np.nan
    return table


def _joined(curve: pd.DataFrame) -> pd.DataFrame:
    """A reliability curve whose neighbouring bins are put together until each has `PUBLISHED` faces."""
    joined, sums = [], np.zeros(3)
    for bin in curve.fillna(0.0).itertuples(index=False):
        sums += bin.n, bin.n * bin.confidence, bin.n * bin.accuracy
        if sums[0] >= PUBLISHED:
            joined.append(sums)
            sums = np.zeros(3)
    if joined:
        joined[-1] = joined[-1] + sums
    table = pd.DataFrame(np.reshape(joined, (-1, 3)), columns=["n", "confidence", "accuracy"])
    return table.assign(confidence=table["confidence"] / table["n"], accuracy=table["accuracy"] / table["n"])
