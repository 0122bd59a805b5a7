"""What is predicted: the label column, how it becomes a target, its loss, and how outputs become predictions.

Targets are one tensor per task: int64 class indices with -1 where the label is missing, or float32 with NaN
where it is missing. A missing label never contributes to a loss (`Task.loss` masks it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from facekit.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch  # inside the methods, too: what only reads or draws labels must not wait for it

Kind = Literal["multiclass", "regression"]
MISSING = -1


@dataclass(frozen=True)
class Task:
    """One thing to predict from a face.

    name: the label column. kind: `multiclass` (softmax over `classes`; two classes are the binary case) or
    `regression` (one number, Huber loss on the label divided by `scale`). classes: the label texts in order.
    midpoints: for classes that are bands of a number (age bands), the number that stands for each band, in the
    number's unit, so that a mean absolute error can be computed. scale: divisor for regression targets.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()
    midpoints: tuple[float, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("multiclass", "regression"):
            raise ConfigError(f"task {self.name!r}: unknown kind {self.kind!r}; use multiclass or regression.")
        if self.kind == "multiclass" and len(set(self.classes)) != max(len(self.classes), 2):
            raise ConfigError(f"task {self.name!r}: needs at least two different classes, got {self.classes}.")
        if self.midpoints and len(self.midpoints) != len(self.classes):
            raise ConfigError(f"task {self.name!r}: {len(self.midpoints)} midpoints for {len(self.classes)} classes.")

    @property
    def n_outputs(self) -> int:
        """Length of the output vector that a head must produce."""
        return len(self.classes) if self.kind == "multiclass" else 1

    def encode(self, labels: pd.Series) -> torch.Tensor:
        """Label column (N,) to targets (N,): int64 with -1 for missing, or float32 with NaN for missing.

        Raises DataError naming the first row whose label is neither missing nor known.
        """
        import torch

        if self.kind == "regression":
            values = pd.to_numeric(labels, errors="coerce")
            bad = values.isna() & labels.notna()
            targets = torch.from_numpy(values.to_numpy(np.float32, copy=True))
        else:
            codes = pd.Categorical(labels.astype(object), categories=list(self.classes)).codes
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
        else:
            each = F.cross_entropy(outputs, targets.clamp_min(0), reduction="none")
        # where, not a product: the loss of a row without a label may be infinite or NaN, and 0 * inf is NaN.
        return torch.where(known, each, torch.zeros_like(each)).sum() / known.sum().clamp_min(1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """(N, n_outputs) to (N,): class indices (int64), or numbers in the label's own unit (float32)."""
        return outputs.argmax(1) if self.kind == "multiclass" else outputs.squeeze(1).float() * self.scale


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
