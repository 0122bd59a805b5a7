"""What another crop costs on real photos: the record `alignment_fairface`, by `record alignment`."""

from __future__ import annotations

from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.experiments.crops import disturb
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.recording import TASKS, Sheet, fairface_photos, rows_of
from facekit.records import record
from facekit.transfer.probe import linear_probe

PHOTOS = 300


def measure_alignment(sheet: Sheet, train: FaceSet, test: FaceSet, backbone: Backbone) -> None:
    """A block of `Disturbed.rows` for one network: its linear probes learn from all of `train`, `test` is cut anew."""

    def measure():
        classifier = linear_probe(embed(backbone, train), TASKS)
        return disturb(test, backbone, classifier).rows.assign(network=backbone.name)

    sheet.block(backbone.name, measure)


def record_alignment(photos: int = PHOTOS) -> int:
    """Records `alignment_fairface`: cosines, answers and accuracy when the crop is wider, turned, moved or coarser.

    Linear probes learn from the training photos as they are; the faces of test photos are found by MTCNN and cut as
    FairFace's are, and then otherwise. Takes some minutes on one core once the photos are embedded.

    Args:
        photos: Test photos, the first so many.
    """
    if photos < 20:
        raise ConfigError(f"no figure is given over fewer than 20 people, got {photos} photos.")
    faces = fairface_photos()
    train, test = faces.select(rows_of(faces, "train")), faces.split("test")
    test = test.select(range(min(photos, len(test))))
    sheet = Sheet("alignment_fairface", {"photos": faces.content_hash(), "n": photos})
    for backbone in (FaceNet.from_pretrained(), FaceNetMini.from_pretrained()):
        measure_alignment(sheet, train, test, backbone)
    path = record(
        "alignment_fairface",
        sheet.rows,
        what="cosine to the embedding of the straight crop, share of answers that stay the same, and accuracy, when a "
        "face is cut wider, turned, moved, or with fewer pixels; linear probes that learnt from photos as they are",
        data=f"FairFace, {len(train):,} labelled photos, {len(test):,} test photos in which a face is looked for",
        command=f"python -m facekit record alignment --photos {photos}",
        seconds=sheet.seconds,
    )
    print(f"wrote {path}: {len(sheet.rows):,} rows, {sheet.seconds:.0f} s")
    return 0
