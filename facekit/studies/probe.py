"""FaceNet's embeddings under both probes, from 50 labels to all: the record `probe_fairface`."""

from __future__ import annotations

import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.experiments import PROBES, learning_curve
from facekit.studies.common import SEEDS, TASKS, facenet_features, labelled, sizes, train_and_test
from facekit.studies.runner import Study, blocks_of, study

LABELS = (50, 100, 200, 500, 1000, 2000, 5000, 10000)  # and all of them


def measure(train: FeatureSet, test: FeatureSet, n: int, seed: int) -> pd.DataFrame:
    """Rows of `learning_curve` for all probes with n labels, the same rows for each."""
    return learning_curve(train, test, TASKS, [n], [seed], PROBES)


@study
def record(seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `probe_fairface`: FaceNet's embeddings of FairFace, both probes, from 50 labels to all of them.

    All official training photos are there to learn from (nothing is chosen, so none is held out), the official
    validation photos are the test. Takes about ten minutes on one core once the photos are embedded.

    Args:
        seeds: Of the draws of labelled rows and of the probe with a hidden layer.
    """
    train, test = train_and_test(facenet_features())
    return Study(
        "probe_fairface",
        what="accuracy of probes on FaceNet's frozen embeddings (mean of photo and mirror image) by number of labels; "
        "with all labels every seed of the linear probe is the same fit",
        data=labelled(len(train), test),
        blocks=blocks_of(measure, (train, test), sizes(LABELS, len(train)), seeds),
    )
