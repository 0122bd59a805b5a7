"""Training that minds groups: rows weighted or drawn, a loss that looks at the worst group, an opponent that names it.

Three places to act. Before training rows are weighted: so that every group counts alike (`balanced_weights`), or so
that group and label are independent (`reweighing`); `resampled` draws rows by such weights, for any learner. During
training `GroupDRO` gives most weight to the groups that do worst, and `AdversarialRemoval` trains an embedding from
which an opponent cannot tell the groups.

The groups are a task with classes, as annotators or the faces' owners named them (`tasks.Joint` makes one of several
columns); a row without a group counts in none. What all of this promises is said of training rows. Whether it holds on
others, and what it costs whom, is measured (`evaluation.groups`), against the plain and the balanced baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError, DataError
from facekit.models.multitask import SharedNet, Stack
from facekit.models.staged import Staged
from facekit.tasks import Task
from facekit.training import distributed
from facekit.training.batches import Batch
from facekit.training.methods import Loss, Method, group_means
from facekit.transfer.alignment import AdaptationRow, Ramped, Reversal
from facekit.transfer.probe import checked_weights
from facekit.transfer.table import ALONE, Parameter, Row

Data = TypeVar("Data", bound=LabelledSet)


def group_sizes(data: LabelledSet, groups: Task) -> np.ndarray:
    """How many rows each group has, int64 (groups,).

    Raises DataError where no row has a group, or there is no such column; ConfigError for groups without classes.
    """
    found = _indices(data, groups)
    return np.bincount(found[found >= 0], minlength=len(groups.classes))


def balanced_weights(data: LabelledSet, groups: Task) -> np.ndarray:
    """Weights of the rows, float64 (N,), mean 1, with which every group that occurs counts alike.

    wᵢ ∝ 1 / n_g; rows without a group have weight 0. Raises ConfigError where all rows are of one group, and as
    `group_sizes` does.
    """
    found, sizes = _indices(data, groups), group_sizes(data, groups)
    if (sizes > 0).sum() < 2:
        only = groups.classes[int(sizes.argmax())]
        raise ConfigError(f"all rows are of one group of {groups.name!r}, {only!r}; there is nothing to balance.")
    return _mean_one(np.where(found >= 0, 1 / np.maximum(sizes, 1)[found], 0.0))


def reweighing(data: LabelledSet, groups: Task, task: Task) -> np.ndarray:
    """Weights of the rows, float64 (N,), mean 1, with which group and label of `task` are independent.

    w = P(group) P(label) / P(group, label) of its cell (Kamiran & Calders, Knowledge and Information Systems 2012).
    Groups and labels stay as frequent as they are. Rows that lack one of the two have weight 0. Raises
    ConfigError for a task without classes, one that is the groups themselves, or one group; DataError for no labels.
    """
    if groups.name == task.name:
        raise ConfigError(f"{task.name!r} is both label and group: they cannot be made independent.")
    balanced_weights(data, groups)  # for what it refuses
    group, label = _indices(data, groups), _indices(data, task)
    known = (group >= 0) & (label >= 0)
    if not known.any():
        raise DataError(f"no row has both {groups.name!r} and {task.name!r}; reweighing needs rows with both.")
    cells = np.zeros((len(groups.classes), len(task.classes)))
    np.add.at(cells, (group[known], label[known]), 1 / known.sum())
    expected = cells.sum(1, keepdims=True) * cells.sum(0)
    return _mean_one(np.where(known, (expected / np.where(cells > 0, cells, 1))[group, label], 0.0))


def resampled(data: Data, weights: np.ndarray, seed: int = 0) -> Data:
    """As many rows as before, drawn by their weights (N,): a set for any learner, also one that takes no weights.

    Row i occurs N wᵢ / Σw times, rounded up or down (systematic resampling, in a random order): rare rows are repeated,
    others left out. Raises ConfigError unless the weights are N finite numbers of 0 or more, not all 0.
    """
    weights = checked_weights(weights, len(data))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data))
    edges = np.cumsum(weights[order]) / weights.sum() * len(data)
    edges[-1] = len(data)  # whatever rounding made of it
    drawn = order[np.searchsorted(edges, np.arange(len(data)) + rng.random(), side="right")]
    return data.select(np.sort(drawn))


class GroupDRO(Method):
    """Distributionally robust optimisation over groups: Σ_g q_g L_g, with weights q that grow where the loss is high.

    Sagawa et al., ICLR 2020, 1911.08731, algorithm 1: in every step q_g ← q_g exp(step_size · L_g), brought to the sum
    1, and then the network steps down Σ_g q_g L_g, where L_g is the mean loss of the step's rows of group g, weighted
    over the tasks. q starts alike for all groups that occur. A group that a step lacks keeps its q (the paper draws
    groups alike, so that all are as often missing; here a rare one would lose its weight unseen).

    sizes: training rows of each group, see `group_sizes`; a group without any has weight 0, and nothing is promised for
    it. step_size: 0 keeps all groups alike, which is the balanced baseline. adjustment: C, adds C / √n_g to the losses
    that q sees, so that small groups, which are learnt by heart, count more (section 3.3). It needs strong weight decay
    or an early end: a network that fits every row has no worst group on these rows (section 3.2). The epoch whose worst
    group has the lowest validation loss is the best; that loss is noise where a group has a few rows there.

    Of several processes the weights are those of the whole batch. Logs the tasks' losses, and q as `weight_<group>`.
    """

    step_size: torch.Tensor
    margins: torch.Tensor
    log_weights: torch.Tensor

    def __init__(
        self,
        tasks: Sequence[Task],
        groups: Task,
        sizes: Sequence[int] | np.ndarray,
        step_size: float = 0.01,
        adjustment: float = 0.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(tasks, weights)
        self.groups: Task = _checked(groups)
        counts = torch.as_tensor(np.asarray(sizes), dtype=torch.float64)
        if counts.shape != (len(groups.classes),) or not (counts >= 0).all() or not counts.sum() > 0:
            raise ConfigError(
                f"sizes are the rows of each of the {len(groups.classes)} groups of {groups.name!r}, some above 0; "
                f"got {np.asarray(sizes).tolist()}."
            )
        if not all(0 <= value < math.inf for value in (step_size, adjustment)):
            raise ConfigError(f"step_size and adjustment must be 0 or more, got {step_size} and {adjustment}.")
        start = torch.where(counts > 0, -(counts > 0).sum().double().log(), -math.inf)
        self.register_buffer("step_size", torch.tensor(float(step_size)))
        self.register_buffer("margins", (adjustment / counts.clamp_min(1).sqrt()).float())
        self.register_buffer("log_weights", start.float())

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """See Method; changes the groups' weights."""
        sums, weights = self.group_losses(self.outputs(model, batch), batch), list(self.weights.values())
        world = distributed.world(sums.device)
        whole = world.sum(sums.detach().clone()) if world.size > 1 else sums.detach()
        losses, there = group_means(whole, weights)
        self._reweigh(losses, there)
        own, _ = group_means(torch.stack([sums[..., 0], whole[..., 1]], -1), weights)
        q = self.log_weights.exp()
        # A group's mean is over the rows of all processes, of which the loop takes the share of each.
        total = torch.where(there, q * own, torch.zeros_like(own)).sum() / batch.share
        names = [task.name for task in self.tasks]
        means = sums.detach()[..., 0].sum(1) / sums[..., 1].sum(1).clamp_min(1)
        logs = dict(zip(names, means, strict=True))
        return total, logs | {f"weight_{name}": value for name, value in zip(self.groups.classes, q, strict=True)}

    @torch.no_grad()
    def _reweigh(self, losses: torch.Tensor, there: torch.Tensor) -> None:
        """One step of q, of the groups in the mask `there` (groups,), among which their part of q is shared anew."""
        old = self.log_weights
        new = old + self.step_size * (losses + self.margins)
        nothing = torch.full_like(old, -math.inf)
        before, after = (torch.where(there, value, nothing).logsumexp(0) for value in (old, new))
        self.log_weights.copy_(torch.where(there & (old > -math.inf), new + (before - after), old))


