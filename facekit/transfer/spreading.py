"""Few labels and many rows without any, on features: labels go to neighbours, or a model learns on from its answers.

Both are scikit-learn's estimators; here they take and give what the course's probes do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.tasks import Task
from facekit.transfer.probe import PRIOR
from facekit.transfer.table import Parameter, Row

if TYPE_CHECKING:
    # Inside the functions, too: the table of methods, which `train --help` reads, must not wait for scikit-learn.
    from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

# Chosen on 3,000 held-out FairFace training photos (FaceNet's features; gender and race, 20 to 200 labels, 2,000 rows
# without and 13,000): from 10 to 50 neighbours and an alpha from 0.2 to 0.8 are within a point or two.
NEIGHBOURS = 20
ALPHA = 0.5  # how far a row listens to its neighbours instead of to its label
THRESHOLD = 0.8
UNKNOWN = -1  # scikit-learn's label of a row without one, and facekit's

Answers = Callable[[FeatureSet], np.ndarray]  # rows to probabilities, float64 (N, K)


def label_spreading(
    labelled: FeatureSet, unlabelled: FeatureSet, task: Task, neighbours: int = NEIGHBOURS, alpha: float = ALPHA
) -> Answers:
    """Labels go from row to row along the nearest neighbours, of both sets (Zhou et al., NIPS 2003).

    Two rows are neighbours if one of them is among the `neighbours` nearest of the other: the paper's graph has no
    direction. A row of another set gets the mean of what its nearest neighbours got. unlabelled: its labels are not
    looked at. Raises ConfigError for fewer than one neighbour or an alpha that is not between 0 and 1, and as
    `_together`.
    """
    from sklearn.semi_supervised import LabelSpreading

    x, targets = _together(labelled, unlabelled, task)
    if not (1 <= neighbours < len(x) and 0 < alpha < 1):
        raise ConfigError(
            f"neighbours must be from 1 to {len(x) - 1} and alpha between 0 and 1, got {neighbours} and {alpha}."
        )
    model = LabelSpreading(kernel=partial(_near, neighbours), alpha=alpha, max_iter=100).fit(x, targets)
    return partial(_answers, model, task)


def _near(neighbours: int, rows: np.ndarray, others: np.ndarray) -> csr_matrix:
    """1 where rows (N, D) and others (M, D) are neighbours, (N, M); scikit-learn gives `rows` twice for their graph."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=neighbours).fit(rows)
    if others is not rows:
        return found.kneighbors_graph(others).T
    graph = found.kneighbors_graph()  # nobody is a neighbour of itself
    return graph.maximum(graph.T)


def self_training(
    labelled: FeatureSet,
    unlabelled: FeatureSet,
    task: Task,
    threshold: float = THRESHOLD,
    rounds: int = 10,
    prior: float = PRIOR,
) -> Answers:
    """A linear probe learns on from those of its own answers that it is sure of (Yarowsky, ACL 1995).

    In every round the unlabelled rows with a probability above `threshold` get the answer as their label, which they
    keep. prior: as in `linear_probe`. Raises ConfigError for a threshold that is not from 0 to below 1 or no round, and
    as `_together`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import SelfTrainingClassifier

    x, targets = _together(labelled, unlabelled, task)
    if not 0 <= threshold < 1 or rounds < 1:
        raise ConfigError(f"the threshold must be from 0 to below 1 and rounds at least 1, got {threshold}, {rounds}.")
    probe = LogisticRegression(C=1 / prior, max_iter=300)
    model = SelfTrainingClassifier(probe, threshold=threshold, max_iter=rounds).fit(x, targets)
    return partial(_answers, model, task)


def _together(labelled: FeatureSet, unlabelled: FeatureSet, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Features times √D of both sets, and the labels of the first.

    Raises ConfigError for a task without classes, DataError for fewer than two classes among the labels.
    """
    if not task.argmax:
        raise ConfigError(f"{task.name} has no classes to give to other rows.")
    known = labelled.targets([task])[task.name].numpy()
    if len(set(known) - {UNKNOWN}) < 2:
        raise DataError(f"labels of at least two classes of {task.name!r} are needed.")
    x = np.concatenate([labelled.features, unlabelled.features]) * math.sqrt(labelled.features.shape[1])
    return x, np.concatenate([known, np.full(len(unlabelled), UNKNOWN)])


def _answers(model: LabelSpreading | SelfTrainingClassifier, task: Task, rows: FeatureSet) -> np.ndarray:
    """Probabilities (N, K) of all classes of the task; 0 for those that no label showed."""
    found = np.zeros((len(rows), len(task.classes)))
    with np.errstate(invalid="ignore"):
        said = model.predict_proba(rows.features * math.sqrt(rows.features.shape[1]))
    said[np.isnan(said).any(1)] = 1 / len(model.classes_)  # no label has come as far as these rows
    found[:, model.classes_] = said
    return found


_row = partial(Row, acts="before", sets="unlabelled and labelled, features", labels="of the labelled set alone")
ROWS = (
    _row(
        name="label spreading",
        about="self-taught learning: labels go from row to row along the nearest neighbours (Zhou et al. 2003)",
        parameters={
            "neighbours": Parameter(NEIGHBOURS, "of every row, 1 or more"),
            "alpha": Parameter(ALPHA, "how far a row listens to its neighbours, between 0 and 1"),
        },
    ),
    _row(
        name="self-training",
        about="self-taught learning: a probe learns on from its own surest answers (Yarowsky 1995)",
        parameters={"threshold": Parameter(THRESHOLD, "how sure an answer must be, from 0 to below 1")},
    ),
)
