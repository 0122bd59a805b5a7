"""What portraits without labels teach a network that goes on for longer: the record `contrastive_portraits`."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import pandas as pd

from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.staged import Staged
from facekit.studies.runner import Study, blocks_of, study
from facekit.studies.selftaught import (
    DRAWN,
    PORTRAITS,
    SAME_COLOURS,
    SMALL,
    UNLABELLED,
    embedding,
    measure_code,
    new_network,
    untrained,
)
from facekit.training.batches import Batch
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Loss
from facekit.training.plans import plan
from facekit.transfer.contrastive import Contrastive

SEEDS = (0, 1, 2)
BATCH = 64
EPOCHS, STEPS = 8, 250  # an epoch is so many steps, of which the training loss is a mean
LOOKED_AT = (1, 4)  # after so many epochs, and before the first and after the last
LABELS = 200


class _Watched(Contrastive):
    """Contrastive learning that keeps a copy of the network as it is before some steps."""

    def __init__(self, dim: int, before: list[int]) -> None:
        super().__init__(dim, views=SAME_COLOURS)
        self.before, self.step = frozenset(before), 0
        self.kept: dict[int, FaceNetMini] = {}

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """See Method."""
        if self.step in self.before:
            self.kept[self.step] = cast(FaceNetMini, deepcopy(model)).eval()
        self.step += 1
        return super().loss(model, batch)


def measure_longer(
    unlabelled: FaceSet, pool: FaceSet, test: FaceSet, steps: int, labels: int, seed: int
) -> pd.DataFrame:
    """One long run, looked at before, in and after it; the rate is that of a run that goes on to its end.

    unlabelled: no label of theirs is looked at. steps: of an epoch. labels: of a probe. Columns step, n, seed, task,
    metric, value: rows of `measure_code`, at step 0 of the random network with BatchNorm's statistics of the faces; and
    of the task `training` the mean `loss` of the epoch before, and how often a view was closest to its partner
    (`found`).
    """
    network = new_network(seed)
    method = _Watched(network.embedding_dim, [epochs * steps for epochs in LOOKED_AT])
    how = TrainConfig(BATCH, seed=seed, steps=steps, channels_last=True)
    recipe = plan("scratch", list(network.stages), EPOCHS, 1e-3)
    history = fit(network, method, unlabelled.resized(SMALL), None, recipe, how).history.set_index("step")
    networks = {0: untrained(unlabelled, seed)} | method.kept | {EPOCHS * steps: network}
    tables = []
    for step, each in networks.items():
        tables.append(measure_code(embedding(each, SMALL), pool, test, DRAWN, [labels], seed).assign(step=step))
        if step:
            told = {name: history.loc[step, f"train_{name}"] for name in ("loss", "found")}
            tables.append(pd.DataFrame({"metric": list(told), "value": list(told.values())}).assign(step=step))
    rows = pd.concat(tables, ignore_index=True).fillna({"n": 0, "task": "training"}).assign(seed=seed)
    return rows.astype({"n": int})[["step", "n", "seed", "task", "metric", "value"]]


@study(photos=False)
def record(
    seeds: tuple[int, ...] = SEEDS, steps: int | None = None, portraits: tuple[int, int, int] | None = None
) -> Study:
    """Records `contrastive_portraits`: contrastive learning in eight times as many steps as `record selftaught`.

    Faces, draws of labels and the probe are those of that record. Takes about a quarter of an hour on one core.

    Args:
        seeds: Of the networks, their training and the draws of labels.
        steps: Of each of the eight epochs, by default 250.
        portraits: To learn from, most of them without labels, to validate on and to test, by default 5200, 0 and 2000.
    """
    steps = steps or STEPS
    faces = render_portraits(portraits or PORTRAITS, size=FaceNetMini.image_size, per_person=1)
    train, test = faces.split("train"), faces.split("test")
    known = min(UNLABELLED, 3 * len(train) // 4)
    unlabelled, pool = train.select(range(known)), train.select(range(known, len(train)))
    labels = min(LABELS, len(pool))
    return Study(
        "contrastive_portraits",
        what=f"linear probes with {labels} labels on a network before, in and after {EPOCHS * steps:,} steps of "
        f"contrastive learning of {BATCH} portraits at {SMALL} pixels, with views that keep colours",
        data=f"rendered portraits, one of a person: {len(unlabelled):,} unlabelled, {len(pool):,} others to draw "
        f"labels from, {len(test):,} to test",
        blocks=blocks_of(measure_longer, (unlabelled, pool, test, steps, labels), seeds),
    )
