"""What another crop costs on real photos: the record `alignment_fairface`."""

from __future__ import annotations

import pandas as pd

from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.experiments.crops import disturb
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.studies.common import TASKS, fairface, labelled
from facekit.studies.runner import Study, blocks_of, study
from facekit.transfer.probe import linear_probe


def measure(train: FaceSet, test: FaceSet, backbone: Backbone) -> pd.DataFrame:
    """`Disturbed.rows` for one network: its linear probes learn from all of `train`, `test` is cut anew."""
    classifier = linear_probe(embed(backbone, train), TASKS)
    return disturb(test, backbone, classifier).rows.assign(network=backbone.name)


@study
def record(photos: int = 300) -> Study:
    """Records `alignment_fairface`: cosines, answers and accuracy when the crop is wider, turned, moved or coarser.

    Linear probes learn from the training photos as they are; the faces of test photos are found by MTCNN and cut as
    FairFace's are, and then otherwise. Takes some minutes on one core once the photos are embedded.

    Args:
        photos: Test photos, the first so many.
    """
    if photos < 20:
        raise ConfigError(f"no figure is given over fewer than 20 people, got {photos} photos.")
    faces = fairface()
    train, test = faces.split("train"), faces.split("test")
    test = test.select(range(min(photos, len(test))))
    networks = (FaceNet.from_pretrained(), FaceNetMini.from_pretrained())
    return Study(
        "alignment_fairface",
        what="cosine to the embedding of the straight crop, share of answers that stay the same, and accuracy, when a "
        "face is cut wider, turned, moved, or with fewer pixels; linear probes that learnt from photos as they are",
        data=labelled(len(train), test, "labelled photos") + " in which a face is looked for",
        blocks=blocks_of(measure, (train, test), networks),
    )
