"""Numbers: regression."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.tasks.classes import nearest_class
from facekit.tasks.later import F, torch
from facekit.tasks.task import Kind, Pair, Task, check_labels


class Regression(Kind, name="regression"):
    """One number, Huber loss on the label divided by `scale`; a label that is a band counts as its midpoint."""

    needs_classes = False

    def n_outputs(self, task: Task) -> int:
        return 1

    def encode(self, task: Task, labels: pd.Series) -> torch.Tensor:
        numbers = dict(zip(task.classes, task.midpoints, strict=False))  # bands, if it has any
        values = pd.to_numeric(labels.map(lambda label: numbers.get(label, label)), errors="coerce")
        check_labels(task, labels, values.notna().to_numpy(), "a number")
        return torch.from_numpy(values.to_numpy(np.float32, copy=True))

    def losses(self, task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        safe = torch.where(targets.isnan(), 0.0, targets).to(outputs.dtype) / task.scale
        return F.huber_loss(outputs.squeeze(1), safe, reduction="none")

    def predict(self, task: Task, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.squeeze(1).float() * task.scale

    def constant(self, task: Task, targets: torch.Tensor) -> torch.Tensor:
        """The median."""
        return targets.float().median().view(1) / task.scale

    def as_classes(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        if not task.midpoints:
            return None
        return nearest_class(task.midpoints, predictions), nearest_class(task.midpoints, targets)

    def as_numbers(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        return predictions, targets
