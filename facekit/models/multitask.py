"""Networks for several tasks: one trunk with a head a task, a network a task, and everything in between.

All of them are made from one `Stack`, a network as a list of stages, on frozen features (`mlp`) or on photos
(`stack_of` a backbone). `SharedNet` uses its first stages for all tasks together and copies the others for each task:

- all stages shared is hard parameter sharing (Caruana 1997, Machine Learning 28);
- none shared is a network a task. With a penalty on the distance between their layers (`distance`) that is soft
  sharing (Duong et al. 2015, ACL, draw a parser to that of another language; Yang & Hospedales 2017, 1606.04038, use
  the trace norm of the stacked layers in its place), without it they are independent;
- `CrossStitch` lets the networks exchange activations (Misra et al. 2016, CVPR).

Like a `Classifier` they have `tasks` and named stages, so that plans and `fit` treat them as any other network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone, directions
from facekit.models.staged import Staged, by_task
from facekit.tasks import Task

HEADS, STITCHES = "heads", "stitches"


@dataclass(frozen=True)
class Stack:
    """A network without its last layers: what prepares the inputs, then named stages, each a function of one tensor.

    width: length of the vectors (N, width) that the last stage returns.
    """

    inputs: nn.Module
    stages: Mapping[str, nn.Module]
    width: int


def mlp(dim: int, hidden: Sequence[int] = (256,), dropout: float = 0.0) -> Stack:
    """Fully connected layers on unit-length embeddings (N, dim), each with ReLU and dropout: stages `layer_1`, ….

    hidden: units of the layers, at least one layer. The embeddings are multiplied by √dim first, as in `Heads`.
    """
    if dim < 1 or not hidden or min(hidden) < 1 or not 0 <= dropout < 1:
        raise ConfigError(
            f"dim and every hidden layer must be 1 or more, with at least one layer, and dropout in [0, 1); got {dim}, "
            f"{tuple(hidden)}, {dropout}."
        )
    sizes = [dim, *hidden]
    stages = {
        f"layer_{i}": nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
        for i, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False), 1)
    }
    return Stack(Ready(dim, 2), stages, sizes[-1])


def stack_of(backbone: Backbone) -> Stack:
    """A backbone (FaceNet, facenet-mini) as a stack with the same stages and weights; `backbone` is not changed.

    The last stage returns the embedding times √D, which is what `Heads` computes on. Raises ConfigError for a backbone
    that is more than its stages one after another (found by running it on two photos of noise).
    """
    backbone.shapes()
    *trunk, (last, modules) = copy.deepcopy(backbone).eval().requires_grad_(True).stages.items()
    stages = {name: nn.Sequential(*parts) for name, parts in trunk} | {last: Embedding(*modules)}
    return Stack(_Photos(backbone), stages, backbone.embedding_dim)


class SharedNet(Staged):
    """The first stages of a stack for all tasks together, the others once for each task, and an output layer a task.

    shared: how many stages are shared, or the name of the last shared one; None shares all, 0 none. All copies start
    with the weights that the stack has, and the stack keeps its own. A task's output layer is new.

    Its stages are those of the stack (a copied stage stands for all of its copies) with one more, `heads`.
    """

    def __init__(self, stack: Stack, tasks: Sequence[Task], shared: int | str | None = None) -> None:
        super().__init__()
        stages = list(stack.stages.items())
        n_shared = _number_of(shared, list(stack.stages))
        self.tasks = tuple(tasks)
        self.inputs = copy.deepcopy(stack.inputs)
        self.trunk = nn.ModuleDict(copy.deepcopy(dict(stages[:n_shared])))
        towers = by_task(self.tasks, lambda task: nn.ModuleDict(copy.deepcopy(dict(stages[n_shared:]))))
        self.towers = cast(dict[str, nn.ModuleDict], towers)  # a task's own stages
        self.outputs = by_task(self.tasks, lambda task: task.layer(stack.width))

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the stages that all tasks use together."""
        return tuple(self.trunk)

    @property
    def private(self) -> tuple[str, ...]:
        """Names of the stages of which each task has its own."""
        return tuple(self.towers[self.tasks[0].name])

    def check_private(self, stages: Iterable[str]) -> None:
        """Raises ConfigError unless each task has its own copy of all these stages."""
        if unknown := set(stages) - set(self.private):
            raise ConfigError(f"no task has a stage {sorted(unknown)} of its own; those are {list(self.private)}.")

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """See Staged."""
        towers = {name: [tower[name] for tower in self.towers.values()] for name in self.private}
        return {**{name: [stage] for name, stage in self.trunk.items()}, **towers, HEADS: [self.outputs]}

    def start_apart(self) -> SharedNet:
        """Gives every task's copies new random weights of their own, where they had the same; returns self.

        For comparison: between networks that start like that the units at one place do not correspond.
        """
        for tower in self.towers.values():
            for module in tower.modules():
                if hasattr(module, "reset_parameters"):
                    cast(nn.Linear, module).reset_parameters()
        return self

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the stack takes, to outputs (N, task.n_outputs) by task name."""
        return self.heads(self.embed(inputs))

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the stack takes, to what all tasks share: the output of the last shared stage."""
        x = self.inputs(inputs)
        for stage in self.trunk.values():
            x = stage(x)
        return x

    def heads(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What all tasks share to outputs by task name."""
        each = dict.fromkeys(self.towers, x)
        for name in self.private:
            each = self._exchange(name, {task: tower[name](each[task]) for task, tower in self.towers.items()})
        return {task: layer(each[task]) for task, layer in self.outputs.items()}

    def _exchange(self, stage: str, each: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the networks pass on after a stage, by task: here, each its own."""
        return each


class CrossStitch(SharedNet):
    """A network a task whose activations are mixed after every stage: x_i ← Σ_j α_ij x_j (Misra et al. 2016).

    shared: as in SharedNet, by default no stage. stitched: stages after which activations are mixed, by default all
    that are not shared. mix: what a task takes from the others at the start, in equal parts, so that α is 1 - mix on
    the diagonal; with 0 the networks start as independent ones. One α for all channels of a stage.

    The α are a stage of their own, `stitches`, before the heads, so that a Phase can let them learn faster than the
    layers: to get from one end of their range to the other they have much farther to go than a weight.
    """

    def __init__(
        self,
        stack: Stack,
        tasks: Sequence[Task],
        shared: int | str = 0,
        stitched: Sequence[str] | None = None,
        mix: float = 0.1,
    ) -> None:
        super().__init__(stack, tasks, shared)
        chosen = self.private if stitched is None else tuple(stitched)
        if not 0 <= mix <= 1 or len(self.tasks) < 2 or not chosen:
            raise ConfigError(
                f"cross-stitch needs a mix in [0, 1], two tasks or more and a stage that is not shared; got {mix}, "
                f"{len(self.tasks)} and {list(chosen)}."
            )
        self.check_private(chosen)
        n = len(self.tasks)
        start = torch.full((n, n), mix / (n - 1)).fill_diagonal_(1 - mix)
        # Flat, because weight decay acts on matrices only, and α is not to be drawn to 0.
        self.alphas = nn.ParameterDict({name: nn.Parameter(start.flatten().clone()) for name in chosen})

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """As in SharedNet, with `stitches` before `heads`."""
        stages = dict(super().stages)
        heads = stages.pop(HEADS)
        return {**stages, STITCHES: [self.alphas], HEADS: heads}

    def alpha(self, stage: str) -> pd.DataFrame:
        """The α of a stage: what the task of the row takes from the task of the column."""
        names = [task.name for task in self.tasks]
        return pd.DataFrame(self.alphas[stage].detach().cpu().view(len(names), -1).numpy(), names, names)

    def _exchange(self, stage: str, each: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if stage not in self.alphas:
            return each
        alpha = self.alphas[stage].view(len(each), len(each))
        return {
            task: sum(weight * x for weight, x in zip(row, each.values(), strict=True))
            for task, row in zip(each, alpha, strict=True)
        }


def distance(net: SharedNet, strength: float | Mapping[str, float] = 1.0) -> torch.Tensor:
    """Σ_stage λ_stage Σ_{i<j} ‖w_i - w_j‖² over all pairs of tasks, a scalar; w are a stage's weights and biases.

    With two tasks its gradient with respect to a is 2λ(a - b). With T tasks the sum over pairs is T times that of the
    distances to the mean, so that both choices are one with another λ. Frozen stages add nothing to the gradient.
    strength: λ of every stage that is not shared, or by name (then 0 for the others). Raises ConfigError for stages of
    which the tasks have no copies, and for λ below 0.
    """
    strengths = dict.fromkeys(net.private, strength) if not isinstance(strength, Mapping) else dict(strength)
    net.check_private(strengths)
    if min(strengths.values(), default=0) < 0:
        raise ConfigError(f"the strength of sharing must be 0 or more, got {strength}.")
    terms = [
        value * F.mse_loss(one, other, reduction="sum")
        for name, value in strengths.items()
        if value
        for same in zip(*(tower[name].parameters() for tower in net.towers.values()), strict=True)
        for one, other in combinations(same, 2)
    ]
    return cast(torch.Tensor, sum(terms)) if terms else next(net.outputs.parameters()).new_zeros(())


@torch.no_grad()
def relative_distances(net: SharedNet) -> pd.Series:
    """How far apart the tasks' copies of each stage are: 0 where they are equal, about 1 where they are unrelated.

    Root mean square over the pairs of ‖w_i - w_j‖, divided by √2 times the root mean square of ‖w_i‖; index: stage.
    """
    found = {}
    for name in net.private:
        parts = [
            torch.cat([p.flatten() for p in tower[name].parameters()]).cpu().double() for tower in net.towers.values()
        ]
        pairs = [(one - other).square().sum().item() for one, other in combinations(parts, 2)]
        sizes = [part.square().sum().item() for part in parts]
        mean = sum(sizes) / len(sizes)
        found[name] = math.sqrt(sum(pairs) / len(pairs) / (2 * mean)) if pairs and mean else 0.0
    return pd.Series(found, name="distance", dtype=float)


def shared_parameters(model: Staged, stages: Sequence[str] | None = None) -> list[nn.Parameter]:
    """The trainable parameters that serve all tasks: of a classifier its backbone's, of a SharedNet its trunk's.

    stages: only those of these stages. Raises ConfigError where nothing is shared or a stage is not.
    """
    shared = list(getattr(model, "shared", [name for name in model.stages if name != HEADS]))
    if unknown := set(stages or ()) - set(shared):
        raise ConfigError(f"the tasks do not share a stage {sorted(unknown)}; shared are {shared}.")
    chosen = shared if stages is None else stages
    found = [p for stage in chosen for p in model.stage_parameters(stage) if p.requires_grad]
    if not found:
        raise ConfigError("the tasks share no trainable parameter, so nothing can be said of their gradients there.")
    return found


def sharing_costs(model: SharedNet) -> pd.Series:
    """Number of parameters by who uses them: index `shared`, the tasks in order, `all`."""
    everything, own = sum(p.numel() for p in model.parameters()), {}
    for task, layer in model.outputs.items():
        own[task] = sum(p.numel() for part in (model.towers[task], layer) for p in part.parameters())
    return pd.Series({"shared": everything - sum(own.values()), **own, "all": everything}, name="parameters")


def _number_of(shared: int | str | None, names: list[str]) -> int:
    """How many of the stages are shared."""
    if shared is None:
        return len(names)
    if isinstance(shared, str) and shared in names:
        return names.index(shared) + 1
    if isinstance(shared, int) and 0 <= shared <= len(names):
        return shared
    raise ConfigError(f"shared is {shared!r}; give one of the stages {names}, or a number from 0 to {len(names)}.")


class Ready(nn.Module):
    """The input of a stack on what was computed before: checks embeddings (N, D), and multiplies them by √D, or maps.

    width: D, or the channels of maps (N, C, h, w). ndim: 2 or 4.
    """

    def __init__(self, width: int, ndim: int) -> None:
        super().__init__()
        self.width, self.ndim = width, ndim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The embeddings or maps as the first stage takes them; raises ConfigError for others."""
        if x.ndim != self.ndim or x.shape[1] != self.width:
            form = f"embeddings (N, {self.width})" if self.ndim == 2 else f"maps (N, {self.width}, h, w)"
            raise ConfigError(f"this network takes {form}, got {tuple(x.shape)}.")
        return x * math.sqrt(self.width) if self.ndim == 2 else x.contiguous(memory_format=torch.channels_last)


class _Photos(Backbone):
    """The input of a backbone without its layers: checks and scales photos as the backbone does."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.name, self.image_size = backbone.name, backbone.image_size
        self.smallest_size, self.embedding_dim = backbone.smallest_size, backbone.embedding_dim
        self.one_size, self.mean, self.std = backbone.one_size, backbone.mean, backbone.std
        self._last, self._normed = list(backbone.stages)[-1], backbone._has_batchnorm()

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """Only the last stage's name, which decides whether one photo alone is a batch to train on."""
        return {self._last: []}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.prepare(images)

    def _has_batchnorm(self) -> bool:
        return self._normed


class Embedding(nn.Sequential):
    """The last stage of a stack: to vectors of length √D, of maps their means over places; always in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w) or what else the modules take, to float32 (N, D)."""
        with torch.autocast(x.device.type, enabled=False):
            x = directions(super().forward(x.float()))
            return x * math.sqrt(x.shape[1])
