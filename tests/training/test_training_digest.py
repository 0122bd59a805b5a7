"""With one set the loop gives, bit for bit, the weights of a plain loop, and of the loop as it was first written.

`plain_loop` is what training is: thirty lines of torch that know nothing of `fit`. It must give the same bits on every
machine. The digests are those of the first version of `fit`, on the torch and the processor named in `STANDS_FOR`;
elsewhere sums are added in another order and the last bits differ, so that there the plain loop alone is compared.
"""

from __future__ import annotations

import copy
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import COLOUR, LEVEL, SIDE, TinyNet, classifier, faces, features
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.models.embedding import state_hash
from facekit.models.heads import Heads
from facekit.models.multitask import SharedNet, mlp
from facekit.training.augment import Augment
from facekit.training.batches import Batch, seed_for
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Method, Supervised
from facekit.training.plans import Plan, plan
from facekit.transfer.distill import Distillation
from facekit.transfer.sharing import SoftSharing

STANDS_FOR = ("2.15.0+cu132", "AVX512", "AMD EPYC")  # torch, what it uses of the processor, the processor
DIGESTS = {
    "features": "6ffa460a38ef6efaa583b8f789934d1a9c3f76a8893291c1cef8a5cf70f82449",
    "photos": "d0fc0138543ebf21b561edc07a835f884df4f101f06c08765816c3677730848c",
    "soft sharing": "74b65774c2308c1672ad35f351dd30514bb9ccaecdf791b4a237bae265dabf25",
    "distillation": "a141073ee9dd9db0cdfc303e86af5a0de0e18a1039deab6b25db92ade05dcf1e",
}


@dataclass
class Run:
    """What `fit` is called with."""

    model: nn.Module
    method: Method
    train: LabelledSet
    validation: LabelledSet | None
    plan: Plan
    config: TrainConfig


def on_features() -> Run:
    """A classifier of features, its stages trained one after another, with dropout and a choice of the best epoch."""
    torch.manual_seed(0)
    net = SharedNet(mlp(6, (5, 4), dropout=0.3), (COLOUR, SIDE))
    recipe = plan("gradual", list(net.stages), 4, 0.05)
    return Run(net, Supervised((COLOUR, SIDE)), features(42), features(30, seed=1), recipe, TrainConfig(8, seed=5))


def on_photos() -> Run:
    """A network with BatchNorm, frozen at first, and photos that are changed at random."""
    model = classifier((COLOUR, LEVEL))
    recipe = plan("probe_then_fine_tune", list(model.stages), 3, 0.02, factor=2.0)
    config = TrainConfig(8, augment=Augment(erase=0.3), seed=2, weight_decay=0.1)
    return Run(model, Supervised((COLOUR, LEVEL), {"level": 0.5}), faces(27), faces(9, 1), recipe, config)


def on_soft_sharing() -> Run:
    """A network a task, drawn together."""
    torch.manual_seed(1)
    net = SharedNet(mlp(6, (5,), dropout=0.1), (COLOUR, SIDE), shared=0)
    recipe = plan("everything", list(net.stages), 3, 0.03, schedule="linear")
    return Run(net, SoftSharing((COLOUR, SIDE), 0.2), features(40), None, recipe, TrainConfig(16, seed=1))


def on_distillation() -> Run:
    """A student of a teacher's embeddings, without labels; the method draws which photos are mirrored."""
    torch.manual_seed(2)
    data, teacher, student = faces(24), TinyNet().eval(), TinyNet()
    heads = Heads(6, (COLOUR,))
    with torch.no_grad():
        x = torch.from_numpy(data.images)
        targets = torch.stack([teacher(x), teacher(x.flip(3))])
    recipe = plan("scratch", list(student.stages), 3, 0.02)
    config = TrainConfig(8, augment=Augment(flip=0), seed=4)
    return Run(student, Distillation(targets, heads), data, None, recipe, config)


RUNS: dict[str, Callable[[], Run]] = {
    "features": on_features,
    "photos": on_photos,
    "soft sharing": on_soft_sharing,
    "distillation": on_distillation,
}


def plain_loop(run: Run) -> None:
    """Trains `run.model` in place and leaves it with the weights of its best epoch."""
    model, method, config = run.model, run.method, run.config
    x, n = torch.from_numpy(run.train.inputs), len(run.train)
    y = run.train.targets(method.tasks)
    batches = [slice(i, i + config.batch_size) for i in range(0, n, config.batch_size)]
    best, least, epoch = None, math.inf, 0
    for phase in run.plan.phases:
        model.freeze([name for name in model.stages if name not in phase.rates])
        groups = []
        for name, lr in phase.rates.items():
            parameters = [p for module in model.stages[name] for p in module.parameters()]
            groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": lr})
            groups.append({"params": [p for p in parameters if p.ndim < 2], "lr": lr, "weight_decay": 0.0})
        optimiser = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=config.weight_decay, fused=True)
        peaks, total = [group["lr"] for group in optimiser.param_groups], phase.epochs * len(batches)
        rising = math.ceil(phase.warmup * total)
        for step in range(total):
            if step % len(batches) == 0:
                order = np.random.default_rng([config.seed, epoch]).permutation(n)
                draws = torch.Generator().manual_seed(seed_for(config.seed, epoch, 0))
                torch.manual_seed(seed_for(config.seed, epoch, 0, 1))
                model.train()
            done = (step - rising) / (total - rising)
            falling = 1 - done if phase.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * ((step + 1) / rising if step < rising else falling)
            rows = order[batches[step % len(batches)]]
            inputs = config.augment(x[rows], draws) if config.augment else x[rows]
            optimiser.zero_grad()
            method.loss(model, Batch(inputs, {name: values[rows] for name, values in y.items()}, rows))[0].backward()
            optimiser.step()
            if (step + 1) % len(batches) == 0:
                epoch += 1
                loss = -epoch if run.validation is None else validation_loss(run)
                if loss < least:
                    best, least = copy.deepcopy(model.state_dict()), loss
    model.load_state_dict(best)
    model.eval()


@torch.no_grad()
def validation_loss(run: Run) -> float:
    """The weighted sum of the tasks' losses on the validation set."""
    outputs = run.model.eval()(torch.from_numpy(run.validation.inputs))
    targets = run.validation.targets(run.method.tasks)
    return sum(run.method.weights[t.name] * t.loss(outputs[t.name], targets[t.name]).item() for t in run.method.tasks)


def trained(run: Run) -> Run:
    fit(run.model, run.method, run.train, run.validation, run.plan, run.config)
    return run


def processor() -> str:
    """The processor's name as Linux says it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@pytest.mark.parametrize("name", RUNS)
def test_with_one_set_the_weights_are_those_of_a_plain_loop_to_the_last_bit(name):
    ours, plain = RUNS[name](), RUNS[name]()
    before = state_hash(plain.model)
    plain_loop(plain)
    assert state_hash(trained(ours).model) == state_hash(plain.model) != before


@pytest.mark.parametrize("name", RUNS)
def test_with_one_set_the_weights_are_those_that_the_loop_gave_first(name):
    here = (torch.__version__, torch.backends.cpu.get_cpu_capability(), processor())
    if here != STANDS_FOR:
        pytest.skip(f"the digests stand for {', '.join(STANDS_FOR)}; the plain loop is compared everywhere")
    assert state_hash(trained(RUNS[name]()).model) == DIGESTS[name]
