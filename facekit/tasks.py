"""What is predicted: the label column, how it becomes a target, its loss, and how outputs become predictions.

Targets are one tensor per task: int64 class indices with -1 where the label is missing, or float32 with NaN
where it is missing. A missing label never contributes to a loss (`Task.loss` masks it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from facekit.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch  # inside the methods, too: what only reads or draws labels must not wait for it

Kind = Literal["multiclass", "ordinal", "expectation", "regression"]
KINDS: tuple[Kind, ...] = ("multiclass", "ordinal", "expectation", "regression")
MISSING = -1


@dataclass(frozen=True)
class Task:
    """One thing to predict from a face.

    name: the label column. classes: the label texts in order. midpoints: for classes that are bands of a number (age
    bands), the number that stands for each band, in the number's unit, so that a mean absolute error can be computed.
    scale: divisor for regression targets. kind, how it is asked:

    - `multiclass`: softmax over `classes`, which have no order; two classes are the binary case.
    - `ordinal`: is the label above the first class, above the second, …? CORAL (Cao, Mirjalili & Raschka 2020,
      1901.07884): K - 1 yes-no questions with one common weight vector and a bias each, so that at the
      minimum no answer contradicts another; the prediction is the class whose rank is the number of yeses.
    - `expectation`: softmax over `classes` as above, but the prediction is the mean of `midpoints` under it, a number.
      DEX (Rothe, Timofte & Van Gool 2018).
    - `regression`: one number, Huber loss on the label divided by `scale`; with classes and midpoints a label that is
      a band counts as its midpoint.

    The same labels can be asked in several ways: `dataclasses.replace(AGE_BAND, kind="ordinal")`.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()
    midpoints: tuple[float, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"task {self.name!r}: unknown kind {self.kind!r}; use {', '.join(KINDS)}.")
        if self.kind != "regression" and len(set(self.classes)) != max(len(self.classes), 2):
            raise ConfigError(f"task {self.name!r}: needs at least two different classes, got {self.classes}.")
        if self.midpoints and len(self.midpoints) != len(self.classes):
            raise ConfigError(f"task {self.name!r}: {len(self.midpoints)} midpoints for {len(self.classes)} classes.")
        if self.kind == "expectation" and not self.midpoints:
            raise ConfigError(f"task {self.name!r}: an expectation is taken over midpoints; give one for each class.")

    @property
    def n_outputs(self) -> int:
        """Length of the output vector that a head must produce."""
        if self.kind == "regression":
            return 1
        return len(self.classes) - (self.kind == "ordinal")

    def encode(self, labels: pd.Series) -> torch.Tensor:
        """Label column (N,) to targets (N,): int64 with -1 for missing, or float32 with NaN for missing.

        Ordinal tasks and expectations also take numbers, which become the class with the nearest midpoint. Raises
        DataError naming the first row whose label is neither missing nor known.
        """
        import torch

        if self.kind == "regression":
            numbers = dict(zip(self.classes, self.midpoints, strict=False))  # bands, if it has any
            values = pd.to_numeric(labels.map(lambda label: numbers.get(label, label)), errors="coerce")
            bad = values.isna() & labels.notna()
            targets = torch.from_numpy(values.to_numpy(np.float32, copy=True))
        else:
            codes = pd.Index(self.classes, dtype=object).get_indexer(labels.astype(object))
            if self.kind != "multiclass" and self.midpoints:
                numbers = pd.to_numeric(labels.astype(object), errors="coerce").to_numpy(np.float64)
                codes = np.where(codes == MISSING, nearest_class(self.midpoints, numbers), codes)
            bad = pd.Series(codes == MISSING, index=labels.index) & labels.notna()
            targets = torch.from_numpy(codes.astype(np.int64))
        if bad.any():
            row = bad.idxmax()
            wanted = "a number" if self.kind == "regression" else f"one of {', '.join(self.classes)}"
            raise DataError(
                f"row {row}, column {self.name!r}: unknown label {labels[row]!r}; expected {wanted}, or empty."
            )
        return targets

    def known(self, targets: torch.Tensor) -> torch.Tensor:
        """Boolean mask (N,): which targets are not missing."""
        return ~targets.isnan() if self.kind == "regression" else targets != MISSING

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over the known targets, a scalar; exactly 0 (with a gradient of 0) where none is known.

        outputs: (N, n_outputs), any floating dtype; computed in float32 at least. No host synchronisation.
        """
        import torch
        import torch.nn.functional as F

        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # bf16 goes up, float64 stays
        known = self.known(targets)
        if self.kind == "regression":
            safe = torch.where(known, targets, torch.zeros_like(targets)).to(outputs.dtype) / self.scale
            each = F.huber_loss(outputs.squeeze(1), safe, reduction="none")
        elif self.kind == "ordinal":
            above = (targets[:, None] > torch.arange(self.n_outputs, device=targets.device)).to(outputs.dtype)
            each = F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(1)
        else:
            each = F.cross_entropy(outputs, targets.clamp_min(0), reduction="none")
        # where, not a product: the loss of a row without a label may be infinite or NaN, and 0 * inf is NaN.
        return torch.where(known, each, torch.zeros_like(each)).sum() / known.sum().clamp_min(1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """(N, n_outputs) to (N,): class indices (int64), or numbers in the label's own unit (float32)."""
        if self.kind == "multiclass":
            return outputs.argmax(1)
        if self.kind == "ordinal":
            return (outputs > 0).sum(1)
        if self.kind == "expectation":
            return outputs.float().softmax(1) @ outputs.new_tensor(self.midpoints).float()
        return outputs.squeeze(1).float() * self.scale

    def constant(self, targets: torch.Tensor) -> torch.Tensor:
        """The outputs (n_outputs,), float32, that fit the known targets (N,) best without a look at the faces.

        Log frequencies of the classes (their loss is the entropy of the labels), log odds of being above each class,
        or the median; classes that do not occur count as a thousandth of a label. Raises DataError without any label.
        """
        import torch

        targets = targets[self.known(targets)]
        if not len(targets):
            raise DataError(f"no row has a label for {self.name!r}; at least one is needed.")
        if self.kind == "regression":
            return targets.float().median().view(1) / self.scale
        counts = torch.bincount(targets, minlength=len(self.classes)).float()
        if self.kind != "ordinal":
            return counts.clamp_min(1e-3).log()
        above = len(targets) - counts.cumsum(0)[:-1]
        return above.clamp_min(1e-3).log() - (len(targets) - above).clamp_min(1e-3).log()


