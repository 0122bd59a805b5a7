"""Each rung of the ladder at several learning rates, scored on validation photos: the record `ladder_rates`."""

from __future__ import annotations

from dataclasses import replace

from facekit.experiments import LADDER, few_labels
from facekit.studies.common import fairface, rows_of
from facekit.studies.ladder import rung_blocks
from facekit.studies.runner import Study, study

# Peak learning rates that are tried for each rung; one rung takes that of another, see `ladder.SAME_RATE`.
RATES: dict[str, tuple[float, ...]] = {
    "frozen": (1e-3, 3e-3, 1e-2),
    "new last layer": (3e-4, 1e-3, 3e-3),
    "last block": (1e-4, 3e-4, 1e-3),
    "discriminative rates": (3e-4, 1e-3, 3e-3),
    "everything": (1e-4, 3e-4, 1e-3),
    "from scratch": (1e-3, 3e-3),
}


@study
def record(labels: int = 192, epochs: int = 4, photos: int = 500, seeds: tuple[int, ...] = (0,)) -> Study:
    """Records `ladder_rates`: each rung of the ladder at several learning rates, scored on validation photos.

    The test photos take no part. `record ladder` then gives each rung its best rate.

    Args:
        labels: Photos to learn from, drawn from the split `train`.
        epochs: Passes over them.
        photos: Validation photos to score on, at most.
        seeds: Of the draw of photos, of the heads, of order and dropout.
    """
    faces = fairface()
    pool, held_out = (rows_of(faces, name) for name in ("train", "validation"))
    validation = few_labels(faces, min(photos, len(held_out)), seed=0, pool=held_out)
    few = {seed: few_labels(faces, labels, seed, pool) for seed in seeds}
    rungs = [replace(rung, lr=lr) for rung in LADDER for lr in RATES.get(rung.name, ())]
    return Study(
        "ladder_rates",
        what=f"rungs of the transfer ladder for FaceNet at several rates, {epochs} epochs, scored on validation photos",
        data=f"FairFace, {labels:,} photos to learn from, {len(validation):,} of validation",
        blocks=rung_blocks(few, rungs, validation, epochs),
    )
