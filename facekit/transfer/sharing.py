"""Training networks that share: the soft sharing method, one recipe for all networks, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeVar, cast

import torch
from torch import nn

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.models.multitask import STITCHES, CrossStitch, SharedNet, distance
from facekit.models.staged import Staged
from facekit.tasks import Joint, Task
from facekit.training.batches import Batch, Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Loss, Method, Supervised
from facekit.training.plans import Phase, Plan
from facekit.transfer.table import Parameter, Row

SMOOTHING = {"smoothing": Parameter(0.0, "share of a label that is spread over all classes while learning, 0 to 1")}
FASTER = {STITCHES: 10.0}  # the α of a cross-stitch network learn this much faster than its layers
Net = TypeVar("Net", bound=Staged)


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
        self, tasks: Sequence[Task], strength: float | Mapping[str, float], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(tasks, weights)
        self.strength = strength
        values = dict(strength) if isinstance(strength, Mapping) else {"all": strength}
        if not all(0 <= value < math.inf for value in values.values()):
            raise ConfigError(f"the strength of sharing must be 0 or more, and finite; got {strength}.")
        for stage, value in values.items():  # buffers are a part of a run's fingerprint
            self.register_buffer(f"strength_{stage}", torch.tensor(float(value)))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """See Method; the model is a SharedNet."""
        total, logs = super().loss(model, batch)
        penalty = distance(cast(SharedNet, model), self.strength)
        return total + penalty, logs | {"penalty": penalty.detach()}


def train_shared(
    net: Net,
    method: Method,
    train: FeatureSet | FaceSet,
    *,
    steps: int,
    seed: int,
    lr: float = 1e-3,
    batch_size: int = 128,
    weight_decay: float = 0.5,
) -> Net:
    """Trains all stages of `net` for about `steps` steps on all rows of `train`, whatever their number; returns it.

    The same budget for everything that is compared: the same batches in the same order, no choice on validation
    labels. The α of a cross-stitch network learn faster (`FASTER`). In evaluation mode afterwards.
    """
    if steps < 1:
        raise ConfigError(f"steps must be 1 or more, got {steps}.")
    size = min(batch_size, len(train))
    epochs = max(1, round(steps / len(Batches(train, (), size))))
    recipe = Plan("shared", (Phase("shared", epochs, dict.fromkeys(net.stages, lr)),)).faster(FASTER)
    config = TrainConfig(batch_size=size, weight_decay=weight_decay, seed=seed)
    fit(net, method, train, None, recipe, config)
    return net


class Marginals(nn.Module):
    """A network with one head for a joint task, whose outputs are those of the joint task's parts."""

    def __init__(self, net: nn.Module, joint: Joint) -> None:
        super().__init__()
        self.net, self.joint, self.tasks = net, joint, joint.parts

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the network takes, to outputs (N, classes of the part) by name of the part."""
        return self.joint.marginals(self.net(inputs)[self.joint.task.name])


_row = partial(Row, acts="during", labels="of every task; a row may lack some")
ROWS = (
    Row(
        name="single",
        about="a network a task, independent of each other: the baseline of everything that shares",
        acts="during",
        parameters=SMOOTHING,
        loss=Supervised,
        network=partial(SharedNet, shared=0),
    ),
    _row(name="hard", about="one network, a head a task (Caruana 1997)", parameters=SMOOTHING, loss=Supervised),
    _row(
        name="soft",
        about="a network a task, drawn together by the squared distance of their weights (Duong et al. 2015)",
        parameters={"strength": Parameter(0.1, "λ, the weight of the squared distance, 0 or more")},
        loss=SoftSharing,
        network=partial(SharedNet, shared=0),
    ),
    _row(
        name="cross-stitch",
        about="a network a task, whose activations are mixed after every stage (Misra et al. 2016)",
        parameters={"mix": Parameter(0.1, "what a task takes from the others at the start, 0 to 1")},
        loss=Supervised,
        network=CrossStitch,
        faster=FASTER,
    ),
)
