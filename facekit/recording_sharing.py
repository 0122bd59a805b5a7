"""Sharing on FairFace, with FaceNet: `python -m facekit record sharing`, `record joint` and `record last_stage`.

Race, gender and age band by networks that share nothing, all, or something between: on frozen features
(`sharing_fairface`; `joint_fairface` is the best shared network there, for figures), and with FaceNet's last stage
tuned along (`last_stage_fairface`; `last_stage_few` with fewer photos). Everything that is compared has layers of the
same size, the same photos, the same batches and the same number of steps. The recipes (steps, rate, dropout) were
chosen on held-out training photos, see `RECIPES`, `JOINT` and `LAST_STAGE`; the test photos had no part in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.experiments import STRENGTHS, Learner, compare_sharing, few_labels, scores, sharing_methods
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.multitask import HEADS, SharedNet, Stack, mlp
from facekit.models.tail import MapSet, maps, mirrored_too, tail_of
from facekit.recording import TASKS, Sheet, fairface_photos, rows_of, write_record
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import Phase, Plan
from facekit.transfer.probe import PRIOR, STAGE_PRIOR, linear_probe
from facekit.transfer.sharing import train_shared

SEEDS = (0, 1, 2, 3, 4)
LABELS = (50, 200, 1000, 5000)  # and all of them
FEATURES = ("embedding", "repeat_3")
WIDE, LINEAR = "hard wide", "linear"


@dataclass(frozen=True)
class Recipe:
    """How the networks of one comparison are trained, all alike.

    few_steps: of AdamW, up to `few` labels; steps: above. hidden: units of the hidden layer. lr: peak rate.
    strengths: λ of soft sharing, one network for each.
    """

    few_steps: int
    steps: int
    lr: float
    dropout: float
    strengths: tuple[float, ...] = STRENGTHS
    hidden: int = 128
    few: int = 2000

    def at(self, n: int) -> int:
        """Steps for n labels."""
        return self.few_steps if n <= self.few else self.steps


# Chosen on 1,040 held-out training photos, mostly with one seed, by the mean accuracy of `single` and `hard`: among
# rates of 0.001 and 0.003 (from the embedding the larger wins at 1,000 labels and at all, the smaller at 200) and, in
# part, dropout of 0.5 and 0.7 and 200 or 400 steps for few labels. Most are within a point of each other. 1,200 steps
# instead of 600 give both half a point more from repeat_3, left out for time, and none from the embedding.
RECIPES = {
    "embedding": Recipe(few_steps=200, steps=600, lr=3e-3, dropout=0.5),
    "repeat_3": Recipe(few_steps=200, steps=600, lr=1e-3, dropout=0.5, strengths=(0.01, 0.1, 1.0)),
}


@dataclass(frozen=True)
class JointRecipe:
    """How the joint network is trained: on both views of every photo, `steps` of AdamW at the peak rate `lr`."""

    steps: int
    lr: float
    dropout: float
    hidden: int
    batch_size: int
    weight_decay: float = 0.5
    stage: str = "repeat_3"


# The rows were chosen on 1,040 held-out training photos by the sum of the tasks' losses, one seed: 2.062 with photo and
# mirror image as two rows, 2.065 with the mean of both as one, 2.097 with the embedding beside the stage's output.
# Width, dropout and weight decay were not varied.
JOINT = JointRecipe(steps=800, lr=1e-3, dropout=0.7, hidden=512, batch_size=256)


@dataclass(frozen=True)
class TailRecipe:
    """How a backbone's stages behind `after`, up to `until`, are tuned: AdamW at `lr`, the new heads at `heads_lr`."""

    after: str
    until: str
    lr: float
    heads_lr: float
    dropout: float
    batch_size: int = 32
    weight_decay: float = 0.05


# The rates are those of the rungs `last block` and, for the heads, `frozen` that did best on validation photos in the
# record `ladder_rates`, at the batch size of that record; the dropout was not tuned.
LAST_STAGE = TailRecipe(after="mixed_7a", until="repeat_3", lr=3e-4, heads_lr=3e-3, dropout=0.3)
TUNED = ("frozen", "single", "hard")


