"""How fast a linear probe is fitted, beside scikit-learn's logistic regression."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from facekit.data.features.model import FeatureModel
from facekit.errors import ConfigError
from facekit.experiments.speed import fastest, figures
from facekit.tasks import AGE_BAND, GENDER, RACE
from facekit.training.loop import predict
from facekit.transfer.probe import PRIOR, linear_probe


def bench_probe(rows: int = 20_000, rounds: int = 2) -> pd.DataFrame:
    """Measures fitting a linear probe to cached features of 512 numbers, beside scikit-learn with the same penalty.

    Both minimise the same function; scikit-learn runs with its default solver and tolerance, with as many iterations
    as it wants. Race has seven classes; facekit's three tasks are race, gender and age band. Features are drawn.

    Args:
        rows: Features, from the feature model.
        rounds: Fits of each; the fastest counts.

    Returns:
        `figures`: seconds, and the share of rows that both call the same.
    """
    if rows < 100 or rounds < 1:
        raise ConfigError(f"rows must be 100 and rounds 1 or more, got {rows} and {rounds}.")
    drawn = FeatureModel.load().draw(rows)
    x, y = drawn.features * np.float32(math.sqrt(drawn.features.shape[1])), drawn.labels[RACE.name].to_numpy(str)
    peer = LogisticRegression(C=1 / PRIOR, max_iter=1000)
    theirs = peer.fit(x, y).predict(x)
    ours = RACE.predict(predict(linear_probe(drawn, [RACE]), drawn, device="cpu")[RACE.name])
    ways = {
        "scikit-learn's LogisticRegression, race": lambda: peer.fit(x, y) and None,
        "linear_probe, race": lambda: linear_probe(drawn, [RACE]),
        "linear_probe, race, gender and age band": lambda: linear_probe(drawn, [RACE, GENDER, AGE_BAND]),
    }
    seconds = fastest(ways, rounds, torch.device("cpu"))
    same = {"scikit-learn and linear_probe": np.mean(theirs == np.array(RACE.classes)[ours])}
    return pd.concat([figures(seconds, "s"), figures(same, "same answers", compare=False)], ignore_index=True)
