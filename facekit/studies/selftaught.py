"""What portraits without labels teach, and what few labels make of it: the record `selftaught_portraits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.experiments import LADDER, few_labels, fine_tune, scores
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.studies.runner import Study, blocks_of, study
from facekit.tasks import GENDER, SKIN_TONE, Task
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import plan
from facekit.transfer.contrastive import Contrastive, Views, dead_dimensions
from facekit.transfer.patches import patch_codes
from facekit.transfer.probe import linear_probe, pixel_features

SEEDS = (0, 1, 2, 3, 4)
PORTRAITS = (5200, 0, 2000)  # of the first 4,000 no label is looked at, the others are labelled; and test
UNLABELLED = 4000
CENTROIDS = 100
SMALL = 32  # pixels a side, for networks that learn from nothing
STEPS, BATCH = 250, 128  # of contrastive learning
# Views that keep the colours of a face, and those that change them or take them away.
SAME_COLOURS, OTHER_COLOURS = Views(0.6, 0.1, 0.0), Views()
CALIBRATED = 3000  # faces that BatchNorm's statistics of the random network are made of
SCRATCH_STEPS = 120
LABELS = (50, 200, 1000)
DRAWN = (GENDER, SKIN_TONE)
Ways = Mapping[str, Callable[[FaceSet, int], Callable[[FaceSet], FeatureSet]]]


def new_network(seed: int) -> FaceNetMini:
    """facenet-mini's form with random weights."""
    settings.seed_everything(seed)
    return FaceNetMini()


@torch.no_grad()
def untrained(unlabelled: FaceSet, seed: int) -> FaceNetMini:
    """The same with BatchNorm's statistics of the faces, without which its features say next to nothing."""
    network = new_network(seed).train()
    for start in range(0, min(len(unlabelled), CALIBRATED), BATCH):
        some = unlabelled.select(range(start, min(start + BATCH, len(unlabelled)))).resized(SMALL)
        if len(some) > 1:
            network(torch.from_numpy(np.array(some.images)))
    return network.eval()


def contrasted(unlabelled: FaceSet, views: Views, seed: int) -> FaceNetMini:
    """A new network after STEPS steps of contrastive learning on small photos."""
    network = new_network(seed)
    how = TrainConfig(BATCH, seed=seed, steps=STEPS)
    recipe = plan("scratch", list(network.stages), 1, 1e-3)
    fit(network, Contrastive(network.embedding_dim, views=views), unlabelled.resized(SMALL), None, recipe, how)
    return network


def embedding(network: FaceNetMini, size: int) -> Callable[[FaceSet], FeatureSet]:
    """Faces to the network's embeddings of them at that size."""
    return lambda faces: embed(network, faces, size=size, cache=False)


# What is learnt from faces without labels and a seed, and then turns faces into features.
WAYS: Ways = {
    "patches": lambda faces, seed: patch_codes(faces, CENTROIDS, seed=seed),
    "contrastive": lambda faces, seed: embedding(contrasted(faces, SAME_COLOURS, seed), SMALL),
    "contrastive, other colours": lambda faces, seed: embedding(contrasted(faces, OTHER_COLOURS, seed), SMALL),
    "random network": lambda faces, seed: embedding(untrained(faces, seed), SMALL),
    "pixels": lambda faces, seed: pixel_features,
    "facenet-mini": lambda faces, seed: partial(embed, FaceNetMini.from_pretrained()),
}


def measure_way(
    unlabelled: FaceSet, pool: FaceSet, test: FaceSet, tasks: Sequence[Task], labels: Sequence[int], way: str, seed: int
) -> pd.DataFrame:
    """One way to get features, see `measure_code`; the column `method` is its name.

    unlabelled: no label of theirs is looked at. pool: where the labels are drawn from, the same for every way.
    """
    rows = measure_code(WAYS[way](unlabelled, seed), pool, test, tasks, labels, seed).assign(method=way)
    return rows[["method", "n", "seed", "task", "metric", "value"]]


def measure_code(
    code: Callable[[FaceSet], FeatureSet],
    pool: FaceSet,
    test: FaceSet,
    tasks: Sequence[Task],
    labels: Sequence[int],
    seed: int,
) -> pd.DataFrame:
    """A linear probe on the features of `code` for every task and number of labels.

    Columns n, seed, task, metric, value; the metric `dead` (directions that hold none of 99 % of the variance of the
    test faces' features, as a share) has n 0 and the task `features`.
    """
    train, seen = code(pool), code(test)
    tables = [
        scores(linear_probe(few_labels(train, n, seed), [task]), seen, [task]).assign(n=n)
        for n in labels
        for task in tasks
    ]
    dead = dead_dimensions(seen) / seen.features.shape[1]
    tables.append(pd.DataFrame({"task": ["features"], "metric": "dead", "value": dead, "n": 0}))
    return pd.concat(tables, ignore_index=True).assign(seed=seed)[["n", "seed", "task", "metric", "value"]]


def measure_scratch(pool: FaceSet, test: FaceSet, tasks: Sequence[Task], n: int, seed: int) -> pd.DataFrame:
    """The same network from random weights on the few labels alone, all tasks at once; columns as `measure_way`."""
    (rung,) = (each for each in LADDER if each.plan == "scratch")
    few = few_labels(pool, n, seed).resized(SMALL)
    model, _ = fine_tune(rung, new_network(seed), few, tasks, epochs=1, steps=SCRATCH_STEPS, seed=seed)
    rows = scores(model, test.resized(SMALL), tasks).assign(method="from scratch", n=n, seed=seed)
    return rows[["method", "n", "seed", "task", "metric", "value"]]


@study(photos=False)
def record(seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `selftaught_portraits`: features that unlabelled portraits teach, and what few labels make of them.

    Takes about half an hour on one core.

    Args:
        seeds: Of the draws of labels, of K-means and of the networks.
    """
    faces = render_portraits(PORTRAITS, size=FaceNetMini.image_size, per_person=1)
    train, test = faces.split("train"), faces.split("test")
    unlabelled, pool = train.select(range(UNLABELLED)), train.select(range(UNLABELLED, len(train)))
    blocks = blocks_of(measure_way, (unlabelled, pool, test, DRAWN, LABELS), WAYS, seeds)
    blocks += blocks_of(measure_scratch, (pool, test, DRAWN), LABELS, seeds)
    return Study(
        "selftaught_portraits",
        what=f"linear probes on features that portraits without labels teach: {CENTROIDS} centroids of patches, "
        f"{STEPS} steps of contrastive learning at {SMALL} pixels, with views that keep colours or change them; and "
        "what these have to beat",
        data=f"rendered portraits, one of a person: {len(unlabelled):,} unlabelled, {len(pool):,} others to draw "
        f"labels from, {len(test):,} to test",
        blocks=blocks,
    )
