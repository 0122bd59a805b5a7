"""facenet-mini with few labelled portraits, a kind of picture that FaceNet was not trained on: `mini_portraits`."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.studies.common import SEEDS
from facekit.studies.mini import PORTRAIT_TASKS, STUDENT, TEACHER, pixel_scores, probe_scores
from facekit.studies.runner import Study, blocks_of, study

PORTRAITS = (1200, 0, 1000)  # train, validation, test
LABELS = (50, 200)


def portrait_scores(
    mini: FaceNetMini, faces: FaceSet, features: Mapping[str, FeatureSet], epochs: int, n: int, seed: int
) -> pd.DataFrame:
    """What few labelled portraits are enough for: probes on both networks' embeddings, and training on pixels.

    faces: portraits with all splits. features: their embeddings by network. The rest as in `pixel_scores`.
    """
    pictures = faces.split("test").resized(FaceNetMini.image_size)
    tables = [pixel_scores(mini, faces, pictures, PORTRAIT_TASKS, epochs, n, seed)]
    train, test = ({name: rows.split(part) for name, rows in features.items()} for part in ("train", "test"))
    return pd.concat([probe_scores(train, test, PORTRAIT_TASKS, n, seed), *tables], ignore_index=True)


@study
def record(epochs: int = 12, seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `mini_portraits`: facenet-mini, FaceNet and the same network from scratch with few labelled portraits.

    Takes about five minutes on one core.

    Args:
        epochs: Passes over the labelled portraits of the networks that are trained on pixels.
        seeds: Of the draws of labelled portraits and of training on pixels.
    """
    portraits = render_portraits(PORTRAITS)
    networks = {TEACHER: FaceNet.from_pretrained(), STUDENT: FaceNetMini.from_pretrained()}
    features = {name: embed(network, portraits) for name, network in networks.items()}
    return Study(
        "mini_portraits",
        what="facenet-mini, FaceNet and the same network from scratch with few labelled portraits",
        data=f"{PORTRAITS[0]:,} rendered portraits to draw labels from, {PORTRAITS[2]:,} test portraits",
        blocks=blocks_of(portrait_scores, (networks[STUDENT], portraits, features, epochs), LABELS, seeds),
    )
