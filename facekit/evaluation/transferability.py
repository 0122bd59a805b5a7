"""Cheap scores of transferability: how well frozen features suit a task, without training a classifier.

Both look at labelled rows alone and cost one decomposition of their features. A higher score says that a linear head
should do better; how often it does was measured, see the record `networks_real`.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.covariance import ledoit_wolf

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.tasks import Task

# Ratios of the prior's precision to the noise's that are tried, in units of the largest squared singular value.
RATIOS = np.geomspace(1e-10, 1e6, 65)


def logme(rows: FeatureSet, task: Task, bias: bool = False) -> float:
    """Logarithm of maximum evidence (You, Liu, Wang & Long, ICML 2021, sections 4.2 and 4.3), a label and class.

    Each class is a target of 1 and 0 that a linear model predicts from the features F (N, D); its weights are drawn
    from a normal distribution of precision α, the noise has precision β. The evidence N(t; 0, I / β + F Fᵀ / α) is
    maximised over both; the score is the mean of its logarithm / N over the classes that occur. A turn of the features
    or another unit of them changes nothing.

    For a ratio α / β the best β is known, so that one number is searched for, on a grid and then between its points;
    the paper's iteration ends at the same place. The ratio is kept above 1e-10 of the largest squared singular value:
    where the features give the labels exactly, the evidence has no maximum.

    bias: whether the model has a bias, of which nothing is known before. In the paper it has none, so that a network
    also gains by what is the same in all its embeddings, which tells no class from another. With a bias a shift of the
    features changes nothing.

    rows: rows without a label do not count. Raises DataError for fewer than two labelled rows, for a single class, and
    for features that are not finite,
    or all 0; ConfigError for a task that is not multiclass.
    """
    features, classes = _labelled(rows, task)
    onehot = (classes[:, None] == np.unique(classes)).astype(float)
    if bias:  # which is integrated out: what is left lies across the vector of ones
        features, onehot = features - features.mean(0), onehot - onehot.mean(0)
    left, sizes, _ = np.linalg.svd(features, full_matrices=False)
    squared = sizes**2
    if not squared[0] > 0:
        raise DataError("all rows have the same features; the network gives the same answer for every picture.")
    along = (left.T @ onehot) ** 2
    beside = np.maximum((onehot**2).sum(0) - along.sum(0), 0)  # the part of a target that no weights reach
    n = len(features) - bias

    def evidence(log_ratio: float, of: int) -> float:
        stretch = 1 + squared / (np.exp(log_ratio) * squared[0])
        noise = max((along[:, of] / stretch).sum() + beside[of], np.finfo(float).tiny) / n  # 1 / β
        total = n * (np.log(2 * np.pi * noise) + 1) + np.log(stretch).sum()
        return float(-0.5 * total / len(features))

    def best(of: int) -> float:
        grid = np.log(RATIOS)
        found = [evidence(each, of) for each in grid]
        top = int(np.argmax(found))
        ends = grid[max(top - 1, 0)], grid[min(top + 1, len(grid) - 1)]
        finer = minimize_scalar(
            lambda each: -evidence(each, of), bounds=ends, method="bounded", options={"xatol": 1e-6}
        )
        return max(found[top], -float(finer.fun))

    return float(np.mean([best(of) for of in range(onehot.shape[1])]))


def h_score(rows: FeatureSet, task: Task) -> float:
    """H-score (Bao et al., ICIP 2019) with a shrunk covariance (Ibrahim, Ponomareva & Mazumder 2021).

    tr(C⁻¹ (1 − s) B): B is the covariance of the features after each row is replaced by the mean of its class, C that
    of the features themselves, shrunk by the share s towards a multiple of the identity (Ledoit & Wolf 2004), without
    which few rows of many features have no inverse. From 0, where all classes have one mean, to the number of classes
    that occur less 1. A turn, a shift or another unit of the features changes nothing.

    rows and errors: as in `logme`.
    """
    features, classes = _labelled(rows, task)
    features = features - features.mean(0)
    if not features.any():
        raise DataError("all rows have the same features; the network gives the same answer for every picture.")
    covariance, shrinkage = ledoit_wolf(features, assume_centered=True)
    names, places, counts = np.unique(classes, return_inverse=True, return_counts=True)
    means = np.zeros((len(names), features.shape[1]))
    np.add.at(means, places, features)
    means /= counts[:, None]
    shares = counts / len(features)
    inside = np.einsum("kd,kd->k", means, np.linalg.solve(covariance, means.T).T)
    return float((1 - shrinkage) * shares @ inside)


def _labelled(rows: FeatureSet, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Features float64 (n, D) and class indices (n,) of the labelled rows; raises as `logme`."""
    if not task.argmax:
        raise ConfigError(f"{task.name!r} is of the kind {task.kind!r}; these scores are for multiclass tasks.")
    targets = rows.targets([task])[task.name]
    known = task.known(targets).numpy()
    features, classes = np.asarray(rows.features, np.float64)[known], targets.numpy()[known]
    if len(classes) < 2 or len(np.unique(classes)) < 2:
        raise DataError(
            f"{len(classes)} rows with a label for {task.name!r}, of {len(np.unique(classes))} classes; to say how "
            "well features tell classes apart, at least two of both are needed."
        )
    if bad := int((~np.isfinite(features).all(axis=1)).sum()):
        row = int(np.flatnonzero(known)[~np.isfinite(features).all(axis=1)][0])
        raise DataError(f"{bad} labelled rows have features that are not finite, first row {row}; embed them again.")
    return features, classes
