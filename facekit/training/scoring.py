"""A model on rows it is not trained on: its outputs, and its losses on a validation set."""

from __future__ import annotations

import torch
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.training import distributed
from facekit.training.batches import Batches
from facekit.training.config import Precision
from facekit.training.methods import Method, group_means


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """torch's autocast to bfloat16, or nothing with precision fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def predict(
    model: nn.Module,
    data: LabelledSet,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> dict[str, torch.Tensor]:
    """Outputs of `model` on every row, in order: task name to float32 (N, n_outputs), on the CPU.

    The model is moved to the device (default `settings.device()`) and stays there; it computes in evaluation mode and
    gets its mode back.
    """
    place = distributed.world(device).device
    mode = model.training
    model.to(place).eval()
    parts: list[dict[str, torch.Tensor]] = []
    try:
        for batch in Batches(data, (), batch_size, device=place, shuffle=False).epoch():
            with autocast(place, precision):
                parts.append({name: values.float() for name, values in model(batch.inputs).items()})
    finally:
        model.train(mode)
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


@torch.no_grad()
def validate(
    model: nn.Module, method: Method, batches: Batches, precision: Precision, world: distributed.ProcessGroup
) -> dict[str, float]:
    """`validation_loss`, and `validation_<task>` and `accuracy_<task>` over the known labels of all processes.

    A task's loss is the mean over its known labels, however they are cut into batches; the first is the sum of the
    tasks' losses with the method's weights, of a method with groups that of its worst group. With a name of the set:
    `validation_<set>_<task>`, `accuracy_<set>_<task>`.
    Leaves the model in evaluation mode.
    """
    model.eval()
    tasks, weights = method.tasks_of(batches.name), method.weights_of(batches.name)
    label = f"{batches.name}_" if batches.name is not None else ""
    found = []  # of a batch: of every task loss, correct, known
    by_group: list[torch.Tensor] = []  # of a batch: of every task and group loss, known
    for batch in batches.epoch():
        with autocast(world.device, precision):
            outputs = method.outputs(model, batch)
        rows = []
        for task in tasks:
            targets = batch.targets[task.name]
            known = task.known(targets).sum()
            classes = task.argmax
            correct = (task.predict(outputs[task.name]) == targets).sum() if classes else torch.zeros_like(known)
            rows.append(torch.stack([task.loss(outputs[task.name], targets) * known, correct, known]))
        found.append(torch.stack(rows))
        if method.groups is not None:
            by_group.append(method.group_losses(outputs, batch))
    totals = torch.zeros(len(tasks), 3, dtype=torch.float64)
    for batch_totals in torch.stack(found).cpu() if found else ():  # not every device has float64
        totals += batch_totals
    scores = {"validation_loss": 0.0}
    for task, (loss, correct, known) in zip(tasks, world.sum(totals).tolist(), strict=True):
        scores[f"validation_{label}{task.name}"] = loss / known
        scores["validation_loss"] += weights[task.name] * loss / known
        if task.argmax:
            scores[f"accuracy_{label}{task.name}"] = correct / known
    if method.groups is not None:
        sums = torch.zeros(len(tasks), len(method.groups.classes), 2, dtype=torch.float64)
        for batch_sums in torch.stack(by_group).cpu() if by_group else ():
            sums += batch_sums
        losses, there = group_means(world.sum(sums).cpu(), weights.values())
        scores["validation_loss"] = torch.where(there, losses, -torch.inf).max().item()
    return scores
