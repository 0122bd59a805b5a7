"""What is minimised: a Method turns a model and a batch into a loss. The loop is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from facekit.errors import ConfigError
from facekit.tasks import Task
from facekit.training.batches import Batch


class Method(nn.Module):
    """Base of all methods; a subclass says what `loss` is.

    It is a module, so that a method may own networks (a teacher, a discriminator): those of its parameters that
    require gradients are trained along, at the rate of the heads. tasks: whose labels the batches carry and on whose
    validation loss the best epoch is chosen. weights: of the tasks in that sum. A method that learns from something
    else than labels sets `needs_labels` to False and may have no task; it is then trained without a validation set.
    """

    needs_labels = True

    def __init__(self, tasks: Sequence[Task], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.weights = {task.name: 1.0 for task in self.tasks} | dict(weights or {})
        if self.needs_labels and not self.tasks:
            raise ConfigError("a method needs at least one task.")
        unknown = set(self.weights) - {task.name for task in self.tasks}
        if unknown or min(self.weights.values(), default=0) < 0:
            names = ", ".join(task.name for task in self.tasks)
            raise ConfigError(f"weights must be 0 or more, for the tasks {names}; got {dict(weights or {})}.")

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The scalar to minimise on this batch, and scalars to log; must not wait for the device."""
        raise NotImplementedError


class Supervised(Method):
    """Weighted sum of the tasks' losses on their labels, missing labels left out (hard parameter sharing)."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See Method; logs each task's own loss under its name."""
        outputs = model(batch.inputs)
        logs = {task.name: task.loss(outputs[task.name], batch.targets[task.name]) for task in self.tasks}
        return sum(self.weights[name] * value for name, value in logs.items()), logs
