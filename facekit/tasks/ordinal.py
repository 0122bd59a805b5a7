"""Classes in an order: is the label above the first, above the second, …?"""

from __future__ import annotations

from facekit.tasks.classes import Multiclass
from facekit.tasks.task import F, heads, torch


class Ordinal(Multiclass, kind="ordinal"):
    """CORAL (Cao, Mirjalili & Raschka 2020, 1901.07884): K - 1 yes-no questions, "is it above the k-th class?".

    They have one common weight vector and a bias each, so that at the minimum no answer contradicts another; the
    prediction is the class whose rank is the number of yeses.
    """

    softmax = argmax = False
    takes_numbers = True

    @property
    def n_outputs(self) -> int:
        return len(self.classes) - 1

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        above = (targets[:, None] > torch.arange(self.n_outputs, device=targets.device)).to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        return (outputs > 0).sum(1)

    def best(self, targets: torch.Tensor) -> torch.Tensor:
        """Log odds of being above each class."""
        above = len(targets) - targets.bincount(minlength=len(self.classes)).float().cumsum(0)[:-1]
        return above.clamp_min(1e-3).log() - (len(targets) - above).clamp_min(1e-3).log()

    def layer(self, in_features: int) -> torch.nn.Module:
        return heads.Thresholds(in_features, self.n_outputs)
