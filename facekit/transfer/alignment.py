"""Domain adaptation during training: the source has labels, the target only inputs, and both are seen in every step.

Three ways to make a network embed both alike: its statistics (`with_statistics_of`, adaptive BatchNorm, which needs no
training), a distance between the two (`Alignment` with the distance of CORAL or of kernel means), and an opponent that
tries to tell them apart (`DomainAdversarial`). None looks at a label of the target. A low distance, or an opponent that
is at a loss, is no proof of alignment: ask a fresh `domain_probe`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import AnyBackbone, Backbone
from facekit.models.staged import Staged
from facekit.tasks import Task
from facekit.training.batches import Batch, share_of
from facekit.training.methods import Loss, Method
from facekit.training.plans import Plan
from facekit.transfer.table import Parameter, Row

SOURCE, TARGET = "source", "target"
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def with_statistics_of(backbone: AnyBackbone, photos: FaceSet, batch_size: int = 128) -> AnyBackbone:
    """A copy whose BatchNorms hold mean and variance of these photos: AdaBN (Li et al. 2017, 1603.04779).

    For each domain a copy with its own statistics; the weights are the same. Statistics are means over batches, of
    `batch_size` photos. A head has to be trained on embeddings of the same kind: source photos through the copy of the
    source. Raises ConfigError for a network without BatchNorm, or fewer than two photos.
    """
    adapted = copy.deepcopy(backbone)
    norms = [module for module in adapted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms or len(photos) < 2:
        raise ConfigError(f"{backbone.name} needs BatchNorm to adapt and two photos or more; got {len(photos)}.")
    adapted.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the mean over all batches
        norm.train()
    device = next(adapted.parameters()).device
    size = min(batch_size, len(photos))
    for start in range(0, len(photos) - size + 1, size):  # whole batches: each counts alike
        part = photos.select(np.arange(start, start + size)).resized(backbone.image_size)
        adapted(torch.from_numpy(np.asarray(part.images)).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return adapted.eval()


def coral_distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """‖C₁ − C₂‖² / (4 D²) of the covariances of (N, D) and (M, D), a scalar (Sun & Saenko 2016, 1607.01719)."""
    difference = torch.cov(one.float().T) - torch.cov(other.float().T)
    return difference.square().sum() / (4 * one.shape[1] ** 2)


def kernel_mean_distance(
    one: torch.Tensor, other: torch.Tensor, widths: Sequence[float] = (0.5, 1.0, 2.0)
) -> torch.Tensor:
    """Squared maximum mean discrepancy of (N, D) and (M, D), a scalar of 0 or more (Gretton et al., JMLR 2012).

    The biased estimate with a sum of Gaussian kernels exp(−d² / (2 w² m)), m the mean squared distance of all rows.
    """
    both = torch.cat([one, other]).float()
    squared = torch.cdist(both, both).square()
    middle = squared.detach().mean()
    kernel = torch.stack([torch.exp(-squared / (2 * width**2 * middle)) for width in widths]).sum(0)
    n = len(one)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


class Ramped(Method):
    """A Method one of whose terms has a strength, which grows from 0 over the first `ramp` steps; 0: at once.

    Raises ConfigError unless both are 0 or more.
    """

    strength: torch.Tensor
    ramp: torch.Tensor
    steps: torch.Tensor

    def __init__(self, tasks: Sequence[Task] | Mapping[str, Sequence[Task]], strength: float, ramp: int) -> None:
        super().__init__(tasks)
        if not (strength >= 0 and math.isfinite(strength)) or ramp < 0:
            raise ConfigError(f"strength and ramp must be 0 or more, got {strength} and {ramp}.")
        self.register_buffer("strength", torch.tensor(float(strength)))
        self.register_buffer("ramp", torch.tensor(float(max(ramp, 1))))
        self.register_buffer("steps", torch.tensor(0.0 if ramp else math.inf))

    def _now(self) -> torch.Tensor:
        """The strength in this step: it grows from 0, 2 / (1 + exp(−10 p)) − 1 of it at the share p of the ramp."""
        share = (self.steps / self.ramp).clamp(max=1)
        self.steps += 1
        return self.strength * torch.where(share < 1, 2 / (1 + torch.exp(-10 * share)) - 1, 1.0)


class _TwoSets(Ramped):
    """The tasks' losses on the source, and beside them what a subclass says of both sets' embeddings, `beside`.

    separate: each set passes by itself, so that BatchNorm has in training the statistics of one domain at a time; the
    running ones are then of both, and each domain needs its own afterwards (`with_statistics_of`).
    """

    together = True

    def __init__(self, tasks: Sequence[Task], strength: float, ramp: int, separate: bool) -> None:
        super().__init__({SOURCE: tasks, TARGET: ()}, strength, ramp)
        self.separate = separate

    def loss_together(self, model: nn.Module, batches: Mapping[str, Batch]) -> Loss:
        """See Method; counts a step. Logs the tasks' losses and what stands beside them."""
        embed: Callable[[torch.Tensor], torch.Tensor] = model.embed  # type: ignore[assignment]
        heads: nn.Module = model.heads  # type: ignore[assignment]
        inputs = [batches[name].inputs for name in (SOURCE, TARGET)]
        if inputs[0].shape[1:] != inputs[1].shape[1:]:
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            raise ConfigError(f"source and target need inputs of one shape, got {shapes}; resize one of them.")
        if self.separate:
            source, target = map(embed, inputs)
        else:  # in one pass: BatchNorm then sees both domains in training, as its running statistics do afterwards
            source, target = embed(torch.cat(inputs)).split([len(x) for x in inputs])
        outputs, labelled = heads(source), batches[SOURCE]
        weights = self.weights_of(SOURCE)
        part = labelled.share / share_of(batches.values())  # the loop takes the latter of all that is returned
        logs = {task.name: labelled.mean_loss(task, outputs[task.name]) * part for task in self.tasks}
        total: Any = sum(weights[name] * value for name, value in logs.items())
        beside, own = self.beside(source, target, self._now())
        return total + beside, logs | own

    def beside(self, source: torch.Tensor, target: torch.Tensor, strength: torch.Tensor) -> Loss:
        """What is added to the tasks' losses, and what is logged."""
        raise NotImplementedError