class AdversarialRemoval(Ramped):
    """The tasks' losses, on embeddings of which an opponent cannot say which group a face is of.

    The opponent is a hidden layer that learns the groups from the embedding; behind the reversed gradient (Ganin et
    al., JMLR 2016, as for domains) the network learns, with `strength`, that it fails (Raff & Sylvester, DSAA 2018;
    Zhang, Lemoine & Mitchell, AIES 2018). An opponent at a loss is no proof that the groups are gone: ask a fresh
    probe. Nor does it make errors equal: where the label goes with the group, the label is taken out, too.

    The model is a SharedNet, or another with `embed` (its numbers about 1 in size, `dim` of them) and `heads`. ramp:
    steps until the strength is reached. The best epoch is chosen as in GroupDRO. Logs the tasks' losses and the
    opponent's, `opponent`.
    """

    def __init__(
        self, tasks: Sequence[Task], groups: Task, dim: int, strength: float = 0.3, ramp: int = 0, hidden: int = 64
    ) -> None:
        super().__init__(tasks, strength, ramp)
        if groups.name in [task.name for task in self.tasks]:
            raise ConfigError(f"{groups.name!r} is to be learnt and to be taken out; leave one of the two.")
        self.groups: Task = _checked(groups)
        self.opponent = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, len(groups.classes)))

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """See Method; counts a step."""
        net: Any = model
        embedded = net.embed(batch.inputs)
        outputs = net.heads(embedded)
        logs = {task.name: batch.mean_loss(task, outputs[task.name]) for task in self.tasks}
        said = self.opponent(Reversal.apply(embedded, self._now()))
        found = batch.mean_loss(self.groups, said)
        total = cast(torch.Tensor, sum(self.weights[name] * value for name, value in logs.items()))
        return total + found, logs | {"opponent": found}


