"""What FaceNet knows before its embedding: the record `stages_fairface`."""

from __future__ import annotations

import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.experiments import learning_curve
from facekit.studies.common import EMBEDDING, SEEDS, TASKS, facenet_features, labelled, sizes, train_and_test
from facekit.studies.probe import LABELS
from facekit.studies.runner import Study, blocks_of, study
from facekit.transfer.probe import PRIOR, STAGE_PRIOR, linear_probe


def measure(train: FeatureSet, test: FeatureSet, stage: str, n: int, seed: int) -> pd.DataFrame:
    """Rows of `learning_curve` for linear probes on a stage's features, whose name is that of the method."""
    prior = PRIOR if stage == EMBEDDING else STAGE_PRIOR
    probe = {stage: lambda rows, tasks, seed: linear_probe(rows, tasks, prior)}
    return learning_curve(train, test, TASKS, [n], [seed], probe)


@study
def record(stages: tuple[str, ...] = ("repeat_3",), seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `stages_fairface`: linear probes on what FaceNet knows before its embedding, and on the embedding.

    Of each stage the output, averaged over places, of photo and mirror image. Same photos and draws as `record probe`.

    Args:
        stages: Names of FaceNet's stages; stem, repeat_1, mixed_6a, repeat_2, mixed_7a and repeat_3 (the last).
        seeds: Of the draws of labelled rows.
    """
    several = {stage: train_and_test(facenet_features(stage)) for stage in (*stages, EMBEDDING)}
    train, test = several[EMBEDDING]
    return Study(
        "stages_fairface",
        what="accuracy of linear probes on FaceNet's embedding and on the averaged output of earlier stages (mean of "
        "photo and mirror image) by number of labels",
        data=labelled(len(train), test),
        blocks=[
            block
            for stage, sides in several.items()
            for block in blocks_of(measure, sides, [stage], sizes(LABELS, len(train)), seeds)
        ],
    )
