"""Classes that stand for numbers, answered with their mean."""

from __future__ import annotations

import numpy as np

from facekit.errors import ConfigError
from facekit.tasks.classes import Multiclass, middles, nearest_class
from facekit.tasks.later import torch
from facekit.tasks.task import Pair, Task


class Expectation(Multiclass, name="expectation"):
    """Softmax over `classes` as in multiclass, but the prediction is the mean of `midpoints` under it, a number.

    DEX (Rothe, Timofte & Van Gool 2018).
    """

    argmax = False
    takes_numbers = True

    def check(self, task: Task) -> None:
        if not task.midpoints:
            raise ConfigError(f"task {task.name!r}: an expectation is taken over midpoints; give one for each class.")

    def predict(self, task: Task, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.float().softmax(1) @ outputs.new_tensor(task.midpoints).float()

    def as_classes(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        return nearest_class(task.midpoints, predictions), targets

    def as_numbers(self, task: Task, predictions: np.ndarray, targets: np.ndarray) -> Pair | None:
        return predictions, middles(task, targets)
