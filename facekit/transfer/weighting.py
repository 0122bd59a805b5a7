"""How the losses of several tasks become one step: by weights, fixed or learnt, or by changing their gradients.

Each is a Method, so that `fit` trains with it as with any other. Two things follow from that:

- A method sees no epochs. What changes with time counts steps in a buffer, which is stored in checkpoints.
- `loss` returns a scalar of which the loop takes the gradient. To give the shared parameters another gradient g' than
  their own g, a method adds a term of value 0 whose gradient is g' - g (`_with_gradient`). The tasks' gradients come
  from `torch.autograd.grad`, which leaves `.grad`, and so DistributedDataParallel, alone.

With several processes every weight and gradient here is that of the whole batch: what the formulas need is summed over
the processes first. Methods that need the tasks' gradients cost one backward pass a task more, and do not go together
with `TrainConfig(compile=True)`, which may free what the second pass needs.

The best epoch is chosen on the fixed weights of `Method.weights`, 1 unless given, whatever a method learns beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations

import torch
import torch.distributed as dist
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError
from facekit.models.multitask import SharedNet, shared_parameters
from facekit.models.staged import Staged
from facekit.tasks import Task
from facekit.training import distributed
from facekit.training.batches import Batch
from facekit.training.methods import Loss, Method
from facekit.transfer.table import Parameter, Row

TINY = 1e-30  # no gradient that counts is shorter than its root


def task_losses(tasks: Sequence[Task], model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """Each task's loss on a batch, by name."""
    outputs = model(batch.inputs)
    return {task.name: batch.mean_loss(task, outputs[task.name]) for task in tasks}


def scale_weights(tasks: Sequence[Task], train: LabelledSet) -> dict[str, float]:
    """Weights that make the losses comparable: one over the loss of the best constant answer (`Task.blind_loss`).

    For classes that is the entropy of the labels, so that every task starts at about 1, whatever its kind and number of
    classes: a text costs some ten nats where a class costs one (of texts it is the nats that their characters take at
    their frequencies). To be given to `Supervised` or any other method. Raises DataError for a task without labels,
    ConfigError for one whose labels are all the same.
    """
    weights = {}
    for task in tasks:
        loss = task.blind_loss(train.targets([task])[task.name])
        if loss < 1e-3:
            raise ConfigError(f"all labels of {task.name!r} are the same; there is nothing to learn, leave it out.")
        weights[task.name] = 1 / loss
    return weights


class UncertaintyWeighting(Method):
    """Learnt weights: Σ_t w_t L_t / (2 exp s_t) + s_t / 2, where s_t = log σ_t² is learnt along.

    Kendall, Gal & Cipolla 2018, 1705.07115 (there 1/σ² for classes, 1/2σ² for numbers; one form for all
    here, as is usual). Without anything else to do s_t would become log L_t: a task counts as much as it is
    predictable. s_t starts at 0. Logs each loss and its weight.
    """

    def __init__(self, tasks: Sequence[Task], weights: Mapping[str, float] | None = None) -> None:
        super().__init__(tasks, weights)
        self.log_variances = nn.Parameter(torch.zeros(len(self.tasks)))

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """See Method."""
        losses, scaled = _losses(self, model, batch)
        factors = 0.5 * torch.exp(-self.log_variances)
        return (factors * scaled + self.log_variances / 2).sum(), losses | _named(self, factors)


