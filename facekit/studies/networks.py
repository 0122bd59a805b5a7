"""Which network to start from: the records `networks_real` and `networks_cost`.

Every network is frozen, and one linear head learns from few labels, by one rule for all: features are centred and
brought to one length, and the head's prior is chosen on a fifth of the labels. Beside the accuracy on pictures that
nothing was chosen on stand the cheap scores of the same labels, and what is the plainest guess: what a head that
learnt from four fifths of them gets on the last fifth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from facekit import settings
from facekit.data.catalogue import photos
from facekit.data.readers.classes import class_task
from facekit.data.sets import FaceSet, FeatureSet
from facekit.evaluation.metrics import evaluate
from facekit.evaluation.transferability import h_score, logme
from facekit.experiments import few_labels, scores
from facekit.experiments.speed import fastest, noise
from facekit.models.backbones.base import Backbone, Pretrained
from facekit.models.backbones.efficientnet_lite import EfficientNetLite0
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import EmbeddingPrecision, embed
from facekit.studies.common import TASKS, fairface, rows_of, sizes
from facekit.studies.runner import Block, Study, study
from facekit.tasks import Task
from facekit.training.loop import predict
from facekit.transfer.probe import centred, linear_probe, pixel_features, tuned_probe

SEEDS = (0, 1, 2, 3, 4)
LABELS = (50, 200, 1000, 4000)
N_TEST, N_POOL = 3000, 4500  # FairFace's training photos: scored, and to draw labels from
CALIBRATED = 512  # pictures that BatchNorm's statistics of an untrained network are made of
PRECISIONS: tuple[EmbeddingPrecision, ...] = ("fp32", "bf16")
GUESS_PRIOR = 30.0  # of the head that learns from four fifths of the labels

FORMS: Mapping[str, type[Pretrained]] = {
    "FaceNet": FaceNet,
    "ImageNet": EfficientNetLite0,
    "facenet-mini": FaceNetMini,
}
UNTRAINED = {"facenet-mini": FaceNetMini}  # what stands beside with random weights
IN_OTHER_RECORDS = (("faces", "FaceNet"), ("faces", "facenet-mini"))
# What each was taught, and on what.
TAUGHT = {
    "FaceNet": "to tell people apart, by photos of faces (VGGFace2)",
    "ImageNet": "to name 1,000 things and animals, by photos (ImageNet)",
    "facenet-mini": "to give FaceNet's embeddings, by photos of faces (FairFace) and rendered portraits",
}


@dataclass(frozen=True, eq=False)
class Target:
    """Pictures to learn from and pictures to score, by what they are, with their tasks."""

    name: str
    tasks: tuple[Task, ...]
    pool: FaceSet
    tests: Mapping[str, FaceSet]


def real_targets() -> tuple[Target, ...]:
    """FairFace (two test parts: held-out training photos, and the official ones that are here), CIFAR-10, ISIC."""
    faces = fairface()
    faces = replace(faces, labels=faces.labels.assign(row=range(len(faces))))
    order = np.random.default_rng(0).permutation(rows_of(faces, "train", "validation"))
    held_out, drawn = np.sort(order[:N_TEST]), np.sort(order[N_TEST : N_TEST + N_POOL])
    tests = {"held-out training photos": faces.select(held_out), "official test photos here": faces.split("test")}
    found = [Target("faces", TASKS, faces.select(drawn), tests)]
    for name, column in (("objects", "object"), ("lesions", "diagnosis")):
        data = photos(name)
        pool = data.select(rows_of(data, "train", "validation"))
        found.append(Target(name, (class_task(data, column),), pool, {"test": data.split("test")}))
    return tuple(found)


@torch.no_grad()
def untrained(form: Callable[[], Backbone], pictures: FaceSet, seed: int = 0) -> Backbone:
    """A network with random weights and BatchNorm's statistics of CALIBRATED pictures, without which it says little."""
    settings.seed_everything(seed)
    network = form().train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean over all batches
        if isinstance(module, nn.Dropout):
            module.eval()
    some = pictures.select(np.random.default_rng(seed).permutation(len(pictures))[:CALIBRATED])
    for start in range(0, len(some), 64):
        part = some.select(range(start, min(start + 64, len(some)))).resized(network.image_size)
        network(torch.from_numpy(np.array(part.images)))
    return network.eval()


def ways(target: Target) -> dict[str, Callable[[FaceSet], FeatureSet]]:
    """What turns pictures into features, by name: three taught networks, one of random weights, and pixels."""
    found: dict[str, Callable[[FaceSet], FeatureSet]] = {}
    for name, form in FORMS.items():
        network = form.from_pretrained()
        found[name] = of_all(network) if (target.name, name) in IN_OTHER_RECORDS else partial(embed, network)
    for name, form in UNTRAINED.items():
        found[f"{name}, untrained"] = partial(embed, untrained(form, target.pool))
    return found | {"pixels": pixel_features}


def of_all(network: Backbone) -> Callable[[FaceSet], FeatureSet]:
    """A network's embeddings of parts of FairFace, taken from those of all photos, which other records keep."""
    whole = embed(network, fairface())
    return lambda part: whole.select(part.labels["row"])


