"""A kind of task as anybody would add it: how many of something there are, with Poisson's loss. See `test_kinds`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.tasks.later import F, torch
from facekit.tasks.task import Kind, check_labels


class Counts(Kind, name="count"):
    """A number of things: the output is the logarithm of its mean."""

    needs_classes = False

    def n_outputs(self, task):
        return 1

    def encode(self, task, labels):
        values = pd.to_numeric(labels, errors="coerce")
        check_labels(task, labels, (values >= 0).to_numpy(), "a count")
        return torch.from_numpy(values.to_numpy(np.float32, copy=True))

    def losses(self, task, outputs, targets):
        targets = targets.nan_to_num()
        least = targets - torch.xlogy(targets, targets)  # so that the loss of a perfect answer is 0
        return F.poisson_nll_loss(outputs[:, 0], targets, reduction="none") - least

    def predict(self, task, outputs):
        return outputs[:, 0].exp()

    def constant(self, task, targets):
        return targets.mean().log().view(1)

    def scores(self, task, predictions, targets):
        return {"within_one": np.where(np.isnan(targets), np.nan, np.abs(predictions - targets) <= 1)}

    def as_numbers(self, task, predictions, targets):
        return predictions, targets
