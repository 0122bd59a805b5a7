"""Sample selection bias: the source is drawn from the target's own population, but not all faces were as likely drawn.

Where the chance to be drawn depends on the face x alone, weighting each source row by w(x) = p_target(x) / p_source(x)
makes means over the source into means over the target (Shimodaira, Journal of Statistical Planning and Inference
2000). Densities need not be estimated for that, only their ratio, and a classifier that tells source from target has
it in its odds (Bickel, Brückner & Scheffer, JMLR 2009).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.errors import DataError
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
)