def methods_of(recipe: Recipe, n: int) -> dict[str, Learner]:
    """The networks that are compared at n labels: `sharing_methods` with joint classes, and `hard wide`.

    `hard wide` shares a hidden layer as wide as the three of `single` together, so that it has as many weights.
    """
    same = {"dropout": recipe.dropout, "steps": recipe.at(n), "lr": recipe.lr}
    wide = sharing_methods((len(TASKS) * recipe.hidden,), strengths=(), **same)["hard"]
    return {**sharing_methods((recipe.hidden,), strengths=recipe.strengths, joint=True, **same), WIDE: wide}


def measure_sharing(
    sheet: Sheet,
    train: FeatureSet,
    test: FeatureSet,
    features: str,
    recipe: Recipe,
    labels: Sequence[int],
    seeds: Sequence[int],
    few_seeds: int,
) -> None:
    """The comparison on one kind of features, block by block, for each n and seed; fewer labels with fewer seeds.

    Beside the networks `linear`, the baseline without a hidden layer: a penalised linear probe a task. It has no seed
    of its own, so that with all rows it is fitted once and counts for all seeds. Rows with the columns features,
    method, n, seed, task, metric, value, seconds (of all tasks together) and steps (0 of the probe, which has none).
    """
    sizes = sorted({n for n in labels if n < len(train)} | {len(train)}, reverse=True)
    prior = PRIOR if features == "embedding" else STAGE_PRIOR
    probe = {LINEAR: lambda rows, tasks, seed: linear_probe(rows, tasks, prior)}

    def measured(methods: Mapping[str, Learner], n: int, seed: int, steps: int) -> pd.DataFrame:
        rows = compare_sharing(train, test, TASKS, [n], [seed], methods)
        rows.insert(0, "features", features)
        return rows.assign(steps=steps)

    for n in sizes:
        steps, methods, probed = recipe.at(n), methods_of(recipe, n), None
        some = seeds if n == len(train) else seeds[:few_seeds]
        for seed in settings.progress(some, desc=f"{features}, {n:,} labels", unit="seed"):
            title = f"{features}-{n}-{seed}"
            sheet.block(title, lambda n=n, seed=seed, *, m=methods, s=steps: measured(m, n, seed, s))
            again = probed is not None and n == len(train)
            probed = sheet.block(
                f"{title}-{LINEAR}",
                lambda n=n, seed=seed, *, old=probed if again else None: (
                    measured(probe, n, seed, 0) if old is None else old.assign(seed=seed)
                ),
            )


def record_sharing(
    features: tuple[str, ...] = FEATURES,
    labels: tuple[int, ...] = LABELS,
    seeds: tuple[int, ...] = SEEDS,
    few_seeds: int = 3,
) -> int:
    """Records `sharing_fairface`: single networks, hard and soft sharing and cross-stitch on FaceNet's features.

    Learns from all official training photos and from draws of them, tests on the official validation photos. Takes
    about twenty minutes on one core once the photos are embedded; what was measured is kept when it is stopped.

    Args:
        features: `embedding` and names of stages (`repeat_3`), both averaged over photo and mirror image.
        labels: Numbers of labelled photos besides all of them.
        seeds: Of the draws of labelled rows, of the networks' weights, of order and dropout.
        few_seeds: How many of the seeds, from the first on, are measured at `labels`; at all labels all of them are.
    """
    faces, facenet = fairface_photos(), FaceNet.from_pretrained()
    several = {name: embed(facenet, faces, flip=True, stage=None if name == "embedding" else name) for name in features}
    recipes = {name: RECIPES["embedding" if name == "embedding" else "repeat_3"] for name in features}
    train, test = rows_of(faces, "train", "validation"), rows_of(faces, "test")
    # Not the names and sizes asked for: blocks are kept apart by them, so that a later call may ask for more.
    sheet = Sheet("sharing_fairface", {"photos": faces.content_hash(), "recipes": str(RECIPES)})
    for name, rows in several.items():
        measure_sharing(sheet, rows.select(train), rows.select(test), name, recipes[name], labels, seeds, few_seeds)
    options = f" --features {_listed(features)}" * (tuple(features) != FEATURES)
    options += f" --labels {_listed(labels)}" * (tuple(labels) != LABELS)
    options += f" --few_seeds {few_seeds}" * (few_seeds != 3)
    return write_record(
        "sharing_fairface",
        sheet,
        what="race, gender and age band from FaceNet's frozen features (mean of photo and mirror image) by networks "
        "with one hidden layer: a network a task, hard and soft sharing, cross-stitch, joint classes; the same number "
        "of steps for all, chosen with rate and dropout on held-out training photos",
        data=f"FairFace, {len(train):,} labelled photos to draw from, {len(test):,} test photos",
        command=f"record sharing{options}",
        seeds=seeds,
    )


