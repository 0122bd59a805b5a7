"""What studies share: FairFace's photos and FaceNet's features, tasks, seeds, numbers of labels, and pages to fill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from facekit.data.catalogue import photos
from facekit.data.sets import FaceSet, FeatureSet, LabelledSet
from facekit.files import atomic_path, may_replace
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.records import markdown
from facekit.tasks import AGE_BAND, GENDER, RACE

TASKS = (RACE, GENDER, AGE_BAND)
SEEDS = (0, 1, 2)
N_ASIDE = 4000
EMBEDDING = "embedding"  # beside the names of FaceNet's stages
Data = TypeVar("Data", bound=LabelledSet)


def fairface() -> FaceSet:
    """FairFace's photos, all splits."""
    return photos("fairface")


def facenet_features(stage: str = EMBEDDING, mirrored: bool | None = None) -> FeatureSet:
    """FaceNet's features of FairFace's photos, all splits: mean of photo and mirror image, or of one of them alone.

    stage: `EMBEDDING`, or a stage whose output is averaged over all places. mirrored: None for the mean of both.
    """
    part = None if stage == EMBEDDING else stage
    return embed(FaceNet.from_pretrained(), fairface(), stage=part, flip=mirrored is None, mirrored=bool(mirrored))


def rows_of(data: LabelledSet, *splits: str) -> np.ndarray:
    """Indices of the rows of these splits."""
    return np.flatnonzero(data.labels["split"].isin(splits))


def set_aside(data: Data) -> tuple[Data, Data]:
    """The official training photos in random order without the first N_ASIDE, and these, always the same ones.

    Of few photos it is half of them. Nothing learns from those set aside and nothing is chosen on them; `data` may be
    photos or features of all splits.
    """
    order = np.random.default_rng(0).permutation(rows_of(data, "train", "validation"))
    aside = min(N_ASIDE, len(order) // 2)
    return data.select(order[aside:]), data.select(order[:aside])


def train_and_test(data: Data) -> tuple[Data, Data]:
    """All official training photos, none held out since nothing is chosen, and the official validation photos."""
    return data.select(rows_of(data, "train", "validation")), data.split("test")


def sizes(labels: Sequence[int], n: int) -> list[int]:
    """The numbers of labels below n, rising, and n."""
    return sorted({size for size in labels if size < n} | {n})


def first(rows: pd.DataFrame, **columns: object) -> pd.DataFrame:
    """The rows with further columns before theirs, each with one value."""
    return rows.assign(**columns)[[*columns, *rows.columns]]


def labelled(n: int, test: LabelledSet, photos: str = "labelled photos to draw from") -> str:
    """Data of a study on FairFace: how many photos are learnt from and tested on."""
    return f"FairFace, {n:,} {photos}, {len(test):,} test photos"


def markdown_of(table: pd.DataFrame, floats: str = "{:.3f}") -> str:
    """A table and its index as Markdown: floats in that format, whole numbers with commas, the rest as it is."""
    formats = {"f": floats, "i": "{:,}"}
    return markdown(table.reset_index().apply(lambda column: column.map(formats.get(column.dtype.kind, "{}").format)))


def write_text(path: Path, text: str) -> int:
    """Writes a card or datasheet and says so; returns 0."""
    with atomic_path(may_replace(path, text.partition("\n")[0].encode())) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    return 0