def measure(pool: FeatureSet, tests: Mapping[str, FeatureSet], task: Task, n: int, seed: int) -> pd.DataFrame:
    """One network's features with n labels: accuracies on every test part with intervals over its rows, and scores.

    Columns task, n, seed, tested (empty for what looks at the labels alone), metric, value, low, high, seconds: of
    the processor, for the head as a whole and for each score. Metrics: accuracy, balanced_accuracy, and of the labels
    logme, logme_bias, h_score and guess.
    """
    rows = []
    raw = few_labels(pool, n, seed)
    centre = centred(raw)
    few = centre(raw)
    start = time.process_time()
    probe = tuned_probe(few, task, seed=seed)
    took = time.process_time() - start
    for name, test in tests.items():
        table = evaluate([task], predict(probe, centre(test)), test.targets([task]))
        for each in table[table["metric"] != "mae"].itertuples():
            rows.append((name, each.metric, each.value, each.low, each.high, took))
    cheap: dict[str, Callable[[Task], float]] = {
        "logme": partial(logme, raw),
        "logme_bias": partial(logme, raw, bias=True),
        "h_score": partial(h_score, raw),
        "guess": partial(guess, few, seed=seed),
    }
    for metric, score in cheap.items():
        start = time.process_time()
        value = score(task)
        rows.append(("", metric, value, np.nan, np.nan, time.process_time() - start))
    found = pd.DataFrame(rows, columns=["tested", "metric", "value", "low", "high", "seconds"])
    return found.assign(task=task.name, n=n, seed=seed)[["task", "n", "seed", *found.columns]]


def guess(rows: FeatureSet, task: Task, seed: int) -> float:
    """Accuracy on a fifth of the rows of a linear head that learnt from the others."""
    order = np.random.default_rng(seed).permutation(len(rows))
    learn, held_out = rows.select(order[len(rows) // 5 :]), rows.select(order[: len(rows) // 5])
    found = scores(linear_probe(learn, [task], GUESS_PRIOR), held_out, [task])
    return float(found.set_index("metric").loc["accuracy", "value"])


def measure_cost(batch: int = 64, rounds: int = 3) -> pd.DataFrame:
    """What each network costs, a row each: parameters, megabytes in float32, photos a second here, and its terms.

    Photos are noise at the network's own size (the time does not depend on them), in batches, on as many threads as
    torch has here; the networks take turns, and the fastest of some rounds counts. Columns network, taught, side (in
    pixels), embedding (numbers), parameters, megabytes, fp32, bf16 (photos a second), threads, source, terms.
    """
    rows: list[tuple] = []
    runs: dict[str, Callable[[], object]] = {}
    for name, form in FORMS.items():
        network, told = form.from_pretrained(), form.weights_from()
        some = noise(batch, network.image_size)
        for each in PRECISIONS:
            runs[f"{name} {each}"] = partial(embed, network, some, batch, cache=False, precision=each)
            runs[f"{name} {each}"]()
        parameters = sum(weight.numel() for weight in network.parameters())
        about = (network.image_size, network.embedding_dim, parameters, 4 * parameters / 1e6)
        rows.append((name, TAUGHT[name], *about, torch.get_num_threads(), told["source"], told["licence"]))
    columns = ["network", "taught", "side", "embedding", "parameters", "megabytes", "threads", "source", "terms"]
    table = pd.DataFrame(rows, columns=columns)
    seconds = fastest(runs, rounds, settings.device())
    for each in PRECISIONS:
        table[each] = [batch / seconds[f"{name} {each}"] for name in table["network"]]
    return table


@study
def record(labels: tuple[int, ...] = LABELS, seeds: tuple[int, ...] = SEEDS) -> list[Study]:
    """Records `networks_real` and `networks_cost`: FaceNet, a network for ImageNet, facenet-mini, the same untrained.

    Needs the extra `imagenet`. Takes about an hour on one core, most of it for embeddings, which are kept.

    Args:
        labels: How many there are; where a task has fewer, all of them.
        seeds: Of the draws of labels, and of which of them the prior is chosen on.
    """
    blocks, told = [], []
    for target in real_targets():
        told.append(
            f"{target.name} {len(target.pool):,} to draw from and "
            + ", ".join(f"{len(rows):,} {name}" for name, rows in target.tests.items())
        )
        for name, way in ways(target).items():
            pool, tests = way(target.pool), {part: way(rows) for part, rows in target.tests.items()}
            for task in target.tasks:
                for n in sizes(labels, min(len(pool), max(labels))):
                    for seed in seeds:
                        title = f"{name}-{task.name}-{n}-{seed}"
                        columns = {"target": target.name, "network": name}
                        blocks.append(Block(title, measure, (pool, tests, task, n, seed), columns))
    return [
        Study(
            "networks_real",
            what="frozen networks with one linear head on few labels, photos of faces, things and lesions: FaceNet, "
            "EfficientNet-Lite0 taught ImageNet, facenet-mini, the same with random weights, and "
            "pixels at 16 x 16; beside the accuracy LogME without and with a bias, H-score, and what a head that "
            "learnt from four fifths of the labels gets on the last fifth",
            data="; ".join(told) + " (FairFace: training photos, of which none that is tested is learnt from; CIFAR-10 "
            "and ISIC's nine classes: this project's split)",
            blocks=blocks,
        ),
        Study(
            "networks_cost",
            what="what it costs to embed photos with each network, one after another in one run, and their terms",
            data="noise in batches of 64 at each network's own size",
            blocks=[Block("costs", measure_cost)],
        ),
    ]