def _checked(groups: Task) -> Task:
    """The groups; raises ConfigError unless their labels are classes."""
    if groups.labelled != "class":
        raise ConfigError(f"groups are classes, and {groups.name!r} is of kind {groups.kind}; cut numbers into bands.")
    return groups


def _indices(data: LabelledSet, groups: Task) -> np.ndarray:
    """The rows' classes, int64 (N,), -1 where missing; raises DataError where no row has one."""
    found = data.targets([_checked(groups)])[groups.name].numpy()
    if not (found >= 0).any():
        raise DataError(f"no row has a label for {groups.name!r}; name another column for the groups.")
    return found


def _mean_one(weights: np.ndarray) -> np.ndarray:
    return weights / weights.mean()


def _dro(
    tasks: Sequence[Task],
    groups: Task,
    sets: Mapping[Any, LabelledSet] | None,
    step_size: float,
    adjustment: float,
) -> Method:
    if sets is None:
        raise ConfigError("group_dro needs to know how many rows each group has; pass the sets, too.")
    balanced_weights(sets[ALONE], groups)  # for what it refuses
    return GroupDRO(tasks, groups, group_sizes(sets[ALONE], groups), step_size, adjustment)


def _adversarial(tasks: Sequence[Task], groups: Task, stack: Stack, strength: float, ramp: int) -> Method:
    return AdversarialRemoval(tasks, groups, stack.width, strength, ramp)


_labels = "of every task, and groups"
_before = partial(Row, acts="before", labels=_labels)
ROWS = (
    _before(name="balanced groups", about="fairness: rows weighted or drawn so that every group counts alike"),
    _before(
        name="reweighing",
        about="fairness: rows weighted so that group and label are independent (Kamiran & Calders 2012)",
    ),
    Row(
        name="group dro",
        about="fairness: the loss of the group that does worst counts most (Sagawa et al. 2020); needs weight decay",
        acts="during",
        labels=_labels,
        parameters={
            "step_size": Parameter(0.01, "of the groups' weights, 0 or more; 0: balanced groups"),
            "adjustment": Parameter(0.0, "C of C / √rows, which is added to a group's loss, 0 or more"),
        },
        loss=_dro,
    ),
    AdaptationRow(
        name="adversarial removal",
        about="fairness: an opponent must not tell the group from the embedding (Zhang, Lemoine & Mitchell 2018)",
        acts="during",
        labels=_labels,
        parameters={
            "strength": Parameter(0.3, "of the reversed gradient, 0 or more"),
            "ramp": Parameter(0, "steps until then"),
        },
        loss=_adversarial,
        network=SharedNet,
    ),
    Row(
        name="thresholds by group",
        about="fairness: a threshold for each group makes one rate equal and others not (Hardt, Price & Srebro 2016)",
        acts="after",
        sets="scores of validation rows",
        labels="of one task of two classes, and groups, also when it answers",
    ),
    Row(
        name="temperature",
        about="calibration: one number that makes probabilities as sure as they may be (Guo et al. 2017)",
        acts="after",
        sets="scores of validation rows",
        labels="of the task",
    ),
)
