"""Sample selection bias: the source is drawn from the target's own population, but not all faces were as likely drawn.

Where the chance to be drawn depends on the face x alone, weighting each source row by w(x) = p_target(x) / p_source(x)
makes means over the source into means over the target (Shimodaira, Journal of Statistical Planning and Inference
2000). Densities need not be estimated for that, only their ratio, and a classifier that tells source from target has
it in its odds (Bickel, Brückner & Scheffer, JMLR 2009).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.models.heads import Classifier
from facekit.tasks import Task
from facekit.training.loop import predict
from facekit.transfer.probe import PRIOR, checked_weights, linear_probe
from facekit.transfer.table import Parameter, Row

DOMAIN = Task("domain", "multiclass", ("source", "target"))


def domain_probe(source: FeatureSet, target: FeatureSet, prior: float = PRIOR) -> Classifier:
    """The linear probe of task `DOMAIN`: is this row from the source or from the target? Looks at no label.

    Raises DataError when the two sets have features of different length.
    """
    if source.features.shape[1] != target.features.shape[1]:
        raise DataError(
            f"source and target need features of one length, got {source.features.shape[1]} and "
            f"{target.features.shape[1]}."
        )
    names = np.repeat(np.array(DOMAIN.classes, dtype=object), [len(source), len(target)])
    both = FeatureSet(
        np.concatenate([source.features, target.features]), pd.DataFrame({DOMAIN.name: names, "split": "train"})
    )
    return linear_probe(both, [DOMAIN], prior)


def density_ratio(source: FeatureSet, target: FeatureSet, prior: float = PRIOR) -> np.ndarray:
    """Weights of the source rows, float64 (N,), mean 1: how much more frequent a face like this is in the target.

    By Bayes' rule p_target(x) / p_source(x) = odds(target | x) · n_source / n_target, with the odds of a logistic
    regression on the features (Bickel et al. 2009). It is exact where the log ratio is linear in x, as between two
    Gaussians of one covariance; the prior pulls all weights towards 1. Raises DataError as `domain_probe`.
    """
    outputs = predict(domain_probe(source, target, prior), source)[DOMAIN.name].double().numpy()
    log_odds = outputs[:, 1] - outputs[:, 0]
    weights = np.exp(log_odds - log_odds.max())  # the largest becomes 1, so nothing overflows
    return weights / weights.mean()


def effective_size(weights: np.ndarray) -> float:
    """(Σw)² / Σw²: how many equally weighted rows scatter as much as these (Kish, Survey Sampling, 1965).

    n for equal weights, 1 where one row has all the weight. Raises ConfigError unless all weights are finite numbers
    of 0 or more and some are above 0.
    """
    weights = checked_weights(weights, len(weights))
    return float(weights.sum() ** 2 / np.square(weights).sum())


def rejection_sample(data: FeatureSet, weights: np.ndarray, seed: int = 0) -> FeatureSet:
    """The rows that survive rejection: row i is kept with probability wᵢ / max w (Zadrozny, Langford & Abe, ICDM 2003).

    What is left is a sample of the target, for any learner, also one that takes no weights. It is smaller: n · mean w
    / max w rows are to be expected. Chances to be collected as weights make a biased source of a fair one. Raises
    ConfigError as `effective_size`.
    """
    weights = checked_weights(weights, len(data))
    return data.select(np.random.default_rng(seed).random(len(data)) < weights / weights.max())


def kernel_mean_matching(
    source: FeatureSet, target: FeatureSet, width: float = 1.0, most: float = 20.0, steps: int = 1000
) -> np.ndarray:
    """Weights of the source rows, float64 (N,), mean 1: both sets get one mean in a kernel's space (Huang et al. 2006).

    Minimises ½ wᵀ K w − N κᵀ w over 0 <= w <= `most` with mean 1, K the kernel among source rows and κ its mean over
    target rows: a probe of source and target is not needed. The kernel is exp(−d² / (2 width² m)), m the median squared
    distance of source rows: `width` is a length in that unit (a Gaussian's σ; what scikit-learn calls gamma is
    1 / (2 width² m)). Accelerated projected gradient; K has N² numbers. Raises ConfigError for a width that is not
    positive or a `most` below 1, DataError for features of different length.
    """
    if not width > 0 or not most >= 1 or steps < 1:
        raise ConfigError(f"width must be above 0, most and steps at least 1; got {width}, {most} and {steps}.")
    xs, xt = (np.asarray(data.features, np.float64) for data in (source, target))
    if xs.shape[1] != xt.shape[1] or min(len(xs), len(xt)) < 2:
        raise DataError(f"two sets of at least two rows and one length of features, got {xs.shape} and {xt.shape}.")
    within, across = (cdist(xs, x, "sqeuclidean") for x in (xs, xt))
    unit = 2 * width**2 * max(float(np.median(within)), 1e-12)
    kernel, wanted = np.exp(-within / unit), len(xs) * np.exp(-across / unit).mean(1)
    rate = 1 / np.linalg.eigvalsh(kernel)[-1]
    weights = ahead = np.ones(len(xs))
    pace = 1.0
    for _ in range(steps):
        new = _projected(ahead - rate * (kernel @ ahead - wanted), most)
        next_pace = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        ahead = new + (pace - 1) / next_pace * (new - weights)
        weights, pace = new, next_pace
    return weights


def _projected(values: np.ndarray, most: float) -> np.ndarray:
    """The nearest numbers from 0 to `most` whose mean is 1: all moved alike, then cut; the move by bisection."""
    low, high = values.min() - most, values.max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(values - middle, 0, most).mean() > 1 else (low, middle)
    return np.clip(values - (low + high) / 2, 0, most)


two_sets = partial(Row, acts="before", sets="source and target, features", labels="of the source alone")
ROWS = (
    two_sets(
        name="importance weights",
        about="sample selection bias: rows weighted by the odds of a probe of source and target (Bickel et al. 2009)",
        parameters={"prior": Parameter(PRIOR, "strength of the prior that pulls all weights towards 1, above 0")},
    ),
    two_sets(
        name="rejection sampling",
        about="sample selection bias: rows kept with a chance as large as their weight (Zadrozny et al. 2003)",
    ),
    two_sets(
        name="kernel mean matching",
        about="sample selection bias: rows weighted so that kernel means of both sets agree (Huang et al. 2006)",
        parameters={"width": Parameter(1.0, "of the kernel, in median distances, above 0")},
    ),
)