def nearest_class(midpoints: Sequence[float], numbers: np.ndarray) -> np.ndarray:
    """Numbers (N,) to the indices of the nearest midpoints, int64; -1 for NaN."""
    numbers = np.asarray(numbers, np.float64)
    distance = np.abs(numbers[:, None] - np.asarray(midpoints, np.float64))
    return np.where(np.isnan(numbers), MISSING, distance.argmin(1))


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
        if odd := [part.name for part in self.parts if part.kind not in ("multiclass", "expectation")]:
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
        return labels.assign(**{self.task.name: np.where(known, texts, None)})

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


AGE_BANDS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")

# FairFace's columns (Kärkkäinen & Joo, WACV 2021): labels as annotators perceived them.
GENDER = Task("gender", "multiclass", ("Male", "Female"))
RACE = Task("race", "multiclass", RACES)
AGE_BAND = Task("age", "multiclass", AGE_BANDS, midpoints=(1, 6, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 75))


def encode_all(tasks: Sequence[Task], labels: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Targets of every task, by name; raises DataError if a label column is missing."""
    for task in tasks:
        if task.name not in labels:
            raise DataError(f"no label column {task.name!r}; the table has {', '.join(map(str, labels.columns))}.")
    return {task.name: task.encode(labels[task.name]) for task in tasks}


def age_band(years: pd.Series) -> pd.Series:
    """Ages in years to FairFace's nine bands (text); missing stays missing."""
    edges = [-np.inf, 3, 10, 20, 30, 40, 50, 60, 70, np.inf]
    return pd.cut(years, edges, right=False, labels=AGE_BANDS).astype(object)


# Rendered portraits have a skin tone (Monk scale, 10 steps), never a race; the error is counted in steps.
SKIN_TONE = Task("skin_tone", "multiclass", tuple(str(step) for step in range(1, 11)), midpoints=tuple(range(1, 11)))


def age_in_years(kind: Kind = "expectation", oldest: int = 100, name: str = "age_years") -> Task:
    """Age in years: a class for every year from 0 to `oldest` (older counts as `oldest`), or a regression in decades.

    As an expectation it is DEX with its 101 classes (Rothe et al. 2018).
    """
    years = range(oldest + 1)
    if kind == "regression":
        return Task(name, kind, scale=10.0)
    return Task(name, kind, tuple(map(str, years)), tuple(map(float, years)))
