"""Numbers: regression."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.tasks.task import F, Task, torch


class Regression(Task, kind="regression"):
    """One number, Huber loss on the label divided by `scale`; a label that is a band counts as its midpoint."""

    predicted = labelled = "number"
    needs_classes = False
    n_outputs = 1

    def encode(self, labels: pd.Series) -> torch.Tensor:
        numbers = dict(zip(self.classes, self.midpoints, strict=False))  # bands, if it has any
        values = pd.to_numeric(labels.map(lambda label: numbers.get(label, label)), errors="coerce")
        self.check_labels(labels, values.notna().to_numpy(), "a number")
        return torch.from_numpy(values.to_numpy(np.float32, copy=True))

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        safe = torch.where(targets.isnan(), 0.0, targets).to(outputs.dtype) / self.scale
        return F.huber_loss(outputs.squeeze(1), safe, reduction="none")

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.squeeze(1).float() * self.scale

    def best(self, targets: torch.Tensor) -> torch.Tensor:
        """The median."""
        return targets.float().median().view(1) / self.scale
