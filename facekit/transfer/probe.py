"""The probe: a classifier on frozen embeddings, the cheapest kind of transfer and the baseline of all others.

The linear probe is a penalised regression. It is convex, so it has no learning rate, no number of epochs and no seed
to choose, and its one constant (`PRIOR`) serves from 50 labels to 20,000. The probe with a hidden layer is not convex
and goes through the training loop like every other network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.models.heads import Classifier, Heads
from facekit.tasks import Task
from facekit.training.loop import TrainConfig, fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.table import Row

# Strength of the Gaussian prior on the weights, in units of one label: chosen on 2,000 held-out FairFace training
# photos, where everything from 30 to 300 is within a point for race, gender and age band at 50 to 20,000 labels.
PRIOR = 100.0
# For features of an earlier stage (`embed(…, stage=…)`), which are all much alike: chosen on 3,000 held-out FairFace
# training photos for FaceNet's last stage before the embedding, where 200 to 600 are within a point or two.
STAGE_PRIOR = 200.0
PRIORS = (3.0, 30.0, 300.0)  # to choose from


def pixel_features(faces: FaceSet, size: int = 16) -> FeatureSet:
    """The photos at `size` x `size` pixels as vectors (N, 3 size^2): what a probe has to go by without a network.

    Centred and scaled by constants, so that nothing is lost but resolution and the vectors are about 1 long, as
    embeddings are. Raises ConfigError for a size below 1.
    """
    if size < 1:
        raise ConfigError(f"a picture has at least 1 pixel a side, got {size}.")
    flat = faces.resized(size).images.reshape(len(faces), -1).astype(np.float32)
    return FeatureSet((flat - 128) / (64 * math.sqrt(flat.shape[1])), faces.labels)


def linear_probe(
    train: FeatureSet, tasks: Sequence[Task], prior: float = PRIOR, weights: np.ndarray | None = None
) -> Classifier:
    """Fits one linear head per task to all rows of `train` and returns the classifier in evaluation mode.

    train: unit-length embeddings (N, D) with labels; rows without a task's label do not count for it. Minimises, for
    each task, the mean loss + prior / (2 n) · ‖W‖² with L-BFGS in float64 (n labels; W acts on embeddings times √D;
    the bias is free). With a multiclass task that is multinomial logistic regression (Bishop 2006, section 4.3.4),
    scikit-learn's `LogisticRegression(C=1 / prior)`; with an ordinal one CORAL's. Needs no validation rows.

    weights: how much each row counts (N,), for multiclass tasks: Σ wᵢ lossᵢ / Σ wᵢ takes the place of the mean loss, so
    that only their ratios matter. Raises DataError when a task has no label at all (that has a weight), ConfigError
    unless the prior is positive and the weights are N finite numbers of 0 or more, not all 0.
    """
    if not prior > 0:
        raise ConfigError(f"the prior must be positive, got {prior}; 100 is a good one.")
    counts = None if weights is None else torch.from_numpy(checked_weights(weights, len(train)))
    if counts is not None and not all(task.argmax for task in tasks):
        raise ConfigError("weights are for multiclass tasks; fit the others without.")
    dim = train.features.shape[1]
    model = Classifier(None, Heads(dim, tasks))
    x = torch.from_numpy(np.asarray(train.features, np.float64)) * math.sqrt(dim)
    for task in tasks:
        targets = task.encode(train.labels[task.name])
        known = task.known(targets) if counts is None else task.known(targets) & (counts > 0)
        if not known.any():
            raise DataError(f"no row has a label for {task.name!r}; a probe needs at least one.")
        last: Any = list(model.heads.layers[task.name].children())[-1]  # whatever the kind's layer: it has these two
        row_weights = None if counts is None else counts[known]
        weight, bias = _minimise(x[known], targets[known], task, len(last.weight), prior, row_weights)
        with torch.no_grad():
            last.weight.copy_(weight)
            last.bias.copy_(bias)
    return model.eval()


def centred(train: FeatureSet) -> Callable[[FeatureSet], FeatureSet]:
    """A map of features, float32 (N, D): the rows of `train` get mean 0 and a mean square length of 1, others alike.

    Networks differ in how large their features are and in what all of them have in common; after this a prior means
    the same for all. Looks at no label. Raises DataError where all rows are the same.
    """
    features = np.asarray(train.features, np.float64)
    mean = features.mean(0)
    length = math.sqrt(((features - mean) ** 2).sum(1).mean())
    if not length > 0:
        raise DataError("all rows have the same features; the network gives the same answer for every picture.")
    return lambda data: replace(data, inputs=((data.features - mean) / length).astype(np.float32))


def tuned_probe(train: FeatureSet, task: Task, priors: Sequence[float] = PRIORS, seed: int = 0) -> Classifier:
    """`linear_probe` with the prior whose mean loss is the lowest on a fifth of the labelled rows, set aside for it.

    All labelled rows are then learnt from. For features of which nobody knows what prior suits them: bring them to one
    size first, see `centred`. priors: rising. seed: of which rows are set aside; the choice looks at no other row.
    Raises as `linear_probe`, and DataError for fewer than 5 labelled rows.
    """
    known = np.flatnonzero(task.known(train.targets([task])[task.name]).numpy())
    if len(known) < 5:
        raise DataError(f"{len(known)} rows with a label for {task.name!r}; to choose a prior at least 5 are needed.")
    rows, turn = _few_directions(train.select(np.random.default_rng(seed).permutation(known)))
    held_out, learn = rows.select(range(len(rows) // 5)), rows.select(range(len(rows) // 5, len(rows)))
    targets = held_out.targets([task])[task.name]
    losses = [task.loss(predict(linear_probe(learn, [task], prior), held_out)[task.name], targets) for prior in priors]
    found = linear_probe(rows, [task], priors[int(torch.stack(losses).argmin())])
    model = Classifier(None, Heads(train.features.shape[1], [task]))
    for name, value in model.state_dict().items():
        small = found.state_dict()[name]
        value.copy_((small.double() @ turn.T if value.shape != small.shape else small).float())
    return model.eval()


def _few_directions(rows: FeatureSet) -> tuple[FeatureSet, torch.Tensor]:
    """The rows in the directions that they reach, and those as columns (D, k): a penalised head uses no other.

    Where there are fewer rows than features that saves most of the time. Lengths are those that a probe expects, see
    `components` in `selftaught`.
    """
    features = np.asarray(rows.features, np.float64)
    n, dim = features.shape
    if n >= dim:
        return rows, torch.eye(dim, dtype=torch.float64)
    turn, _ = np.linalg.qr(features.T)
    return replace(rows, inputs=features @ turn * math.sqrt(dim / n)), torch.from_numpy(turn)


def checked_weights(weights: np.ndarray, n: int) -> np.ndarray:
    """Weights as float64 (n,), a copy; raises ConfigError unless they are n finite numbers of 0 or more, some above."""
    weights = np.array(weights, np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ConfigError(f"weights must be {n} finite numbers of 0 or more, not all 0; got shape {weights.shape}.")
    return weights


def _minimise(
    x: torch.Tensor, targets: torch.Tensor, task: Task, rows: int, prior: float, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (rows, D) and bias (K,) at the minimum of the penalised mean loss; rows is K, of an ordinal task 1.

    L-BFGS walks in coordinates in which the curvature at the start, where all classes are equally probable, is the
    same in all directions. The minimum is the same and the way there shorter.
    """
    n, dim = x.shape
    with_one = torch.cat([x, x.new_ones(n, 1)], dim=1)  # the last weight is the bias, which is not penalised
    curvature = (1 - 1 / task.n_outputs) / task.n_outputs if task.softmax else 1.0
    hessian = curvature / n * with_one.T @ with_one
    hessian.diagonal().add_(prior / n)
    factor = torch.linalg.cholesky(hessian)
    inputs = torch.linalg.solve_triangular(factor, with_one.T, upper=False).T.contiguous()
    shared = rows < task.n_outputs  # one weight vector serves all questions of an ordinal task; each has its bias
    walked = torch.zeros(rows, dim + 1, dtype=x.dtype, requires_grad=True)
    biases = torch.zeros(task.n_outputs, dtype=x.dtype, requires_grad=shared)
    optimiser = torch.optim.LBFGS(
        [walked, biases] if shared else [walked],
        max_iter=300,
        line_search_fn="strong_wolfe",
        tolerance_change=1e-10,
    )

    def unwalked() -> torch.Tensor:
        return torch.linalg.solve_triangular(factor, walked, upper=False, left=False)

    def closure(given: torch.Tensor) -> torch.Tensor:
        optimiser.zero_grad()
        outputs = F.linear(given, walked.to(given.dtype)).to(x.dtype)
        outputs = outputs + biases if shared else outputs
        if weights is None:
            value = task.loss(outputs, targets)
        else:
            value = (weights * task.losses(outputs, targets)).sum() / weights.sum()
        value = value + prior / (2 * n) * unwalked()[:, :dim].square().sum()
        value.backward()
        return value

    # Most of the way in float32, in which the products are four times as fast, and the end in float64.
    for given, tolerance in ((inputs.float(), 1e-5), (inputs, 1e-6)):
        optimiser.param_groups[0]["tolerance_grad"] = tolerance
        optimiser.step(partial(closure, given))
    found = unwalked().detach()
    return found[:, :dim], found[:, dim] + biases.detach()


