"""Age asked in several ways on FairFace, with FaceNet: the record `codings_fairface`, by `record codings`."""

from __future__ import annotations

from collections.abc import Sequence

from facekit import settings
from facekit.data.sets import FeatureSet
from facekit.experiments import sharing_methods
from facekit.experiments.codings import compare_codings
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.recording import Sheet, fairface_photos, rows_of, write_record
from facekit.recording_sharing import RECIPES, Recipe
from facekit.tasks import AGE_BAND

SEEDS = (0, 1, 2, 3, 4)
LABELS = (200, 1000, 5000)  # and all of them


def measure_codings(
    sheet: Sheet, train: FeatureSet, test: FeatureSet, recipe: Recipe, labels: Sequence[int], seeds: Sequence[int]
) -> None:
    """All codings of the age band from `labels` rows and from all, block by block (one for each n and seed)."""
    for n in sorted({n for n in labels if n < len(train)} | {len(train)}):
        how = {"dropout": recipe.dropout, "steps": recipe.at(n), "lr": recipe.lr}
        learn = sharing_methods((recipe.hidden,), strengths=(), **how)["single"]
        for seed in settings.progress(seeds, desc=f"{n:,} labels", unit="seed"):
            sheet.block(
                f"{n}-{seed}",
                lambda n=n, seed=seed, learn=learn: compare_codings(train, test, AGE_BAND, [n], [seed], learn),
            )


def record_codings(labels: tuple[int, ...] = LABELS, seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `codings_fairface`: the age band as classes, levels and number, all scored as bands and in years.

    Learns from all official training photos and from draws of them, tests on the official validation photos. Takes
    some two minutes on one core once the photos are embedded.

    Args:
        labels: Numbers of labelled photos besides all of them.
        seeds: Of the draws of labelled rows, of the networks' weights, of order and dropout.
    """
    faces, recipe = fairface_photos(), RECIPES["embedding"]
    features = embed(FaceNet.from_pretrained(), faces, flip=True)
    train, test = features.select(rows_of(faces, "train", "validation")), features.split("test")
    sheet = Sheet("codings_fairface", {"features": features.content_hash(), "recipe": str(recipe)})
    measure_codings(sheet, train, test, recipe, labels, seeds)
    options = "" if tuple(labels) == LABELS else f" --labels [{','.join(map(str, labels))}]"
    return write_record(
        "codings_fairface",
        sheet,
        what="age band from FaceNet's frozen embeddings (mean of photo and mirror image), asked as classes, as levels "
        "and as a number, by networks with one hidden layer that are trained alike; accuracy of the band and mean "
        "error in years, where a band stands for its middle",
        data=f"FairFace, {len(train):,} labelled photos to draw from, {len(test):,} test photos",
        command=f"record codings{options}",
        seeds=seeds,
    )