def record_joint(seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `joint_fairface`: one network with one hidden layer for race, gender and age band, the best of its kind.

    Hard sharing on the averaged output of FaceNet's last stage before the embedding. Learns from all official training
    photos and their mirror images; the answer for a test photo is that for the mean of its two views. About two
    minutes on one core once the photos are embedded.

    Args:
        seeds: Of the network's weights, of order and dropout.
    """
    faces, facenet = fairface_photos(), FaceNet.from_pretrained()
    views = [embed(facenet, faces, mirrored=mirrored, stage=JOINT.stage) for mirrored in (False, True)]
    rows = rows_of(faces, "train", "validation")
    train = FeatureSet(
        np.concatenate([view.features[rows] for view in views]), pd.concat([faces.labels.iloc[rows]] * 2)
    )
    test = embed(facenet, faces, flip=True, stage=JOINT.stage).split("test")
    sheet = Sheet("joint_fairface", {"features": train.content_hash(), "recipe": str(JOINT)})
    for seed in settings.progress(seeds, desc="joint", unit="seed"):
        sheet.block(str(seed), lambda seed=seed: measure_joint(train, test, JOINT, seed))
    return write_record(
        "joint_fairface",
        sheet,
        what="one network with one hidden layer for race, gender and age band, on the averaged output of FaceNet's "
        f"last stage before the embedding; {JOINT.hidden} hidden units, {JOINT.steps} steps of {JOINT.batch_size}; the "
        "test photos chose nothing",
        data=f"FairFace, {len(rows):,} labelled photos with their mirror images, {len(test):,} test photos",
        command="record joint",
        seeds=seeds,
    )


def measure_joint(train: FeatureSet, test: FeatureSet, recipe: JointRecipe, seed: int) -> pd.DataFrame:
    """One network that shares its hidden layer: columns method, seed, task, metric, value, seconds, steps."""
    torch.manual_seed(seed)
    net = SharedNet(mlp(train.features.shape[1], (recipe.hidden,), recipe.dropout), TASKS)
    how = {"lr": recipe.lr, "batch_size": recipe.batch_size, "weight_decay": recipe.weight_decay}
    start = time.perf_counter()
    train_shared(net, Supervised(TASKS), train, steps=recipe.steps, seed=seed, **how)
    seconds = time.perf_counter() - start
    rows = scores(net, test, TASKS)
    rows.insert(0, "method", "hard")
    rows.insert(1, "seed", seed)
    return rows.assign(seconds=seconds, steps=recipe.steps)


def record_last_stage(
    photos: int = 0,
    epochs: int = 4,
    mirrored: bool = True,
    methods: tuple[str, ...] = TUNED,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> int:
    """Records `last_stage_fairface`: FaceNet's last stage before the embedding tuned for race, gender and age band.

    With `photos` it is `last_stage_few`.

    The stages before it stay as they are, so that their maps are computed once (about 50 photos and view a second and
    core) and kept in the cache, 32 kB a photo and view; a pass over them then trains some 190 photos a second and core.
    All methods see the same photos in the same order for the same number of steps.

    Args:
        photos: Labelled photos to learn from, the same for all seeds; 0 takes all official training photos.
        epochs: Passes over them, with the mirror images over both views.
        mirrored: Learn from the mirror images as well, and give test photos the mean answer of both views.
        methods: `frozen`, only new heads; `single`, a copy of the stage a task; `hard`, one for all tasks.
        seeds: Of the heads, of order and dropout.
    """
    if unknown := set(methods) - set(TUNED):
        raise ConfigError(f"there is no method {', '.join(sorted(unknown))}; choose from {', '.join(TUNED)}.")
    faces, facenet = fairface_photos(), FaceNet.from_pretrained()
    pool = rows_of(faces, "train", "validation")
    train = few_labels(faces, photos or len(pool), seed=0, pool=pool)
    test = faces.split("test")
    sides = (False, True) if mirrored else (False,)
    views, tests = ([maps(facenet, data, LAST_STAGE.after, mirrored=side) for side in sides] for data in (train, test))
    learnt_from = mirrored_too(*views) if mirrored else views[0]
    about = {"train": train.content_hash(), "test": test.content_hash(), "recipe": str(LAST_STAGE)}
    sheet = Sheet("last_stage_fairface", {**about, "epochs": epochs, "mirrored": mirrored})
    stack = tail_of(facenet, LAST_STAGE.after, LAST_STAGE.until, LAST_STAGE.dropout)
    trials = [(method, seed) for seed in seeds for method in methods]
    for method, seed in settings.progress(trials, desc="last stage", unit="network"):
        sheet.block(
            f"{method}-{seed}",
            lambda m=method, s=seed: measure_last_stage(stack, m, learnt_from, tests, LAST_STAGE, epochs, s).assign(
                n=len(train)
            ),
        )
    options = f" --photos {photos}" * bool(photos) + f" --epochs {epochs}" * (epochs != 4)
    options += " --mirrored false" * (not mirrored)
    options += f" --methods {_listed(methods)}" * (tuple(methods) != TUNED)
    return write_record(
        "last_stage_few" if photos else "last_stage_fairface",
        sheet,
        what=f"FaceNet's last stage before the embedding tuned for race, gender and age band ({epochs} passes, "
        f"{'photo and mirror image' if mirrored else 'photos as they are'}, bf16), at rates chosen on "
        "validation photos; frozen: only new heads, single: a copy of the stage a task, hard: one for all",
        data=f"FairFace, {len(train):,} labelled photos, {len(test):,} test photos",
        command=f"record last_stage{options}",
        seeds=seeds,
    )


def measure_last_stage(
    stack: Stack, method: str, train: MapSet, tests: Sequence[MapSet], recipe: TailRecipe, epochs: int, seed: int
) -> pd.DataFrame:
    """A tail tuned on the maps of `train`, scored by its mean answer over `tests`, views of the same photos.

    method: of `TUNED`. Columns method, seed, task, metric, value, seconds (of the training) and steps.
    """
    torch.manual_seed(seed)
    net = SharedNet(stack, TASKS, shared=0 if method == "single" else None)
    rates = {stage: recipe.heads_lr if stage == HEADS else recipe.lr for stage in net.stages}
    if method == "frozen":
        rates = {HEADS: recipe.heads_lr}
    config = TrainConfig(
        batch_size=min(recipe.batch_size, len(train)),
        weight_decay=recipe.weight_decay,
        precision="bf16",
        channels_last=True,
        seed=seed,
    )
    result = fit(net, Supervised(TASKS), train, None, Plan(method, (Phase(method, epochs, rates, 0.1),)), config)
    answers = [predict(net, test, precision="bf16") for test in tests]
    mean = {task.name: sum(a[task.name].log_softmax(1) for a in answers) / len(answers) for task in TASKS}
    rows = evaluate(TASKS, mean, tests[0].targets(TASKS), n_boot=1)[["task", "metric", "value"]]
    rows.insert(0, "method", method)
    rows.insert(1, "seed", seed)
    return rows.assign(seconds=result.seconds, steps=result.steps)


def _listed(values: Sequence[int] | Sequence[str]) -> str:
    """As the command line takes a list, in quotes where a shell would take the text's own away."""
    text = json.dumps(list(values), separators=(",", ":"))
    return f"'{text}'" if '"' in text else text
