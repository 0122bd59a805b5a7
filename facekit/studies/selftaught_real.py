"""Self-taught learning on real faces, on their pixels and on FaceNet's features: the record `selftaught_fairface`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from facekit.data.sets import FeatureSet
from facekit.experiments import scores
from facekit.models.backbones.mini import FaceNetMini
from facekit.studies.common import facenet_features, fairface, rows_of
from facekit.studies.runner import Study, blocks_of, study
from facekit.studies.selftaught import CENTROIDS, measure_way
from facekit.tasks import GENDER, RACE, Task
from facekit.transfer.probe import linear_probe
from facekit.transfer.selftaught import components
from facekit.transfer.spreading import Answers, label_spreading, self_training

SEEDS = (0, 1, 2, 3, 4)
WAYS = ("patches", "pixels", "facenet-mini")
LABELS = (50, 200, 1000)
FEW = (20, 50, 200)
N_TEST = 4000  # photos that are scored
N_POOL = 4000  # photos that labels are drawn from, for the codes of patches
NEARBY = 2000  # unlabelled rows beside few labels
AXES = 8


def measure_few(pool: FeatureSet, test: FeatureSet, task: Task, n: int, seed: int) -> pd.DataFrame:
    """n labels and NEARBY rows without any, on features: what the rows without labels add to a linear probe.

    Columns method, n, seed, task, metric, value.
    """
    order = np.random.default_rng(seed).permutation(len(pool))
    few, unlabelled = pool.select(order[:n]), pool.select(order[n : n + NEARBY])
    compact = components(unlabelled, AXES)
    truth = test.targets([task])[task.name].numpy()
    found = {
        "probe": scores(linear_probe(few, [task]), test, [task]),
        f"{AXES} components": scores(linear_probe(compact(few), [task]), compact(test), [task]),
    }
    values = {name: table.set_index("metric")["value"]["accuracy"] for name, table in found.items()}
    learners: dict[str, Callable[..., Answers]] = {"label spreading": label_spreading, "self-training": self_training}
    for name, learn in learners.items():
        values[name] = (learn(few, unlabelled, task)(test).argmax(1) == truth)[truth >= 0].mean()
    rows = pd.DataFrame({"method": list(values), "value": list(values.values())})
    rows = rows.assign(n=n, seed=seed, task=task.name, metric="accuracy")
    return rows[["method", "n", "seed", "task", "metric", "value"]]


@study
def record(seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `selftaught_fairface`: what photos without labels teach, from their pixels and beside FaceNet's features.

    Of FairFace's official training photos 4,000 are scored, which nothing learns from. Takes about ten minutes on one
    core once the photos are embedded.

    Args:
        seeds: Of the draws of labels and of K-means.
    """
    faces, features = fairface(), facenet_features()
    order = np.random.default_rng(0).permutation(rows_of(faces, "train", "validation"))
    rest, tested = np.sort(order[N_TEST:]), np.sort(order[:N_TEST])
    small = faces.resized(FaceNetMini.image_size)
    unlabelled, test = small.select(rest), small.select(tested)
    pool = small.select(np.sort(order[N_TEST : N_TEST + N_POOL]))
    blocks = blocks_of(measure_way, (unlabelled, pool, test, (GENDER,), LABELS), WAYS, seeds, on="photos")
    sets = features.select(rest), features.select(tested)
    blocks += blocks_of(measure_few, sets, (GENDER, RACE), FEW, seeds, on="features")
    return Study(
        "selftaught_fairface",
        what=f"on photos: linear probes on {CENTROIDS} centroids of patches that photos without labels teach, on "
        f"pixels and on facenet-mini; on features: FaceNet's embeddings, few labels and {NEARBY:,} rows without",
        data=f"FairFace, official training photos: {len(unlabelled):,} to learn from, few of "
        f"them with labels, {len(test):,} others to test",
        blocks=blocks,
    )
