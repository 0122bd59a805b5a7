"""Age asked in several ways on FairFace, with FaceNet: the record `codings_fairface`."""

from __future__ import annotations

import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.experiments import sharing_methods
from facekit.experiments.codings import compare_codings
from facekit.studies.common import EMBEDDING, facenet_features, labelled, sizes, train_and_test
from facekit.studies.runner import Study, blocks_of, study
from facekit.studies.sharing import RECIPES, SEEDS
from facekit.tasks import AGE_BAND
from facekit.training.config import Recipe


def measure(train: FeatureSet, test: FeatureSet, recipe: Recipe, n: int, seed: int) -> pd.DataFrame:
    """All codings of the age band from n labels."""
    learn = sharing_methods((recipe.hidden,), recipe.dropout, (), recipe.at(n), recipe.lr)["single"]
    return compare_codings(train, test, AGE_BAND, [n], [seed], learn)


@study
def record(labels: tuple[int, ...] = (200, 1000, 5000), seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `codings_fairface`: the age band as classes, levels and number, all scored as bands and in years.

    Learns from all official training photos and from draws of them, tests on the official validation photos. Takes
    some two minutes on one core once the photos are embedded.

    Args:
        labels: Numbers of labelled photos besides all of them.
        seeds: Of the draws of labelled rows, of the networks' weights, of order and dropout.
    """
    train, test = train_and_test(facenet_features())
    return Study(
        "codings_fairface",
        what="age band from FaceNet's frozen embeddings (mean of photo and mirror image), asked as classes, as levels "
        "and as a number, by networks with one hidden layer that are trained alike; accuracy of the band and mean "
        "error in years, where a band stands for its middle",
        data=labelled(len(train), test),
        blocks=blocks_of(measure, (train, test, RECIPES[EMBEDDING]), sizes(labels, len(train)), seeds),
    )
