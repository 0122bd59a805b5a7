"""The training loop: plain torch, in one place, the same for every method, plan and number of processes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError, DataError, TrainingError
from facekit.models.heads import Classifier
from facekit.training import checkpoint, distributed
from facekit.training.augment import Augment
from facekit.training.batches import Batch, Batches, seed_for
from facekit.training.logs import Journal
from facekit.training.methods import Method
from facekit.training.plans import Phase, Plan
from facekit.training.schedule import rate

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever is trained.

    batch_size: rows a step, of all processes together. weight_decay: AdamW's, on weight matrices and kernels only.
    precision: bf16 computes in bfloat16 where torch's autocast finds it safe; weights stay float32. channels_last:
    memory layout of the convolutions. compile: torch.compile. augment: for photos. seed: of order, augmentation and
    dropout. device: default `settings.device()`; under torchrun each process takes its own GPU.
    """

    batch_size: int = 64
    weight_decay: float = 0.01
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    augment: Augment | None = None
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.seed < 0 or not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(
                f"batch_size must be 1 or more, seed and weight_decay 0 or more; got {self.batch_size}, {self.seed}, "
                f"{self.weight_decay}."
            )
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision is {self.precision!r}; use fp32 or bf16.")


@dataclass(frozen=True)
class FitResult:
    """history: one row an epoch (epoch from 1, phase, step, lr, train_loss, validation_loss, each task's losses and
    accuracy, seconds). best_epoch: whose weights the model now has. seconds: wall clock of all epochs. steps: of the
    optimiser. moved: stage to the number of its parameters whose value is no longer what it was before training.
    """

    history: pd.DataFrame
    best_epoch: int
    seconds: float
    steps: int
    moved: dict[str, int]


