"""The training loop: plain torch, in one place, the same for every method, plan, number of sets and of processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError, DataError, FacekitError, TrainingError
from facekit.models.staged import Staged
from facekit.training import checkpoint, distributed
from facekit.training.batches import Batch, Batches, seed_for, share_of
from facekit.training.checkpoint import RunLog
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.methods import Loss, Method
from facekit.training.plans import Phase, Plan, rate
from facekit.training.scoring import autocast, predict, validate
from facekit.training.shares import domain_shares, rows_a_step

__all__ = ["FitResult", "Precision", "TrainConfig", "fit", "make_optimiser", "predict"]

Named = Mapping[str | None, LabelledSet]
Sets = LabelledSet | Mapping[str, LabelledSet] | Named


class _Step(nn.Module):
    """Model and method as one module, so that DistributedDataParallel sees the parameters of both."""

    def __init__(self, model: Staged, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, batches: Sequence[Batch]) -> Loss:
        if self.method.together:
            return self.method.loss_together(self.model, {str(batch.set): batch for batch in batches})
        return self.method.loss(self.model, *batches)


def fit(
    model: Staged,
    method: Method,
    train: Sets,
    validation: Sets | None,
    plan: Plan,
    config: TrainConfig | None = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
) -> FitResult:
    """Trains `model` in place and leaves it on the device, in evaluation mode, with the weights of its best epoch.

    train: a set, or several by name, of which every step then takes rows (`TrainConfig.sampling` says how many): the
    loss is their mean over the rows of the step, or what a method makes of all sets together. validation: the epoch
    with the lowest loss there (weighted sum of the tasks' losses; of several sets their mean, weighted as in training)
    is the best; without it the last one is. run_dir: gets checkpoints, `log.csv` and TensorBoard's file; with `resume`
    a run that was stopped there goes on and ends in the same weights, bit for bit on the same machine; so does a run,
    also a finished one, with a longer plan that begins with its own (`Plan.extended`). The random state of the caller
    is left as it was; the stages that the last phase froze stay frozen.

    Raises ConfigError for a plan, config or sets that do not fit model and method, DataError for a task without any
    label, and TrainingError when the loss or a weight is no longer finite, when nothing is trainable, or when `run_dir`
    holds another run or, without resume, any run; OutputError where another process writes `run_dir` or somebody else's
    files are in the way there. Whatever stops the training, the model then has the weights of its best epoch so far.
    """
    config = config or TrainConfig()
    plan.check(model)
    world = distributed.world(config.device)
    model.to(world.device).to(memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    method.to(world.device)
    sets, held_out = _by_name(train), _by_name(validation)
    rows = _rows(method, sets, held_out, config)
    batches = _batches(method, sets, rows, config, world)
    checks = _batches(method, held_out, None, config, world)
    steps = config.steps or max(map(len, batches.values()))
    calls = [tuple(sets)] if method.together else [(name,) for name in sets]  # the sets of each call of the loss
    weights = [sum(rows[name] for name in names) / sum(rows.values()) for names in calls]

    initial = _copy(model)
    best: checkpoint.Weights = initial
    state: dict[str, Any] = dict(epoch=0, best_epoch=0, best_loss=np.inf, seconds=0.0, history=[], optimiser=None)
    plain = _Step(model, method)
    fast = _Step(cast(Staged, torch.compile(model)), method) if config.compile else plain
    optimiser = None
    cuda = [world.device] if world.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda), RunLog(run_dir, world) as journal:
            if journal.folder is not None:
                state["fingerprint"] = checkpoint.fingerprint(model, method, sets, held_out, plan, config)
                state |= {"plan": state["fingerprint"]["plan"], "given": [plan.epochs]}
                if found := journal.previous(state["fingerprint"], resume, plan):
                    fresh, (state, last, best) = state, found
                    plain.load_state_dict(last)
                    if state.get("plan", state["fingerprint"]["plan"]) != fresh["plan"]:
                        state |= {"plan": fresh["plan"], "given": [*state.get("given", ()), plan.epochs]}
            streams = {name: part.endless(state["epoch"] * steps) for name, part in batches.items()}
            journal.begin(state, plan.epochs * steps)
            for epoch in range(state["epoch"], plan.epochs):
                phase, begin = plan.at(epoch)
                if epoch == begin or optimiser is None:
                    model.freeze([stage for stage in model.stages if stage not in phase.rates])
                    optimiser = make_optimiser(model, method, phase, config.weight_decay)
                    if epoch > begin:
                        optimiser.load_state_dict(state["optimiser"])
                    step = world.wrap(fast, all_used=len(calls) == 1 and _all_used(model, method))
                start = time.perf_counter()
                _seed(seed_for(config.seed, epoch, world.rank, 1), world.device)  # dropout
                model.train()
                losses = torch.zeros(steps, len(calls), device=world.device)
                sums: dict[str, torch.Tensor] = {}
                for i in range(steps):
                    now = rate((epoch - begin) * steps + i, phase.epochs * steps, phase.warmup, phase.schedule)
                    for group in optimiser.param_groups:
                        group["lr"] = group["peak"] * now
                    optimiser.zero_grad()
                    for j, (names, weight) in enumerate(zip(calls, weights, strict=True)):
                        parts = [next(streams[name]) for name in names]
                        share = share_of(parts)  # the sum of all processes' shares is 1
                        with world.averaging(step, last=j == len(calls) - 1):
                            with autocast(world.device, config.precision):
                                loss, logs = step(parts)
                            _check_trains(loss, phase, names)
                            (loss * (share * weight * world.size)).backward()  # frees this call's graph before the next
                        losses[i, j] = loss.detach() * (share * weight)
                        for name, value in logs.items():
                            key = name if method.together or names[0] is None else f"{names[0]}_{name}"
                            sums[key] = sums.get(key, 0) + value.detach().float() * share
                        del loss, logs
                    optimiser.step()
                    journal.step()
                # The device is waited for here, once an epoch.
                numbers = world.sum(torch.cat([losses.flatten(), *(value.view(1) for value in sums.values())])).tolist()
                each, means = numbers[: losses.numel()], [value / steps for value in numbers[losses.numel() :]]
                _check_losses(each, epoch, calls, batches)
                row = {
                    "epoch": epoch + 1,
                    "phase": phase.name,
                    "step": (epoch + 1) * steps,
                    "lr": max(group["lr"] for group in optimiser.param_groups),
                    "train_loss": sum(each) / steps,
                    **{f"train_{name}": value for name, value in zip(sums, means, strict=True)},
                }
                world.same_buffers(model)
                for name, part in checks.items():
                    scores = validate(model, method, part, config.precision, world)
                    weight = rows.get(name, 1) / sum(rows.get(each, 1) for each in checks)
                    total = row.get("validation_loss", 0.0) + weight * scores.pop("validation_loss")
                    row |= {"validation_loss": total} | scores
                _check_finite(model, row)
                score = row.get("validation_loss", -float(epoch))  # without validation a later epoch is better
                better = score < state["best_loss"]
                if better:
                    best = _copy(model)
                    state |= {"best_epoch": epoch + 1, "best_loss": score}
                row["seconds"] = time.perf_counter() - start
                state |= {"epoch": epoch + 1, "seconds": state["seconds"] + row["seconds"]}
                state["history"].append(row)
                journal.epoch(state | {"optimiser": optimiser.state_dict()}, plain, best if better else None)
    finally:
        model.load_state_dict(best)
        model.eval()
    history, moved = pd.DataFrame(state["history"]), _moved(model, initial)
    return FitResult(history, state["best_epoch"], state["seconds"], state["epoch"] * steps, moved)


def make_optimiser(model: Staged, method: Method, phase: Phase, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with two groups a stage: weights decay; biases and BatchNorm's do not.

    A group carries its `stage` and its `peak` learning rate; the method's own parameters are the stage `method`, at
    the phase's highest rate. Raises TrainingError when there is nothing to train.
    """
    owned = {stage: model.stage_parameters(stage) for stage in phase.rates}
    owned["method"] = list(method.parameters())
    groups: list[dict[str, Any]] = []
    for stage, parameters in owned.items():
        lr = phase.rates.get(stage, max(phase.rates.values()))
        for matrices, decay in ((True, weight_decay), (False, 0.0)):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == matrices]
            if chosen:
                groups.append({"params": chosen, "lr": lr, "peak": lr, "weight_decay": decay, "stage": stage})
    if not groups:
        raise TrainingError(f"phase {phase.name!r} trains {list(phase.rates)}, which have no parameters.")
    return torch.optim.AdamW(groups, fused=groups[0]["params"][0].device.type in ("cpu", "cuda"))


