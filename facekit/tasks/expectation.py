"""Classes that stand for numbers, answered with their mean."""

from __future__ import annotations

from facekit.errors import ConfigError
from facekit.tasks.classes import Multiclass
from facekit.tasks.task import torch


class Expectation(Multiclass, kind="expectation"):
    """Softmax over `classes` as in multiclass, but the prediction is the mean of `midpoints` under it, a number.

    DEX (Rothe, Timofte & Van Gool 2018).
    """

    predicted = "number"
    argmax = False
    takes_numbers = True

    def check(self) -> None:
        if not self.midpoints:
            raise ConfigError(f"task {self.name!r}: an expectation is taken over midpoints; give one for each class.")

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.float().softmax(1) @ outputs.new_tensor(self.midpoints).float()