class _Step(nn.Module):
    """Model and method as one module, so that DistributedDataParallel sees the parameters of both."""

    def __init__(self, model: nn.Module, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.method.loss(self.model, batch)


def fit(
    model: Classifier,
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
    left as it was.

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
    for name, part in (("training", batches), ("validation", held_out)):
        _check_labels(name, part, method)

    journal = Journal(Path(run_dir) if run_dir is not None else None, world, plan.epochs * len(batches))
    initial = _copy(model)
    state = {"epoch": 0, "best_epoch": 0, "best_loss": float("inf"), "seconds": 0.0, "history": [], "optimiser": None}
    best = initial
    if run_dir is not None:
        state["fingerprint"] = checkpoint.fingerprint(model, method, train, validation, plan, config)
        found = journal.previous(state["fingerprint"], resume)
        if found is not None:
            state, last, best = found
            _Step(model, method).load_state_dict(last)
    compiled = torch.compile(model) if config.compile else model

    first = 0  # epoch at which the phase begins
    cuda = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), journal:
        for phase in plan.phases:
            begin, first = first, first + phase.epochs
            if state["epoch"] >= first:
                continue
            model.freeze([stage for stage in model.stages if stage not in phase.rates])
            optimiser = make_optimiser(model, method, phase, config)
            if state["epoch"] > begin:
                optimiser.load_state_dict(state["optimiser"])
            step = world.wrap(_Step(compiled, method), _all_used(model, method))
            for epoch in range(state["epoch"], first):
                start = time.perf_counter()
                torch.manual_seed(seed_for(config.seed, epoch, world.rank, 1))  # dropout
                model.train()
                row = {"epoch": epoch + 1, "phase": phase.name, "step": (epoch + 1) * len(batches)}
                try:
                    row |= _train_epoch(step, optimiser, batches, epoch, begin, phase, config, world, journal)
                    row |= _validate(model, method, held_out, config, world)
                    _check_finite(model, row)
                except TrainingError:
                    model.load_state_dict(best)
                    raise
                loss = row.get("validation_loss", -float(epoch))  # without validation a later epoch is better
                better = loss < state["best_loss"]
                if better:
                    best = _copy(model)
                    state |= {"best_epoch": epoch + 1, "best_loss": loss}
                row["seconds"] = time.perf_counter() - start
                state |= {"epoch": epoch + 1, "seconds": state["seconds"] + row["seconds"]}
                state["history"].append(row)
                journal.epoch(state | {"optimiser": optimiser.state_dict()}, step, best if better else None)
    model.load_state_dict(best)
    model.eval()
    steps = state["epoch"] * len(batches)
    return FitResult(
        pd.DataFrame(state["history"]), state["best_epoch"], state["seconds"], steps, _moved(model, initial)
    )


def make_optimiser(model: Classifier, method: Method, phase: Phase, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with two groups a stage: weights with decay; biases and BatchNorm's parameters without."""
    groups = []
    owned = {stage: [p for m in model.stages[stage] for p in m.parameters()] for stage in phase.rates}
    owned["method"] = list(method.parameters())
    for stage, parameters in owned.items():
        lr = phase.rates.get(stage, max(phase.rates.values()))
        for decay in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == decay]
            if chosen:
                weight_decay = config.weight_decay if decay else 0.0
                groups.append({"params": chosen, "lr": lr, "peak": lr, "weight_decay": weight_decay, "stage": stage})
    if not groups:
        raise TrainingError(f"phase {phase.name!r} trains {list(phase.rates)}, which have no parameters.")
    return torch.optim.AdamW(groups, fused=groups[0]["params"][0].device.type in ("cpu", "cuda"))


def _train_epoch(
    step: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    epoch: int,
    begin: int,
    phase: Phase,
    config: TrainConfig,
    world: distributed.World,
    journal: Journal,
) -> dict[str, float]:
    """One pass over the training set; the device is waited for once, at the end."""
    total = phase.epochs * len(batches)
    losses = torch.zeros(len(batches), device=world.device)
    sums: dict[str, torch.Tensor] = {}
    for i, batch in enumerate(batches.epoch(epoch)):
        now = rate((epoch - begin) * len(batches) + i, total, phase.warmup, phase.schedule)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * now
        optimiser.zero_grad()
        with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss, logs = step(batch)
        (loss * (batch.share * world.size)).backward()  # averaged over processes, that is the mean over the batch
        optimiser.step()
        losses[i] = loss.detach() * batch.share
        for name, value in logs.items():
            sums[name] = sums.get(name, 0) + value.detach().float() * batch.share
        journal.step()
    names = list(sums)
    numbers = world.sum(torch.cat([losses, *(sums[name].view(1) for name in names)])).tolist()
    for i, value in enumerate(numbers[: len(batches)]):
        if not abs(value) < float("inf"):
            rows = ", ".join(map(str, batches.batch_rows(epoch, i)))
            raise TrainingError(
                f"the loss became {value} in step {epoch * len(batches) + i} (epoch {epoch + 1}, batch {i}; the "
                f"first step is 0), with rows {rows} of the training set. Look at those rows, or lower the learning "
                "rate. The best epoch's weights are kept."
            )
    means = {f"train_{name}": value / len(batches) for name, value in zip(names, numbers[len(batches) :], strict=True)}
    peak = max(group["lr"] for group in optimiser.param_groups)
    return {"lr": peak, "train_loss": sum(numbers[: len(batches)]) / len(batches), **means}


@torch.no_grad()
def _validate(
    model: nn.Module, method: Method, batches: Batches | None, config: TrainConfig, world: distributed.World
) -> dict[str, float]:
    """Each task's loss and accuracy over its known labels, and the weighted sum of the losses."""
    if batches is None:
        return {}
    world.same_buffers(model)
    model.eval()
    totals = torch.zeros(len(method.tasks), 3, dtype=torch.float64, device=world.device)  # loss, correct, known
    for batch in batches.epoch():
        with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            outputs = model(batch.inputs)
        for i, task in enumerate(method.tasks):
            targets = batch.targets[task.name]
            known = task.known(targets).sum()
            correct = (task.predict(outputs[task.name]) == targets).sum()
            totals[i] += torch.stack([task.loss(outputs[task.name], targets) * known, correct, known])
    numbers = world.sum(totals).tolist()
    scores = {"validation_loss": 0.0}
    for task, (loss, correct, known) in zip(method.tasks, numbers, strict=True):
        scores[f"validation_{task.name}"] = loss / known
        scores["validation_loss"] += method.weights[task.name] * loss / known
        if task.kind == "multiclass":
            scores[f"accuracy_{task.name}"] = correct / known
    return scores


def _check_finite(model: nn.Module, row: dict[str, float]) -> None:
    """Raises TrainingError if the epoch's last step broke the weights, which no training loss has seen yet."""
    finite = torch.stack([p.detach().isfinite().all() for p in model.state_dict().values()]).all()
    if not finite or not abs(row.get("validation_loss", 0.0)) < float("inf"):
        raise TrainingError(
            f"weights or validation loss are no longer finite after step {row['step'] - 1} (epoch {row['epoch']}, "
            f"last step). Lower the learning rate. The best epoch's weights are kept."
        )


def _check_labels(name: str, batches: Batches | None, method: Method) -> None:
    for task in method.tasks if batches is not None else ():
        if not task.known(batches.targets[task.name]).any():
            raise DataError(f"the {name} set has no label at all for {task.name!r}; label some rows or drop the task.")


def _all_used(model: nn.Module, method: Method) -> bool:
    return {task.name for task in method.tasks} == {task.name for task in getattr(model, "tasks", ())}


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _moved(model: Classifier, initial: dict[str, torch.Tensor]) -> dict[str, int]:
    changed = {id(p): int((p.detach() != initial[name]).sum()) for name, p in model.named_parameters()}
    return {
        stage: sum(changed[id(p)] for module in modules for p in module.parameters())
        for stage, modules in model.stages.items()
    }


@torch.no_grad()
def predict(
    model: nn.Module,
    data: LabelledSet,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> dict[str, torch.Tensor]:
    """Outputs of `model` on every row, in order: task name to float32 (N, n_outputs), on the CPU.

    The model is moved to the device and stays there; it computes in evaluation mode and gets its mode back.
    """
    place = distributed.world(device).device
    mode = model.training
    model.to(place).eval()
    parts: list[dict[str, torch.Tensor]] = []
    try:
        for batch in Batches(data, (), batch_size, device=place, shuffle=False).epoch():
            with torch.autocast(place.type, torch.bfloat16, enabled=precision == "bf16"):
                parts.append({name: values.float() for name, values in model(batch.inputs).items()})
    finally:
        model.train(mode)
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