def _seed(seed: int, device: torch.device) -> None:
    """Seeds what draws on the CPU, and on the device if it is another one.

    `torch.manual_seed` also notes the call for every other kind of device that torch was built for, with the stack that
    it came from, which takes time in each epoch.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _by_name(sets: Sets | None) -> dict[str | None, LabelledSet]:
    """Sets by name; one alone has the name None."""
    if isinstance(sets, Mapping):
        return {name: part for name, part in sets.items()}
    return {} if sets is None else {None: sets}


def _rows(method: Method, sets: Named, held_out: Named, config: TrainConfig) -> dict[str | None, int]:
    """How many of a step's rows each set gets; raises ConfigError unless the sets are those of the method."""
    if unknown := [name for name in held_out if name is not None and name not in sets]:
        raise ConfigError(f"the validation sets {unknown} are none of the training sets {list(sets)}.")
    if missing := [name for name in method.by_set if name is not None and name not in sets]:
        raise ConfigError(
            f"{type(method).__name__} learns from {list(method.by_set)}; sets {missing} are missing, got {list(sets)}."
        )
    if isinstance(config.augment, Mapping) and (unknown := [name for name in config.augment if name not in sets]):
        raise ConfigError(f"there is no set {unknown} to augment; the sets are {list(sets)}.")
    if None in sets:  # a whole step
        return {None: config.batch_size}
    shares = domain_shares({name: len(part) for name, part in sets.items()}, config.sampling)
    return rows_a_step(shares, config.batch_size)


