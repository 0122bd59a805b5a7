"""What is predicted: the label column, and the kind in which it is asked, found in a table.

Targets are one tensor per task: int64 class indices with -1 where the label is missing, or float32 with NaN
where it is missing; of boxes float32 (N, 4), of texts int64 (N, L), padded with -1. A missing label never contributes
to a loss (`Task.loss` masks it).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from facekit.errors import ConfigError, DataError


class _Later:
    """A module that is loaded when something in it is asked for."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


# torch takes seconds to load: the kinds import it from here, so what only reads or draws labels never loads it.
if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F

    from facekit.tasks import heads
else:
    torch, F, heads = map(_Later, ("torch", "torch.nn.functional", "facekit.tasks.heads"))

MISSING = -1
KINDS: dict[str, type[Task]] = {}


@cache
def _find_kinds() -> None:
    """Imports the files of this folder, each of which enters its kind into the table; `heads` alone loads torch."""
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        if file.stem != "heads":
            importlib.import_module(f"{__package__}.{file.stem}")


@dataclass(frozen=True)
class Task:
    """One thing to predict from a picture.

    name: the label column, of a box the beginning of its four columns' names (see `columns`). classes: the label texts
    in order. midpoints: for classes that are bands of a number (age bands), the number that stands for each band, in
    the number's unit, so that a mean absolute error can be computed. scale: divisor for regression targets. kind: how
    it is asked, a name in `KINDS`, each described in a file of this folder: `multiclass`, `ordinal`, `expectation`,
    `regression`, `box`, `string`. The same labels can be asked in several ways:
    `dataclasses.replace(AGE_BAND, kind="ordinal")`.

    A new kind is a subclass with a name, in a file of its own in this folder, and nothing else:
    `class Counts(Task, kind="count")`. It has `encode`, `losses`, `predict`, `best` and says of its predictions and
    labels whether they are classes or numbers, or has `scores`; the rest is as for classes without order unless it says
    otherwise. torch comes from this file.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    midpoints: tuple[float, ...] = ()
    scale: float = 1.0

    # What kinds differ in. Predictions and labels are "class" (indices), "number" (in the label's unit) or neither.
    predicted = labelled = ""
    needs_classes = True  # at least two different ones
    softmax = False  # the outputs are the scores of classes, one of which is right
    argmax = False  # and the prediction is the class with the highest
    needs_map = False  # the answer depends on where things are, which a mean over the picture forgets
    spoiled_by: ClassVar[tuple[str, ...]] = ()  # parts of `Augment` after which the label is wrong

    def __init_subclass__(cls, kind: str) -> None:
        """Enters the kind into the table."""
        KINDS[kind] = cls

    def __post_init__(self) -> None:
        _find_kinds()
        if self.kind not in KINDS:
            raise ConfigError(f"task {self.name!r}: unknown kind {self.kind!r}; use {', '.join(KINDS)}.")
        # Here, where `dataclasses.replace` comes by as well: it makes a task of the old class with the new kind's name.
        object.__setattr__(self, "__class__", KINDS[self.kind])
        if self.needs_classes and len(set(self.classes)) != max(len(self.classes), 2):
            raise ConfigError(f"task {self.name!r}: needs at least two different classes, got {self.classes}.")
        if self.midpoints and len(self.midpoints) != len(self.classes):
            raise ConfigError(f"task {self.name!r}: {len(self.midpoints)} midpoints for {len(self.classes)} classes.")
        self.check()

    def check(self) -> None:
        """Raises ConfigError for a task that cannot be asked in this way."""

    @property
    def n_outputs(self) -> int:
        """Length of the output vector that a head must produce; of a text, at each of its positions."""
        return len(self.classes)

    @property
    def columns(self) -> tuple[str, ...]:
        """The label columns: the name, or `<name>_left`, `_top`, `_right` and `_bottom` of a box."""
        return (self.name,)

    def encode(self, labels: Any) -> torch.Tensor:
        """Label column (N,), a Series, to targets (N,): int64 with -1 for missing, or float32 with NaN for missing.

        A box takes a table with its four columns and gives (N, 4), a text gives (N, L). Raises DataError naming the
        first row whose label is neither missing nor known.
        """
        raise NotImplementedError

    def check_labels(self, labels: pd.Series, known: np.ndarray, wanted: str) -> None:
        """Raises DataError naming the first row whose label is neither `known` (N,) nor empty; `wanted` is expected."""
        bad = ~known & labels.notna().to_numpy()
        if bad.any():
            row, label = labels.index[bad][0], labels[bad].iloc[0]
            raise DataError(f"row {row}, column {self.name!r}: unknown label {label!r}; expected {wanted}, or empty.")

    def known(self, targets: torch.Tensor) -> torch.Tensor:
        """Boolean mask (N,): which targets are not missing."""
        known = ~targets.isnan() if targets.is_floating_point() else targets != MISSING
        return known if known.ndim == 1 else known[:, 0]  # a label of several numbers is missing as a whole

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over the known targets, a scalar; exactly 0 (with a gradient of 0) where none is known.

        outputs: (N, n_outputs), of a text (N, positions, n_outputs), any floating dtype; computed in float32 at least.
        No host synchronisation (but CTC's own, on a GPU).
        """
        known, each = self.known_losses(outputs, targets)
        return each.sum() / known.sum().clamp_min(1)

    def known_losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which targets are known, a mask (N,), and the loss of every row (N,), 0 where none is; see `loss`."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # bf16 goes up, float64 stays
        known, each = self.known(targets), self.losses(outputs, targets)
        # where, not a product: the loss of a row without a label may be infinite or NaN, and 0 * inf is NaN.
        return known, torch.where(known, each, torch.zeros_like(each))

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of every row (N,), 0 or more. That of a missing label is not used, but its gradient must be finite."""
        raise NotImplementedError

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """(N, n_outputs) to (N,): class indices (int64), or numbers in the label's own unit (float32).

        A box becomes (N, 4), in order and inside the picture; a text its characters' indices (N, positions), padded
        with -1, by greedy decoding (`texts.beam_search` looks further; `texts` makes strings of either).
        """
        raise NotImplementedError

    def decode(self, predictions: torch.Tensor) -> dict[str, list]:
        """Predictions (N, …) as a label table says them, column to N values: texts of classes, or numbers.

        The way back from `encode`; a missing one is None.
        """
        if self.predicted == "class":
            return {self.name: [self.classes[i] if i != MISSING else None for i in predictions.tolist()]}
        return {self.name: [None if value != value else value for value in predictions.tolist()]}

    def texts(self, indices: torch.Tensor) -> list[str]:
        """Predictions or targets (N, L) of a text as strings; a missing one is empty."""
        return ["".join(self.classes[i] for i in row if i != MISSING) for row in indices.tolist()]

    def constant(self, targets: torch.Tensor) -> torch.Tensor:
        """The outputs (n_outputs,), float32, that fit the known targets (N,) best without a look at the faces.

        Log frequencies of the classes (their loss is the entropy of the labels), log odds of being above each class,
        or the median (of a box, of each side); classes that do not occur count as a thousandth of a label. Raises
        DataError without any label, ConfigError for texts, which no constant row of scores can spell.
        """
        return self.best(self._found(targets))

    def best(self, targets: torch.Tensor) -> torch.Tensor:
        """`constant` of known targets, at least one."""
        raise NotImplementedError

    def blind_loss(self, targets: torch.Tensor) -> float:
        """Loss of the best answer without a look at the pictures: that of `constant`; the same in all but texts.

        Of a text, the nats that its characters take at their frequencies. Raises DataError without any label.
        """
        found = self._found(targets)
        return self.loss(self.best(found).expand(len(found), -1), found).item()

    def _found(self, targets: torch.Tensor) -> torch.Tensor:
        """The known targets; raises DataError if there is none."""
        found = targets[self.known(targets)]
        if not len(found):
            raise DataError(f"no row has a label for {self.name!r}; at least one is needed.")
        return found

    def scores(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of this kind alone, by name: of every row a score (N,), NaN where its label is missing: their mean.

        Or two numbers of every row (N, 2), the second 0 where the label is missing: the metric is the ratio of their
        sums. Raises DataError for shapes that do not fit.
        """
        return {}

    def both_as(self, what: str, predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Both (N,) as "class" (indices, -1 where missing) or "number" (in the label's unit, NaN where missing).

        None for a task whose predictions or labels are neither that nor turned into it by midpoints.
        """
        sides = (self.predicted, predictions), (self.labelled, targets)
        if not self.predicted or not self.midpoints and {self.predicted, self.labelled} != {what}:
            return None
        turn = {"class": nearest_class, "number": middles}[what]
        one, other = (values if form == what else turn(self.midpoints, values) for form, values in sides)
        return one, other

    def layer(self, in_features: int) -> torch.nn.Module:
        """The last layer of a network, from features (N, in_features) to outputs (N, n_outputs)."""
        return torch.nn.Linear(in_features, self.n_outputs)

    def head(self, channels: int) -> torch.nn.Module:
        """A module from maps (N, channels, H, W) to outputs; most kinds take an embedding (N, channels) as well."""
        return heads.PooledHead(self.layer(channels))


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
        if odd := [part.name for part in self.parts if not part.softmax]:
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


def nearest_class(midpoints: Sequence[float], numbers: np.ndarray) -> np.ndarray:
    """Numbers, of any shape, to the indices of the nearest midpoints, int64; -1 for NaN."""
    numbers = np.asarray(numbers, np.float64)
    distance = np.abs(numbers[..., None] - np.asarray(midpoints, np.float64))
    return np.where(np.isnan(numbers), MISSING, distance.argmin(-1))


def middles(midpoints: Sequence[float], classes: np.ndarray) -> np.ndarray:
    """Class indices to their midpoints, float64; NaN for -1."""
    found = np.asarray(midpoints, np.float64)[np.maximum(classes, 0).astype(np.int64)]
    return np.where(classes >= 0, found, np.nan)


def encode_all(tasks: Sequence[Task], labels: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Targets of every task, by name; raises DataError if a label column is missing."""
    if missing := [column for task in tasks for column in task.columns if column not in labels]:
        raise DataError(f"no label column {missing[0]!r}; the table has {', '.join(map(str, labels.columns))}.")
    return {task.name: task.encode(labels[task.name] if task.columns == (task.name,) else labels) for task in tasks}
