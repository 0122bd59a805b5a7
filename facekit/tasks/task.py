"""What is predicted: the label column, and the kind in which it is asked, found in a table.

Targets are one tensor per task: int64 class indices with -1 where the label is missing, or float32 with NaN
where it is missing; of boxes float32 (N, 4), of texts int64 (N, L), padded with -1. A missing label never contributes
to a loss (`Task.loss` masks it).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facekit.errors import ConfigError, DataError
from facekit.tasks.later import torch

MISSING = -1
KINDS: dict[str, Kind] = {}
Pair = tuple[np.ndarray, np.ndarray]


class Kind:
    """What a kind of task makes of labels, outputs and scores: one object, the same for all tasks of the kind.

    A new kind is a subclass with a name, in a file of its own in this folder, and nothing else:
    `class Counts(Kind, name="count")`. It says `encode`, `losses`, `predict`, `constant` and at least one of `scores`,
    `as_classes` and `as_numbers`; the rest is as for classes without order unless it says otherwise. torch comes
    from `later`. The methods that `Task` has too are described there.
    """

    needs_classes = True  # at least two different ones
    softmax = False  # the outputs are the scores of classes, one of which is right
    argmax = False  # and the prediction is the class with the highest
    needs_map = False  # the answer depends on where things are, which a mean over the picture forgets

    def __init_subclass__(cls, name: str = "") -> None:
        """Enters the kind into the table; without a name it is a base of others."""
        if name:
            KINDS[name] = cls()

    def check(self, task: Task) -> None:
        """Raises ConfigError for a task that cannot be asked in this way."""

    def n_outputs(self, task: Task) -> int:
        return len(task.classes)

    def columns(self, task: Task) -> tuple[str, ...]:
        return (task.name,)

    def encode(self, task: Task, labels: Any) -> torch.Tensor:
        """labels: the task's column, or the table for a kind of several columns."""
        raise NotImplementedError

    def known(self, task: Task, targets: torch.Tensor) -> torch.Tensor:
        known = ~targets.isnan() if targets.is_floating_point() else targets != MISSING
        return known if known.ndim == 1 else known[:, 0]  # a label of several numbers is missing as a whole

    def losses(self, task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of every row (N,), 0 or more. That of a missing label is not used, but its gradient must be finite."""
        raise NotImplementedError

    def predict(self, task: Task, outputs: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def constant(self, task: Task, targets: torch.Tensor) -> torch.Tensor:
        """targets: known ones, at least one."""
        raise NotImplementedError

    def blind_loss(self, task: Task, targets: torch.Tensor) -> float:
        """targets: known ones, at least one."""
        return task.loss(task.constant(targets).expand(len(targets), -1), targets).item()

    def scores(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of this kind alone, by name: of every row a score (N,), NaN where its label is missing: their mean.

        Or two numbers of every row (N, 2), the second 0 where the label is missing: the metric is the ratio of their
        sums. Raises DataError for shapes that do not fit.
        """
        return {}

    def as_classes(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        """Both (N,) as class indices, -1 where missing, to be counted as right or wrong; None if they are none."""
        return None

    def as_numbers(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        """Both (N,) as numbers in the label's unit, NaN where missing, for an absolute error; None if they are none."""
        return None

    def layer(self, task: Task, in_features: int) -> torch.nn.Module:
        return torch.nn.Linear(in_features, task.n_outputs)

    def head(self, task: Task, channels: int) -> torch.nn.Module:
        from facekit.tasks.heads import PooledHead

        return PooledHead(self.layer(task, channels))


@cache
def _find_kinds() -> None:
    """Imports the files of this folder, each of which enters its kind into the table; `heads` alone loads torch."""
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if file.name != "heads":
            importlib.import_module(f"{__package__}.{file.name}")


@dataclass(frozen=True)
class Task:
    """One thing to predict from a picture.

    name: the label column, of a box the beginning of its four columns' names (see `columns`). classes: the label texts
    in order. midpoints: for classes that are bands of a number (age bands), the number that stands for each band, in
    the number's unit, so that a mean absolute error can be computed. scale: divisor for regression targets. kind: how
    it is asked, a name in `KINDS`, each described in a file of this folder: `multiclass`, `ordinal`, `expectation`,
    `regression`, `box`, `string`. The same labels can be asked in several ways:
    `dataclasses.replace(AGE_BAND, kind="ordinal")`.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    midpoints: tuple[float, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        _find_kinds()
        if self.kind not in KINDS:
            raise ConfigError(f"task {self.name!r}: unknown kind {self.kind!r}; use {', '.join(KINDS)}.")
        if self.rules.needs_classes and len(set(self.classes)) != max(len(self.classes), 2):
            raise ConfigError(f"task {self.name!r}: needs at least two different classes, got {self.classes}.")
        if self.midpoints and len(self.midpoints) != len(self.classes):
            raise ConfigError(f"task {self.name!r}: {len(self.midpoints)} midpoints for {len(self.classes)} classes.")
        self.rules.check(self)

    @property
    def rules(self) -> Kind:
        """The kind of the task, an object."""
        return KINDS[self.kind]

    @property
    def n_outputs(self) -> int:
        """Length of the output vector that a head must produce; of a text, at each of its positions."""
        return self.rules.n_outputs(self)

    @property
    def columns(self) -> tuple[str, ...]:
        """The label columns: the name, or `<name>_left`, `_top`, `_right` and `_bottom` of a box."""
        return self.rules.columns(self)

    def encode(self, labels: pd.Series | pd.DataFrame) -> torch.Tensor:
        """Label column (N,) to targets (N,): int64 with -1 for missing, or float32 with NaN for missing.

        A box takes a table with its four columns and gives (N, 4), a text gives (N, L). Raises DataError naming the
        first row whose label is neither missing nor known.
        """
        return self.rules.encode(self, labels)

    def known(self, targets: torch.Tensor) -> torch.Tensor:
        """Boolean mask (N,): which targets are not missing."""
        return self.rules.known(self, targets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over the known targets, a scalar; exactly 0 (with a gradient of 0) where none is known.

        outputs: (N, n_outputs), of a text (N, positions, n_outputs), any floating dtype; computed in float32 at least.
        No host synchronisation (but CTC's own, on a GPU).
        """
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # bf16 goes up, float64 stays
        known, each = self.known(targets), self.rules.losses(self, outputs, targets)
        # where, not a product: the loss of a row without a label may be infinite or NaN, and 0 * inf is NaN.
        return torch.where(known, each, torch.zeros_like(each)).sum() / known.sum().clamp_min(1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """(N, n_outputs) to (N,): class indices (int64), or numbers in the label's own unit (float32).

        A box becomes (N, 4), in order and inside the picture; a text its characters' indices (N, positions), padded
        with -1, by greedy decoding (`texts.beam_search` looks further; `texts` makes strings of either).
        """
        return self.rules.predict(self, outputs)

    def texts(self, indices: torch.Tensor) -> list[str]:
        """Predictions or targets (N, L) of a text as strings; a missing one is empty."""
        return ["".join(self.classes[i] for i in row if i != MISSING) for row in indices.tolist()]

    def constant(self, targets: torch.Tensor) -> torch.Tensor:
        """The outputs (n_outputs,), float32, that fit the known targets (N,) best without a look at the faces.

        Log frequencies of the classes (their loss is the entropy of the labels), log odds of being above each class,
        or the median (of a box, of each side); classes that do not occur count as a thousandth of a label. Raises
        DataError without any label, ConfigError for texts, which no constant row of scores can spell.
        """
        return self.rules.constant(self, self._labelled(targets))

    def blind_loss(self, targets: torch.Tensor) -> float:
        """Loss of the best answer without a look at the pictures: that of `constant`; the same in all but texts.

        Of a text, the nats that its characters take at their frequencies. Raises DataError without any label.
        """
        return self.rules.blind_loss(self, self._labelled(targets))

    def layer(self, in_features: int) -> torch.nn.Module:
        """The last layer of a network, from features (N, in_features) to outputs (N, n_outputs)."""
        return self.rules.layer(self, in_features)

    def head(self, channels: int) -> torch.nn.Module:
        """A module from maps (N, channels, H, W) to outputs; most kinds take an embedding (N, channels) as well."""
        return self.rules.head(self, channels)

    def _labelled(self, targets: torch.Tensor) -> torch.Tensor:
        """The known targets; raises DataError if there is none."""
        found = targets[self.known(targets)]
        if not len(found):
            raise DataError(f"no row has a label for {self.name!r}; at least one is needed.")
        return found


@dataclass(frozen=True)
class Joint:
    """Several tasks asked as one question, with a class for every combination of their classes.

    A joint task can learn that two answers depend on each other, which heads side by side cannot; it has as many
    classes as the product of the parts', each with fewer examples, and a row counts only when all its labels are known.
    parts: tasks with a softmax (multiclass or expectation), at least two.
    """

    parts: tuple[Task, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        names = [part.name for part in self.parts]
        if len(names) < 2 or len(set(names)) != len(names):
            raise ConfigError(f"a joint task needs two or more different parts, got {names}.")
        if odd := [part.name for part in self.parts if not part.rules.softmax]:
            raise ConfigError(f"only tasks with a softmax over classes can be joined; {', '.join(odd)} has none.")

    @property
    def task(self) -> Task:
        """The joint task; its column is called after the parts, `gender_age`, its classes are `Male, 0-2` and so on."""
        classes = [", ".join(combination) for combination in product(*(part.classes for part in self.parts))]
        return Task("_".join(part.name for part in self.parts), "multiclass", tuple(classes))

    def add_to(self, labels: pd.DataFrame) -> pd.DataFrame:
        """A copy of the label table with the joint task's column, missing (None) where any part is missing.

        Raises DataError as `encode_all` does.
        """
        codes = [targets.numpy() for targets in encode_all(self.parts, labels).values()]
        known = np.min(codes, axis=0) != MISSING
        sizes = [len(part.classes) for part in self.parts]
        index = np.ravel_multi_index([np.maximum(code, 0) for code in codes], sizes)
        texts = np.array(self.task.classes, object)[index]
        texts[~known] = None
        return labels.assign(**{self.task.name: texts})

    def marginals(self, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of the joint task (N, classes) to outputs of each part, by name: log probabilities (N, its classes).

        A part's probability is the sum over the combinations that contain it; `Task.loss` and `Task.predict` of the
        part take these outputs as they take a head's.
        """
        table = outputs.float().log_softmax(1).unflatten(1, [len(part.classes) for part in self.parts])
        axes = range(1, len(self.parts) + 1)
        return {
            part.name: table.logsumexp([axis for axis in axes if axis != own])
            for own, part in zip(axes, self.parts, strict=True)
        }


def check_labels(task: Task, labels: pd.Series, known: np.ndarray, wanted: str) -> None:
    """Raises DataError naming the first row whose label is neither `known` (N,) nor empty. wanted: what is expected."""
    bad = ~known & labels.notna().to_numpy()
    if bad.any():
        row, label = labels.index[bad][0], labels[bad].iloc[0]
        raise DataError(f"row {row}, column {task.name!r}: unknown label {label!r}; expected {wanted}, or empty.")


def encode_all(tasks: Sequence[Task], labels: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Targets of every task, by name; raises DataError if a label column is missing."""
    for task in tasks:
        for column in task.columns:
            if column not in labels:
                raise DataError(f"no label column {column!r}; the table has {', '.join(map(str, labels.columns))}.")
    return {task.name: task.encode(labels[task.name] if task.columns == (task.name,) else labels) for task in tasks}
