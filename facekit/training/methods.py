"""What is minimised: a Method turns a model and a batch into a loss. The loop is the same for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from facekit.errors import ConfigError
from facekit.models.staged import Staged
from facekit.tasks import Task
from facekit.training.batches import Batch

Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]


class Method(nn.Module):
    """Base of all methods; a subclass says what `loss` is.

    It is a module, so that a method may own networks (a teacher, a discriminator): those of its parameters that
    require gradients are trained along, at the rate of the heads.

    tasks: whose labels the batches carry and on whose validation loss the best epoch is chosen; by the name of a set
    where the method learns from several (none for a set without labels), then it learns from exactly these sets.
    weights: of the tasks in that sum, 1 unless given; by the name of a set if tasks are. A method that learns from
    something else than labels sets `needs_labels` to False and may have no task; it is then trained without a
    validation set.

    A method that minds groups of rows names them in `groups`, a task with classes that no head needs to answer: the
    batches carry their indices beside the tasks' targets, and the best epoch is that whose worst group does best.

    Of several sets the loop passes one batch after the other to `loss` and takes each one's gradient before the next,
    so that memory is that of one. A method that needs them at once sets `together` and has `loss_together` instead.
    """

    needs_labels = True
    together = False
    groups: Task | None = None

    def __init__(
        self, tasks: Sequence[Task] | Mapping[str, Sequence[Task]], weights: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        parts: Mapping[Any, Sequence[Task]] = tasks if isinstance(tasks, Mapping) else {None: tasks}
        given: Mapping[Any, Any] = weights or {} if isinstance(tasks, Mapping) else {None: weights or {}}
        self.by_set: dict[str | None, tuple[Task, ...]] = {name: tuple(part) for name, part in parts.items()}
        self.tasks = tuple(task for part in self.by_set.values() for task in part)
        if self.needs_labels and not self.tasks:
            raise ConfigError("a method needs at least one task.")
        if unknown := [name for name in given if name not in self.by_set]:
            raise ConfigError(f"there are weights for the sets {unknown}; the method's are {list(self.by_set)}.")
        self.set_weights: dict[str | None, dict[str, float]] = {}
        for name, part in self.by_set.items():
            found = {task.name: 1.0 for task in part} | dict(given.get(name, {}))
            if len(found) > len(part) or min(found.values(), default=0) < 0:
                names = ", ".join(task.name for task in part) + (f" of set {name!r}" if name is not None else "")
                raise ConfigError(f"weights must be 0 or more, for the tasks {names}; got {given[name]}.")
            self.set_weights[name] = found

    @property
    def weights(self) -> dict[str, float]:
        """Task to weight, of a method for one set."""
        return self.weights_of(None)

    def tasks_of(self, name: str | None) -> tuple[Task, ...]:
        """The tasks of a set; the same for every set, unless the method was given tasks by set."""
        return self.by_set[self._known(name)]

    def carried_of(self, name: str | None) -> tuple[Task, ...]:
        """What a set's batches carry targets of: the tasks, and the groups if they are not one of them."""
        tasks = self.tasks_of(name)
        more = self.groups is not None and self.groups.name not in [task.name for task in tasks]
        return (*tasks, self.groups) if self.groups is not None and more else tasks

    def weights_of(self, name: str | None) -> dict[str, float]:
        """Task to weight in a set."""
        return self.set_weights[self._known(name)]

    def group_losses(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """By task and group, (tasks, groups, 2), the sum of the losses of the known labels and their number.

        Rows without a group are in none; a sum carries its gradient, and is exactly 0 where there is no row.
        """
        assert self.groups is not None, "who calls this has groups"
        found = batch.targets[self.groups.name]
        names = torch.arange(len(self.groups.classes), device=found.device)
        parts = []
        for task in self.tasks_of(batch.set):
            known, each = task.known_losses(outputs[task.name], batch.targets[task.name])
            member = (found == names[:, None]) & known  # (groups, N)
            sums = torch.where(member, each, torch.zeros_like(each)).sum(1)
            parts.append(torch.stack([sums, member.sum(1).to(sums.dtype)], 1))
        return torch.stack(parts)

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """What the model says of a batch, task name to outputs, in training and validation."""
        return model(batch.inputs)

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """The scalar to minimise on this batch, and scalars to log; must not wait for the device."""
        raise NotImplementedError

    def loss_together(self, model: nn.Module, batches: Mapping[str, Batch]) -> Loss:
        """As `loss`, on a batch of every set at once, by name."""
        raise NotImplementedError

    def _known(self, name: str | None) -> str | None:
        if None in self.by_set:
            return None
        if name not in self.by_set:
            raise ConfigError(f"{type(self).__name__} learns from the sets {list(self.by_set)}, by name; got {name!r}.")
        return name


def group_means(sums: torch.Tensor, weights: Iterable[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_t weight · mean loss of every group (groups,), and which groups have a label at all, a mask (groups,).

    sums: (tasks, groups, 2), of losses and their number, see `Method.group_losses`.
    """
    means = sums[..., 0] / sums[..., 1].clamp_min(1)
    total = sum(weight * value for weight, value in zip(weights, means, strict=True))
    return cast(torch.Tensor, total), sums[..., 1].sum(0) > 0


class Supervised(Method):
    """Weighted sum of the tasks' losses on their labels, missing labels left out (hard parameter sharing).

    smoothing: the share of a label that is given to all classes alike, of tasks with a softmax, in training alone
    (label smoothing, Szegedy et al. 2016, section 7, 1512.00567).
    """

    def __init__(
        self,
        tasks: Sequence[Task] | Mapping[str, Sequence[Task]],
        weights: Mapping[str, Any] | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(tasks, weights)
        if not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing must be from 0 to below 1, got {smoothing}.")
        self.smoothing = smoothing
        if smoothing:  # buffers are a part of a run's fingerprint
            self.register_buffer("smoothed", torch.tensor(float(smoothing)))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """See Method; logs each task's own loss under its name."""
        outputs, weights = self.outputs(model, batch), self.weights_of(batch.set)
        tasks = self.tasks_of(batch.set)
        logs = {task.name: self._loss(task, outputs[task.name], batch) for task in tasks}
        return cast(torch.Tensor, sum(weights[name] * value for name, value in logs.items())), logs

    def _loss(self, task: Task, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """A task's loss on smoothed labels: (1 - ε) times that on the label and ε times the mean over all classes."""
        if not self.smoothing or not task.softmax:
            return batch.mean_loss(task, outputs)
        known, each = task.known_losses(outputs, batch.targets[task.name])
        spread = -outputs.float().log_softmax(1).mean(1)
        total = torch.where(known, (1 - self.smoothing) * each + self.smoothing * spread, torch.zeros_like(each))
        return batch.weighted(task, total.sum() / known.sum().clamp_min(1))
