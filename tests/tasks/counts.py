"""A kind of task as anybody would add it: how many of something there are, with Poisson's loss. See `test_kinds`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.tasks.task import F, Task, torch


class Counts(Task, kind="count"):
    """A number of things: the output is the logarithm of its mean."""

    predicted = labelled = "number"
    needs_classes = False
    n_outputs = 1

    def encode(self, labels):
        values = pd.to_numeric(labels, errors="coerce")
        self.check_labels(labels, (values >= 0).to_numpy(), "a count")
        return torch.from_numpy(values.to_numpy(np.float32, copy=True))

    def losses(self, outputs, targets):
        targets = targets.nan_to_num()
        least = targets - torch.xlogy(targets, targets)  # so that the loss of a perfect answer is 0
        return F.poisson_nll_loss(outputs[:, 0], targets, reduction="none") - least

    def predict(self, outputs):
        return outputs[:, 0].exp()

    def best(self, targets):
        return targets.mean().log().view(1)

    def scores(self, predictions, targets):
        return {"within_one": np.where(np.isnan(targets), np.nan, np.abs(predictions - targets) <= 1)}
