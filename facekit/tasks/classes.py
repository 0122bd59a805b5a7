"""Classes without order: softmax."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.tasks.task import MISSING, F, Task, nearest_class, torch


class Multiclass(Task, kind="multiclass"):
    """Softmax over `classes`, which have no order; two classes are the binary case."""

    predicted = labelled = "class"
    softmax = argmax = True
    takes_numbers = False  # whether labels may be numbers, which become the class with the nearest midpoint

    def encode(self, labels: pd.Series) -> torch.Tensor:
        codes = pd.Index(self.classes, dtype=object).get_indexer(pd.Index(labels, dtype=object))
        if self.takes_numbers and self.midpoints:
            numbers = pd.to_numeric(labels.astype(object), errors="coerce").to_numpy(np.float64)
            codes = np.where(codes == MISSING, nearest_class(self.midpoints, numbers), codes)
        self.check_labels(labels, codes != MISSING, f"one of {', '.join(self.classes)}")
        return torch.from_numpy(codes.astype(np.int64))

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets.clamp_min(0), reduction="none")

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(1)

    def best(self, targets: torch.Tensor) -> torch.Tensor:
        """Log frequencies (their loss is the entropy of the labels); a class that does not occur counts 0.001 times."""
        return targets.bincount(minlength=len(self.classes)).float().clamp_min(1e-3).log()