class Alignment(_TwoSets):
    """The tasks' losses on the source plus strength · distance of both sets' embeddings (times √D).

    distance: `coral_distance` (deep CORAL) or `kernel_mean_distance` (deep adaptation networks, Long et al. 2015,
    1502.02791). ramp: steps until the strength is reached; 0: at once. separate: see `_TwoSets`. Logs the distance.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        strength: float = 1.0,
        ramp: int = 0,
        distance: Distance = coral_distance,
        separate: bool = False,
    ) -> None:
        super().__init__(tasks, strength, ramp, separate)
        self.distance = distance

    def beside(self, source: torch.Tensor, target: torch.Tensor, strength: torch.Tensor) -> Loss:
        """See `_TwoSets`."""
        scale = math.sqrt(source.shape[1])
        found = self.distance(source * scale, target * scale)
        return strength * found, {"distance": found}


class Reversal(torch.autograd.Function):
    """The identity, whose gradient comes back times −strength (Ganin et al., JMLR 2016, section 4)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return -ctx.strength * gradient, None


class DomainAdversarial(_TwoSets):
    """Domain-adversarial training: embeddings of which a discriminator cannot say where they come from.

    Ganin et al., JMLR 2016, 1505.07818. The discriminator learns at full rate; behind the reversal the backbone learns,
    with `strength`, that it cannot succeed. dim: of the embedding. ramp: steps until the strength is reached. separate:
    see `_TwoSets`. Logs the discriminator's loss (log 2 where it guesses).
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        dim: int,
        strength: float = 0.3,
        ramp: int = 0,
        hidden: int = 64,
        separate: bool = False,
    ) -> None:
        super().__init__(tasks, strength, ramp, separate)
        self.scale = math.sqrt(dim)
        self.discriminator = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def beside(self, source: torch.Tensor, target: torch.Tensor, strength: torch.Tensor) -> Loss:
        """See `_TwoSets`."""
        both = Reversal.apply(torch.cat([source, target]) * self.scale, strength)
        said = self.discriminator(both)[:, 0]
        from_target = (torch.arange(len(said), device=said.device) >= len(source)).to(said.dtype)
        found = F.binary_cross_entropy_with_logits(said, from_target)
        return found, {"discriminator": found}


@dataclass(frozen=True, kw_only=True)
class AdaptationRow(Row):
    """A row whose network learns to embed otherwise than it did: all of it, unless a plan says otherwise."""

    def planned(self, net: Staged, name: str | None, epochs: int, lr: float, **given: Any) -> Plan:
        """See Row. Raises ConfigError for plan probe: a frozen network embeds as it did before."""
        if name == "probe":
            raise ConfigError(f"plan probe leaves the network as it is, and {self.key} is to change it; use another.")
        return super().planned(net, name or "everything", epochs, lr, **given)


def _network_of(net: Staged) -> Backbone:
    """The network below the heads; raises ConfigError where there is none that could change an embedding."""
    backbone: Backbone | None = getattr(net, "backbone", None)
    if backbone is None:
        raise ConfigError("domain adaptation in training needs a network below the heads; ready embeddings stay apart.")
    return backbone


def _aligned(distance: Distance) -> Callable[..., Method]:
    """What makes the Method of a row that draws both sets together by this distance."""

    def loss(tasks: Mapping[str, Sequence[Task]], net: Staged, strength: float, ramp: int) -> Method:
        _network_of(net)
        return Alignment(tasks[SOURCE], strength, ramp, distance)

    return loss


def _adversarial(tasks: Mapping[str, Sequence[Task]], net: Staged, strength: float, ramp: int) -> Method:
    return DomainAdversarial(tasks[SOURCE], _network_of(net).embedding_dim, strength, ramp)


_strength = {"strength": Parameter(1.0, "weight of the distance, 0 or more"), "ramp": Parameter(0, "steps until then")}
_two_sets = partial(
    AdaptationRow,
    acts="during",
    sets="source and target",
    names=(SOURCE, TARGET),
    unlabelled=(TARGET,),
    labels="of the source alone",
)
ROWS = (
    Row(
        name="adaptive batch norm",
        about="domain adaptation: every domain gets BatchNorm statistics of its own photos (Li et al. 2017)",
        acts="after",
        sets="source and target, photos",
        labels="of the source alone",
    ),
    _two_sets(
        name="coral loss",
        about="domain adaptation: covariances of both domains' embeddings are drawn together (Sun & Saenko 2016)",
        parameters=_strength,
        loss=_aligned(coral_distance),
    ),
    _two_sets(
        name="kernel means",
        about="domain adaptation: the kernel means of both domains' embeddings are drawn together (Long et al. 2015)",
        parameters=_strength,
        loss=_aligned(kernel_mean_distance),
    ),
    _two_sets(
        name="domain-adversarial",
        about="domain adaptation: a discriminator must not tell source from target (Ganin et al. 2016)",
        parameters={"strength": Parameter(0.3, "of the reversed gradient, 0 or more"), "ramp": _strength["ramp"]},
        loss=_adversarial,
    ),
)
