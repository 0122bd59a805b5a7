"""The training loop: plain torch, in one place, the same for every method, plan and number of processes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError, DataError, TrainingError
from facekit.models.backbones.base import Backbone
from facekit.models.heads import Classifier
from facekit.training import checkpoint, distributed
from facekit.training.batches import Batch, Batches, seed_for
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.methods import Method
from facekit.training.plans import Phase, Plan
from facekit.training.run_log import RunLog
from facekit.training.schedule import rate
from facekit.training.scoring import autocast, predict, validate

__all__ = ["FitResult", "Precision", "TrainConfig", "fit", "make_optimiser", "predict"]


class _Step(nn.Module):
    """Model and method as one module, so that DistributedDataParallel sees the parameters of both."""

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.method.loss(self.model, batch)


def fit(
    model: Classifier | Backbone,
    method: Method,
    train: LabelledSet,
    validation: LabelledSet | None,
    plan: Plan,
    config: TrainConfig | None = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
) -> FitResult:
    """Trains `model` in place and leaves it on the device, in evaluation mode, with the weights of its best epoch.

    validation: the epoch with the lowest loss there (weighted sum of the tasks' losses) is the best; without it the
    last one is. run_dir: gets checkpoints, `log.csv` and TensorBoard's file; with `resume` a run that was stopped
    there goes on and ends in the same weights, bit for bit on the same machine. The random state of the caller is
    left as it was; the stages that the last phase froze stay frozen.

    Raises ConfigError for a plan or config that does not fit the model, DataError for a task without any label, and
    TrainingError when the loss or a weight is no longer finite (the model then has the weights of its best epoch so
    far), when nothing is trainable, or when `run_dir` holds another run or, without resume, any run.
    """
    config = config or TrainConfig()
    plan.check(model)
    world = distributed.world(config.device)
    model.to(world.device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    method.to(world.device)
    where = {"device": world.device, "rank": world.rank, "world": world.size}
    batches = Batches(train, method.tasks, config.batch_size, config.seed, augment=config.augment, **where)
    held_out = None
    if validation is not None:
        held_out = Batches(validation, method.tasks, max(config.batch_size, 256), shuffle=False, **where)
    _check_labels(method, training=batches, validation=held_out)

    initial = best = _copy(model)
    state = {"epoch": 0, "best_epoch": 0, "best_loss": float("inf"), "seconds": 0.0, "history": [], "optimiser": None}
    plain = _Step(model, method)
    journal = RunLog(run_dir, world)
    if journal.folder is not None:
        state["fingerprint"] = checkpoint.fingerprint(model, method, train, validation, plan, config)
        if found := journal.previous(state["fingerprint"], resume):
            state, last, best = found
            plain.load_state_dict(last)
    fast = _Step(torch.compile(model), method) if config.compile else plain

    end = 0  # the epoch after the phase's last
    cuda = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), journal.open(state, plan.epochs * len(batches)):
        for phase in plan.phases:
            begin, end = end, end + phase.epochs
            if state["epoch"] >= end:
                continue
            model.freeze([stage for stage in model.stages if stage not in phase.rates])
            optimiser = make_optimiser(model, method, phase, config.weight_decay)
            if state["epoch"] > begin:
                optimiser.load_state_dict(state["optimiser"])
            step = world.wrap(fast, all_used=_all_used(model, method))
            part = _Part(step, optimiser, phase, begin, batches, config, world, journal)
            for epoch in range(state["epoch"], end):
                start = time.perf_counter()
                torch.manual_seed(seed_for(config.seed, epoch, world.rank, 1))  # dropout
                model.train()
                try:
                    row = _train_epoch(part, epoch)
                    world.same_buffers(model)
                    row |= validate(model, method, held_out, config.precision, world) if held_out else {}
                    _check_finite(model, row)
                except TrainingError:
                    model.load_state_dict(best)
                    model.eval()
                    raise
                loss = row.get("validation_loss", -float(epoch))  # without validation a later epoch is better
                better = loss < state["best_loss"]
                if better:
                    best = _copy(model)
                    state |= {"best_epoch": epoch + 1, "best_loss": loss}
                row["seconds"] = time.perf_counter() - start
                state |= {"epoch": epoch + 1, "seconds": state["seconds"] + row["seconds"]}
                state["history"].append(row)
                journal.epoch(state | {"optimiser": optimiser.state_dict()}, plain, best if better else None)
    model.load_state_dict(best)
    model.eval()
    history, moved = pd.DataFrame(state["history"]), _moved(model, initial)
    return FitResult(history, state["best_epoch"], state["seconds"], state["epoch"] * len(batches), moved)


@dataclass(frozen=True)
class _Part:
    """What the epochs of one phase have in common; begin: the phase's first epoch."""

    step: nn.Module
    optimiser: torch.optim.Optimizer
    phase: Phase
    begin: int
    batches: Batches
    config: TrainConfig
    world: distributed.ProcessGroup
    journal: RunLog


def _train_epoch(part: _Part, epoch: int) -> dict:
    """One pass over the training set; the device is waited for once, at the end. Returns the row of the history."""
    phase, batches, world = part.phase, part.batches, part.world
    before, total = (epoch - part.begin) * len(batches), phase.epochs * len(batches)
    losses = torch.zeros(len(batches), device=world.device)
    sums: dict[str, torch.Tensor] = {}
    for i, batch in enumerate(batches.epoch(epoch)):
        now = rate(before + i, total, phase.warmup, phase.schedule)
        for group in part.optimiser.param_groups:
            group["lr"] = group["peak"] * now
        part.optimiser.zero_grad()
        with autocast(world.device, part.config.precision):
            loss, logs = part.step(batch)
        (loss * (batch.share * world.size)).backward()  # its average over processes is the mean over the batch
        part.optimiser.step()
        losses[i] = loss.detach() * batch.share
        for name, value in logs.items():
            sums[name] = sums.get(name, 0) + value.detach().float() * batch.share
        part.journal.step()
    numbers = world.sum(torch.cat([losses, *(value.view(1) for value in sums.values())])).tolist()
    each, means = numbers[: len(batches)], [value / len(batches) for value in numbers[len(batches) :]]
    _check_losses(each, batches, epoch)
    return {
        "epoch": epoch + 1,
        "phase": phase.name,
        "step": (epoch + 1) * len(batches),
        "lr": max(group["lr"] for group in part.optimiser.param_groups),
        "train_loss": sum(each) / len(batches),
        **{f"train_{name}": value for name, value in zip(sums, means, strict=True)},
    }


def make_optimiser(
    model: Classifier | Backbone, method: Method, phase: Phase, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with two groups a stage: weights decay; biases and BatchNorm's do not.

    A group carries its `stage` and its `peak` learning rate; the method's own parameters are the stage `method`, at
    the phase's highest rate. Raises TrainingError when there is nothing to train.
    """
    owned = {stage: [p for m in model.stages[stage] for p in m.parameters()] for stage in phase.rates}
    owned["method"] = list(method.parameters())
    groups = []
    for stage, parameters in owned.items():
        lr = phase.rates.get(stage, max(phase.rates.values()))
        for matrices, decay in ((True, weight_decay), (False, 0.0)):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == matrices]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "peak": lr, "weight_decay": decay, "stage": stage})
    if not groups:
        raise TrainingError(f"phase {phase.name!r} trains {list(phase.rates)}, which have no parameters.")
    return torch.optim.AdamW(groups, fused=groups[0]["params"][0].device.type in ("cpu", "cuda"))


def _check_losses(losses: list[float], batches: Batches, epoch: int) -> None:
    """Raises TrainingError that names the first step whose loss is not finite, and its rows."""
    for i, value in enumerate(losses):
        if np.isfinite(value):
            continue
        rows = batches.batch_rows(epoch, i)
        guilty = batches.not_finite(rows)
        cause = f"The inputs of rows {_list(guilty)} are not finite: repair them." if len(guilty) else "Lower the lr."
        raise TrainingError(
            f"the loss became {value} in step {epoch * len(batches) + i + 1} (epoch {epoch + 1}, batch {i + 1}), with "
            f"rows {_list(rows)} of the training set. {cause} The best epoch's weights are kept."
        )


def _check_finite(model: nn.Module, row: dict) -> None:
    """Raises TrainingError if the epoch's last step broke the weights, which no training loss has seen yet."""
    finite = torch.stack([value.isfinite().all() for value in model.state_dict().values()]).all()
    if not finite or not np.isfinite(row.get("validation_loss", 0.0)):
        raise TrainingError(
            f"weights or validation loss are no longer finite after step {row['step']} (the last of epoch "
            f"{row['epoch']}). Lower the lr, and look for inputs that are not finite. The best epoch's weights "
            "are kept."
        )


def _check_labels(method: Method, **parts: Batches | None) -> None:
    if not method.tasks and parts["validation"] is not None:
        raise ConfigError(f"{type(method).__name__} has no task to validate; pass None for the validation set.")
    for name, batches in parts.items():
        for task in method.tasks if batches is not None else ():
            if not task.known(batches.targets[task.name]).any():
                raise DataError(
                    f"the {name} set has no label at all for {task.name!r}; label some rows or leave the task out."
                )


def _all_used(model: Classifier | Backbone, method: Method) -> bool:
    """Whether every head takes part in the loss; a backbone has none."""
    return {task.name for task in method.tasks} == {task.name for task in getattr(model, "tasks", ())}


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _moved(model: Classifier | Backbone, initial: dict[str, torch.Tensor]) -> dict[str, int]:
    changed = {id(p): int((p.detach() != initial[name]).sum()) for name, p in model.named_parameters()}
    return {
        stage: sum(changed[id(p)] for module in modules for p in module.parameters())
        for stage, modules in model.stages.items()
    }


def _list(rows: np.ndarray) -> str:
    return ", ".join(map(str, rows))
