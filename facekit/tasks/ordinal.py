"""Classes in an order: is the label above the first, above the second, …?"""

from __future__ import annotations

from facekit.tasks.classes import Multiclass
from facekit.tasks.later import F, torch
from facekit.tasks.task import Task


class Ordinal(Multiclass, name="ordinal"):
    """CORAL (Cao, Mirjalili & Raschka 2020, 1901.07884): K - 1 yes-no questions, "is it above the k-th class?".

    They have one common weight vector and a bias each, so that at the minimum no answer contradicts another; the
    prediction is the class whose rank is the number of yeses.
    """

    softmax = argmax = False
    takes_numbers = True

    def n_outputs(self, task: Task) -> int:
        return len(task.classes) - 1

    def losses(self, task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        above = (targets[:, None] > torch.arange(task.n_outputs, device=targets.device)).to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(1)

    def predict(self, task: Task, outputs: torch.Tensor) -> torch.Tensor:
        return (outputs > 0).sum(1)

    def constant(self, task: Task, targets: torch.Tensor) -> torch.Tensor:
        """Log odds of being above each class."""
        above = len(targets) - targets.bincount(minlength=len(task.classes)).float().cumsum(0)[:-1]
        return above.clamp_min(1e-3).log() - (len(targets) - above).clamp_min(1e-3).log()

    def layer(self, task: Task, in_features: int) -> torch.nn.Module:
        from facekit.tasks.heads import Thresholds

        return Thresholds(in_features, task.n_outputs)