def hidden_probe(train: FeatureSet, tasks: Sequence[Task], hidden: int = 1024, seed: int = 0) -> Classifier:
    """Trains heads with one hidden layer on all rows of `train` and returns the classifier in evaluation mode.

    A fixed recipe (AdamW, strong dropout, cosine schedule, about 300 steps for few labels to 1,600 for 20,000), so
    that no validation label is needed to stop or to choose.
    """
    torch.manual_seed(seed)
    model = Classifier(None, Heads(train.features.shape[1], tasks, hidden=hidden, dropout=0.7))
    batch_size = min(256, len(train))
    epochs = max(20, math.ceil(300 * batch_size / len(train)))
    recipe = plan("probe", list(model.stages), epochs=epochs, lr=1e-3)
    config = TrainConfig(batch_size=batch_size, weight_decay=0.5, seed=seed)
    fit(model, Supervised(tasks), train, None, recipe, config)
    return model.eval()


_row = partial(Row, acts="during", sets="one set of features")
ROWS = (
    _row(
        name="linear",
        about="feature extraction: linear heads on frozen features, the minimum found with L-BFGS",
        learn=lambda rows, tasks, seed: linear_probe(rows, tasks),
    ),
    _row(
        name="one hidden layer",
        about="feature extraction: heads with one hidden layer on frozen features",
        learn=lambda rows, tasks, seed: hidden_probe(rows, tasks, seed=seed),
    ),
)