def _batches(
    method: Method,
    sets: Named,
    rows: Mapping[str | None, int] | None,
    config: TrainConfig,
    world: distributed.ProcessGroup,
) -> dict[str | None, Batches]:
    """Every set with the labels that the method needs of it; errors name it. rows: of a step, None for validation."""
    found = {}
    for name, data in sets.items():
        about = f"the {'training' if rows else 'validation'} set{'' if name is None else f' {name!r}'}"
        tasks, carried = method.tasks_of(name), method.carried_of(name)
        if not rows and not tasks:
            raise ConfigError(f"{type(method).__name__} has no task to validate on {about}; leave that set out.")
        augment = config.augment.get(str(name)) if isinstance(config.augment, Mapping) else config.augment
        try:
            found[name] = Batches(
                data,
                carried,
                rows[name] if rows else max(config.batch_size, 256),
                config.seed,
                world.device,
                augment if rows else None,
                shuffle=bool(rows),
                rank=world.rank,
                world=world.size,
                name=name,
            )
        except FacekitError as error:
            if name is None:
                raise
            raise type(error)(f"{about}: {error}") from error
        for task in carried:
            if not task.known(found[name].targets[task.name]).any():
                raise DataError(
                    f"{about} has no label at all for {task.name!r}; label some rows or leave the task out."
                )
    return found


def _check_trains(loss: torch.Tensor, phase: Phase, names: Sequence[str | None]) -> None:
    """Raises TrainingError where the loss hangs on nothing that the phase trains."""
    if not loss.requires_grad:
        of = "" if names[0] is None else f" of set {', '.join(map(repr, names))}"
        raise TrainingError(f"phase {phase.name!r} trains nothing that the loss{of} depends on; train more stages.")


def _check_losses(
    losses: Sequence[float], epoch: int, calls: Sequence[tuple], batches: Mapping[str | None, Batches]
) -> None:
    """Raises TrainingError that names the first step whose loss is not finite, and its rows."""
    broken = next((n for n, value in enumerate(losses) if not np.isfinite(value)), None)
    if broken is None:
        return
    i, j = divmod(broken, len(calls))
    step, seen, guilty = epoch * (len(losses) // len(calls)) + i, [], []
    for name in calls[j]:
        rows = batches[name].batch_rows(*divmod(step, len(batches[name])))
        bad, of = batches[name].not_finite(rows), "" if name is None else f" {name!r}"
        seen.append(f"rows {', '.join(map(str, rows))} of the training set{of}")
        guilty += [f"rows {', '.join(map(str, bad))}{of and f' of{of}'}"] if len(bad) else []
    cause = f"The inputs of {' and '.join(guilty)} are not finite: repair them." if guilty else "Lower the lr."
    raise TrainingError(
        f"the loss became {losses[broken]} in step {step + 1} (epoch {epoch + 1}, batch {i + 1}), with "
        f"{' and '.join(seen)}. {cause} The best epoch's weights are kept."
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


def _all_used(model: Staged, method: Method) -> bool:
    """Whether every head takes part in the loss; a backbone has none."""
    return {task.name for task in method.tasks} == {task.name for task in getattr(model, "tasks", ())}


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _moved(model: Staged, initial: dict[str, torch.Tensor]) -> dict[str, int]:
    changed = {id(p): int((p.detach() != initial[name]).sum()) for name, p in model.named_parameters()}
    return {stage: sum(changed[id(p)] for p in model.stage_parameters(stage)) for stage in model.stages}
