"""Training networks that share: the soft sharing method, one recipe for all networks, and what each costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit import settings
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.models.heads import Classifier
from facekit.models.mini import FaceNetMini
from facekit.models.sharing import CrossStitch, SharedNet, Stack, distance, mlp, sharing_costs, stack_of
from facekit.tasks import AGE_BAND, GENDER, RACE, Joint, Task
from facekit.training.batches import Batch, Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Method, Supervised
from facekit.training.plans import Phase, Plan

STITCH_RATE = 10.0  # the α of a cross-stitch network learn this much faster than its layers


class SoftSharing(Supervised):
    """The tasks' losses and a penalty that draws the tasks' networks together: Σ w_t L_t + λ Σ_{i<j} ‖w_i - w_j‖².

    Soft parameter sharing by the L2 distance, as Duong et al. 2015 (ACL) draw a parser to that of another language.
    strength: λ, one number for all stages or a number by stage (see `sharing.distance`, which also says why all
    pairs). With 0 the networks are independent; the larger it is, the closer they are to one.

    AdamW divides a gradient by its recent size. A λ far larger than it takes to keep the networks together makes that
    size the penalty's, and the tasks are learnt more slowly than one network would learn them: the far end of the dial
    is reached at the smallest λ at which `sharing.relative_distances` are about 0.02, not at the largest.

    Logs each loss, and the penalty as `penalty`.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        strength: float | Mapping[str, float],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(tasks, weights)
        self.strength = strength
        values = dict(strength) if isinstance(strength, Mapping) else {"all": strength}
        if not all(0 <= value < math.inf for value in values.values()):
            raise ConfigError(f"the strength of sharing must be 0 or more, and finite; got {strength}.")
        for stage, value in values.items():  # buffers are a part of a run's fingerprint
            self.register_buffer(f"strength_{stage}", torch.tensor(float(value)))

    def loss(self, model: SharedNet, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See Method."""
        total, logs = super().loss(model, batch)
        penalty = distance(model, self.strength)
        return total + penalty, logs | {"penalty": penalty.detach()}


def train_shared(
    net: SharedNet,
    method: Method,
    train: FeatureSet | FaceSet,
    *,
    steps: int,
    seed: int,
    lr: float = 1e-3,
    batch_size: int = 128,
    weight_decay: float = 0.5,
) -> SharedNet:
    """Trains all stages of `net` for about `steps` steps on all rows of `train`, whatever their number; returns it.

    The same budget for everything that is compared: the same batches in the same order, no choice on validation
    labels. The α of a cross-stitch network learn `STITCH_RATE` times faster. In evaluation mode afterwards.
    """
    if steps < 1:
        raise ConfigError(f"steps must be 1 or more, got {steps}.")
    size = min(batch_size, len(train))
    epochs = max(1, round(steps / len(Batches(train, (), size))))
    rates = {stage: lr * (STITCH_RATE if stage == "stitches" else 1) for stage in net.stages}
    recipe = Plan("shared", (Phase("shared", epochs, rates),))
    config = TrainConfig(batch_size=size, weight_decay=weight_decay, seed=seed)
    fit(net, method, train, None, recipe, config)
    return net


class Marginals(nn.Module):
    """A network with one head for a joint task, whose outputs are those of the joint task's parts."""

    def __init__(self, net: SharedNet | Classifier, joint: Joint) -> None:
        super().__init__()
        self.net, self.joint, self.tasks = net, joint, joint.parts

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the network takes, to outputs (N, classes of the part) by name of the part."""
        return self.joint.marginals(self.net(inputs)[self.joint.task.name])


def bench_sharing(
    rounds: int = 5, batch_size: int = 64, device: str | None = None, on: tuple[str, ...] = ("features", "photos")
) -> pd.DataFrame:
    """Measures what a training step costs: one network, a network a task, hard and soft sharing, cross-stitch.

    Three tasks (gender, race, age band), forward and backward pass; on features of 512 numbers (one hidden layer of
    256) and on photos of 96 × 96 (facenet-mini, shared up to its last but one stage where it is split). Inputs are
    noise, the time does not depend on them. Every row is run once to warm up, then the rows take turns.

    Args:
        rounds: Measurements per row; the fastest counts.
        batch_size: Rows a step.
        device: Where to compute, by default as everywhere in facekit.
        on: Of `features` and `photos` those to measure on.

    Returns:
        Columns on, row, parameters, milliseconds, times (the time of the network with one task), also printed.
    """
    if rounds < 1 or batch_size < 2:
        raise ConfigError(f"rounds must be 1 and batch_size 2 or more, got {rounds} and {batch_size}.")
    if not on or set(on) - {"features", "photos"}:
        raise ConfigError(f"measure on features, on photos or on both; got {on}.")
    place = torch.device(device) if device is not None else settings.device()
    tasks = (GENDER, RACE, AGE_BAND)
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({task.name: rng.choice(task.classes, batch_size) for task in tasks} | {"split": "train"})
    photos = rng.integers(0, 256, (batch_size, 3, 96, 96), dtype=np.uint8)
    features = rng.normal(size=(batch_size, 512)).astype(np.float32) / 512**0.5
    sets = {
        "features": (FeatureSet(features, labels), mlp(512)),
        "photos": (FaceSet(photos, labels), stack_of(FaceNetMini())),
    }
    print(f"{batch_size} rows a step on {place}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    tables = []
    for kind in on:
        data, stack = sets[kind]
        batch = next(Batches(data, tasks, batch_size, device=place).epoch())
        rows = {name: (net.to(place).train(), method) for name, (net, method) in _bench_rows(stack, tasks).items()}
        least = dict.fromkeys(rows, math.inf)
        for i in range(rounds + 1):
            for name, (net, method) in rows.items():
                seconds = _step_seconds(net, method, batch, place)
                least[name] = min(least[name], seconds) if i else math.inf
        table = pd.DataFrame({"on": kind, "row": list(rows)})
        table["parameters"] = [int(sharing_costs(net)["all"]) for net, _ in rows.values()]
        table["milliseconds"] = [1000 * seconds for seconds in least.values()]
        tables.append(table.assign(times=table["milliseconds"] / table["milliseconds"][0]))
    table = pd.concat(tables, ignore_index=True)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return table


def _bench_rows(stack: Stack, tasks: Sequence[Task]) -> dict[str, tuple[SharedNet, Method]]:
    plain = Supervised(tasks)
    rows: dict[str, tuple[SharedNet, Method]] = {
        "one task": (SharedNet(stack, tasks[:1]), Supervised(tasks[:1])),
        "hard": (SharedNet(stack, tasks), plain),
    }
    if len(stack.stages) > 1:
        last = list(stack.stages)[-3]
        rows[f"hard up to {last}"] = (SharedNet(stack, tasks, last), plain)
    return rows | {
        "a network a task": (SharedNet(stack, tasks, 0), plain),
        "soft": (SharedNet(stack, tasks, 0), SoftSharing(tasks, 1.0)),
        "cross-stitch": (CrossStitch(stack, tasks), plain),
    }


def _step_seconds(net: SharedNet, method: Method, batch: Batch, device: torch.device) -> float:
    """Seconds of a forward and a backward pass, once."""
    wait: Callable[[], object] = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    net.zero_grad()
    wait()
    start = time.perf_counter()
    method.loss(net, batch)[0].backward()
    wait()
    return time.perf_counter() - start