class DynamicWeightAverage(Method):
    """Tasks whose loss has fallen least get more weight: w_t = T · softmax(r_t / temperature), T tasks.

    r_t is the mean loss of the last period divided by that of the period before; in the first two periods all weights
    are 1. Liu, Johns & Davison 2019, 1803.10704. period: steps; the paper averages over an epoch, which is
    len(train) / batch_size steps. Logs each loss and its weight.
    """

    period: torch.Tensor
    temperature: torch.Tensor
    steps: torch.Tensor
    means: torch.Tensor

    def __init__(
        self, tasks: Sequence[Task], period: int, temperature: float = 2.0, weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(tasks, weights)
        if period < 1 or not temperature > 0:
            raise ConfigError(f"period must be 1 or more and temperature positive, got {period} and {temperature}.")
        self.register_buffer("period", torch.tensor(period))
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("means", torch.zeros(3, len(self.tasks)))  # this period's sum, the last two's means

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """See Method; counts a step."""
        losses, scaled = _losses(self, model, batch)
        with torch.no_grad():
            before = torch.where(self.means[2] > 0, self.means[1] / self.means[2], 1.0)
            learnt = len(self.tasks) * (before / self.temperature).softmax(0)
            factors = torch.where(self.steps >= 2 * self.period, learnt, torch.ones_like(learnt))
            total = self.means[0] + _everywhere(scaled.detach(), batch)
            self.steps += 1
            ended = self.steps % self.period == 0  # not an `if`, which would wait for the device
            finished = torch.stack([torch.zeros_like(total), total / self.period, self.means[1]])
            going_on = torch.stack([total, self.means[1], self.means[2]])
            self.means.copy_(torch.where(ended, finished, going_on))
        return (factors * scaled).sum(), losses | _named(self, factors)


class GradNorm(Method):
    """Learnt weights that make the tasks' gradients on the shared parameters equally long, slow learners' longer.

    With the weights w = T · softmax(v), G_t = w_t ‖∇L_t‖ and the training rates r_t = (L_t / L_t(0)) / their mean, v
    minimises Σ_t |G_t - mean(G) · r_t^alpha|, the target taken as a constant; the network minimises Σ_t w_t L_t with
    w as constants. Chen et al. 2018, 1711.02257; the softmax keeps the sum of the weights, where the paper
    divides by it after each step. v starts at 0 and learns at the rate of the heads.

    alpha: how much slow learners are favoured. stages: shared stages whose parameters count,
    by default all of them; the paper takes the last one, which is faster. L_t(0) is the loss of the first batch with
    labels for t. Logs each loss and its weight.
    """

    alpha: torch.Tensor
    initial: torch.Tensor

    def __init__(
        self,
        tasks: Sequence[Task],
        alpha: float = 1.5,
        stages: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(tasks, weights)
        self.stages = None if stages is None else tuple(stages)
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("initial", torch.zeros(len(self.tasks)))
        self.scores = nn.Parameter(torch.zeros(len(self.tasks)))

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """See Method; remembers the first loss of each task."""
        losses, scaled = _losses(self, model, batch)
        gradients = task_gradients(scaled, shared_parameters(model, self.stages), batch)
        factors = len(self.tasks) * self.scores.softmax(0)
        with torch.no_grad():
            now = _everywhere(scaled.detach(), batch)
            self.initial.copy_(torch.where(self.initial == 0, now, self.initial))
            rates = now / self.initial.clamp_min(TINY)
            rates = rates / rates.mean().clamp_min(TINY)
        lengths = factors * gradients.norm(dim=1)
        target = (lengths.mean() * rates**self.alpha).detach()
        balance = (lengths - target).abs().sum()
        total = (factors.detach() * scaled).sum()
        return total + (balance - balance.detach()), losses | _named(self, factors)


class PCGrad(Method):
    """Projecting conflicting gradients: on the shared parameters no task's step goes against another's.

    Yu et al. 2020, 2001.06782, algorithm 1: where the gradients of two tasks have a negative cosine, the one loses its
    component along the other; the results are summed. Parameters that one task alone uses get their own gradient.
    stages: shared stages whose parameters are treated as one vector, by default all; the others keep the plain sum.
    Logs each loss and the cosine of each pair of tasks before the projection, `cosine_a_b`.
    """

    def __init__(
        self, tasks: Sequence[Task], stages: Sequence[str] | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(tasks, weights)
        self.stages = None if stages is None else tuple(stages)

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """See Method; draws the order of the projections from torch's random state."""
        losses, scaled = _losses(self, model, batch)
        parameters = shared_parameters(model, self.stages)
        gradients = task_gradients(scaled, parameters, batch)
        n = len(self.tasks)
        orders = torch.rand(n, n, device=gradients.device).argsort(1)
        if distributed.world(gradients.device).size > 1:  # each process has random numbers of its own
            dist.broadcast(orders, 0)
        wanted = project_conflicts(gradients, orders)
        total = _with_gradient(scaled.sum(), parameters, wanted - gradients.sum(0))
        cosines = cosine_matrix(gradients)
        pairs = combinations(range(n), 2)
        names = [task.name for task in self.tasks]
        return total, losses | {f"cosine_{names[i]}_{names[j]}": cosines[i, j] for i, j in pairs}


def project_conflicts(gradients: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """PCGrad's sum (P,) of the gradients (T, P) after each has been projected off those it conflicts with.

    orders: (T, T) int64, row i the order in which task i meets the tasks (it never conflicts with itself). Projected
    gradients are combinations of the given ones, so all is computed with their T × T products, without waiting for
    the device.
    """
    products = gradients @ gradients.T
    n = len(gradients)
    coefficients = torch.eye(n, dtype=gradients.dtype, device=gradients.device)
    for step in range(n):
        met = orders[:, step]  # one for each task
        product = (coefficients * products[met]).sum(1)
        length = products.diagonal()[met].clamp_min(TINY)
        along = torch.where((product < 0) & (met != torch.arange(n, device=met.device)), product / length, 0.0)
        coefficients = coefficients - torch.nn.functional.one_hot(met, n) * along[:, None]
    return coefficients.sum(0) @ gradients


def task_gradients(losses: torch.Tensor, parameters: Sequence[nn.Parameter], batch: Batch) -> torch.Tensor:
    """Gradients (T, P), float32, of T losses (T,) with respect to the parameters as one vector; of the whole batch.

    A parameter that a loss does not depend on gets 0. The graph is kept for the loop's own backward pass.
    """
    rows = []
    for value in losses:
        found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in found]))
    return _everywhere(torch.stack(rows), batch)


def cosine_matrix(gradients: torch.Tensor) -> torch.Tensor:
    """Cosines (T, T) between gradients (T, P); 0 where a gradient is 0."""
    unit = gradients / gradients.norm(dim=1, keepdim=True).clamp_min(TINY)
    return unit @ unit.T


def _with_gradient(value: torch.Tensor, parameters: Sequence[nn.Parameter], more: torch.Tensor) -> torch.Tensor:
    """The same scalar, whose gradient with respect to the parameters is greater by `more` (P,)."""
    parts = more.split([p.numel() for p in parameters])
    term = sum((part.view_as(p) * p).sum() for part, p in zip(parts, parameters, strict=True))
    return value + (term - term.detach())


def _losses(method: Method, model: nn.Module, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Each task's loss by name, and all of them (T,) times the method's fixed weights."""
    losses = task_losses(method.tasks, model, batch)
    return losses, torch.stack([method.weights[name] * value for name, value in losses.items()])


def _named(method: Method, factors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Learnt weights for the log: `weight_<task>`."""
    return {f"weight_{task.name}": factor.detach() for task, factor in zip(method.tasks, factors, strict=True)}


def _everywhere(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Means over this process's rows become means over the whole batch's."""
    world = distributed.world(values.device)
    return world.sum(values * batch.share) if world.size > 1 else values


_row = partial(Row, acts="during", network=SharedNet)
ROWS = (
    Row(
        name="scaled losses",
        about="each loss divided by that of the best constant answer: fixed weights, see `scale_weights`",
        acts="before",
    ),
    _row(
        name="uncertainty",
        about="hard sharing with learnt weights of the losses (Kendall, Gal & Cipolla 2018)",
        loss=UncertaintyWeighting,
    ),
    _row(
        name="dynamic weights",
        about="hard sharing; the task whose loss has fallen least gets more weight (Liu, Johns & Davison 2019)",
        parameters={"temperature": Parameter(2.0, "the larger, the more equal the weights, above 0")},
        loss=DynamicWeightAverage,
    ),
    _row(
        name="gradnorm",
        about="hard sharing; weights that make the tasks' gradients equally long (Chen et al. 2018)",
        parameters={"alpha": Parameter(1.5, "how much slow learners are favoured, 0 or more")},
        loss=GradNorm,
    ),
    _row(name="pcgrad", about="hard sharing; no task's step goes against another's (Yu et al. 2020)", loss=PCGrad),
)
