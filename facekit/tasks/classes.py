"""Classes without order: softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from facekit.tasks.later import F, torch
from facekit.tasks.task import MISSING, Kind, Pair, Task, check_labels


class Multiclass(Kind, name="multiclass"):
    """Softmax over `classes`, which have no order; two classes are the binary case."""

    softmax = argmax = True
    takes_numbers = False  # whether labels may be numbers, which become the class with the nearest midpoint

    def encode(self, task: Task, labels: pd.Series) -> torch.Tensor:
        codes = pd.Index(task.classes, dtype=object).get_indexer(pd.Index(labels, dtype=object))
        if self.takes_numbers and task.midpoints:
            numbers = pd.to_numeric(labels.astype(object), errors="coerce").to_numpy(np.float64)
            codes = np.where(codes == MISSING, nearest_class(task.midpoints, numbers), codes)
        check_labels(task, labels, codes != MISSING, f"one of {', '.join(task.classes)}")
        return torch.from_numpy(codes.astype(np.int64))

    def losses(self, task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets.clamp_min(0), reduction="none")

    def predict(self, task: Task, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)

    def constant(self, task: Task, targets: torch.Tensor) -> torch.Tensor:
        """Log frequencies (their loss is the entropy of the labels); a class that does not occur counts 0.001 times."""
        return targets.bincount(minlength=len(task.classes)).float().clamp_min(1e-3).log()

    def as_classes(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        return predictions, targets

    def as_numbers(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        return (middles(task, predictions), middles(task, targets)) if task.midpoints else None


def nearest_class(midpoints: Sequence[float], numbers: np.ndarray) -> np.ndarray:
    """Numbers, of any shape, to the indices of the nearest midpoints, int64; -1 for NaN."""
    numbers = np.asarray(numbers, np.float64)
    distance = np.abs(numbers[..., None] - np.asarray(midpoints, np.float64))
    return np.where(np.isnan(numbers), MISSING, distance.argmin(-1))


def middles(task: Task, classes: np.ndarray) -> np.ndarray:
    """Class indices to their midpoints, float64; NaN for -1."""
    found = np.asarray(task.midpoints, np.float64)[np.maximum(classes, 0).astype(np.int64)]
    return np.where(classes >= 0, found, np.nan)
