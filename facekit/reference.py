"""The published model 'gender and race with FaceNet' rebuilt, and what its way of measuring does to a score.

The original (github.com/jgabriellima/race_gender_recognition, TensorFlow 1, UTKFace) has two linear layers on FaceNet,
their outputs normalised by BatchNorm, and minimises the sum of two cross-entropies. `PUBLISHED` is what its log says.
As its README, `make_features.py`, `multitask_model.py` and `evaluator.py` have it:

- Photos of the rarer races are repeated two to four times, and so are those it is scored on. The sizes that it names,
  38,505 photos to learn from and 4,813 to be scored on, are 80 % and 10 % of the 48,132 that there are after repeating:
  the photos were repeated first and divided afterwards, so that copies of a photo lie on both sides. The public version
  of the code divides first, and leaves nothing for a test.
- Photos of all races but White, to learn from and to be scored on, are mirrored or "noised" at random. The noise is a
  sixteenth of a grey level at most and gone when values become whole numbers; what stays is a picture that is a quarter
  darker. The original brings every picture to mean 0 and variance 1, which takes that out again. A FaceNet with a fixed
  scaling, as that of 2018, sees it.
- A score is the mean over 201 batches of 8: 1,608 photos, so that chance alone moves it by 1.4 to 1.8 points either way
  (95 %). It was the best of about a dozen models with both tasks that were tried on the same photos.

Here FaceNet is the 512-number model 20180402-114759, frozen, with the fixed scaling that it was trained with. The
original is the 128-number model 20170512-110547, trained along in the public version of the code; the best one in the
log reads the layer before the embedding, through a layer of its own. So its score and ours differ for more reasons than
the protocol: what the protocol does is seen in ours alone, from one row of the record to the next. Mirror images are
left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit import settings
from facekit.course.profiles import fairface
from facekit.data.leaks import HONEST, Protocol, divide, with_noise
from facekit.data.pack import pack
from facekit.data.readers.utkface import UTK_RACE
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import accuracy, age_mae, evaluate
from facekit.experiments import Learner, few_labels, sharing_methods
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.recording import Sheet
from facekit.records import record
from facekit.tasks import GENDER, RACE, Task, age_in_years
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.probe import PRIOR, STAGE_PRIOR, linear_probe

# Accuracy on 1,608 of the repeated validation photos (experiments_logs.md there, "model8").
PUBLISHED = {"gender": 0.906, "race": 0.841}
SEEDS = (0, 1, 2, 3, 4)
POOL = 2000  # photos of FairFace
NOISE = 0.1  # standard deviation as a fraction of 255

NOISY, DARKENED = "noisy", "darkened"
# Protocols in the order of the lesson, each with the changes that the photos of all races but White may get.
PROTOCOLS: tuple[tuple[Protocol, str], ...] = (
    (HONEST, ""),
    (Protocol("races repeated to learn from", oversample="training"), ""),
    (Protocol("noise to learn from", change="training"), NOISY),
    (Protocol("noise on both sides", change="both sides"), NOISY),
    (Protocol("races repeated on both sides", oversample="both sides"), ""),
    (Protocol("races repeated before the split", oversample="before the split"), ""),
    (Protocol("repeated before, darkened", oversample="before the split", change="both sides"), DARKENED),
    (Protocol("repeated, darkened to learn from", oversample="training", change="training"), DARKENED),
)

AGES: dict[str, Task] = {kind: age_in_years(kind) for kind in ("regression", "expectation")}
STRENGTHS = (0.01, 0.1, 1.0)
CHILD = 10  # years; below it are nearly a third of the crops
TERMS = "UTKFace (Zhang, Song & Qi, CVPR 2017; non-commercial research use, scores only), crop_part1"


class _NormalisedLogits(nn.Module):
    """Linear layer, BatchNorm without a scale of its own, and a bias: slim's `fully_connected` with `batch_norm`."""

    def __init__(self, in_features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, outputs, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.norm = nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.05, affine=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)) + self.bias


class PublishedHeads(Heads):
    """The heads of the published model: one linear layer a task, whose outputs are normalised over the batch.

    Every class's output has variance 1 over the faces, whatever the weights, so that the softmax is never sure: with
    two equally frequent classes that are told apart perfectly, each face's own class gets 0.88 at most on average (a
    bias lifts one class at the cost of the other). Which class comes first is not hindered by that.

    hidden: units of a layer (ReLU, half of them dropped) that both tasks share before their own, as in the later models
    of the original's log; 0 for none.
    """

    def __init__(self, in_features: int, tasks: Sequence[Task], hidden: int = 0) -> None:
        super().__init__(in_features, tasks)
        self.added = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(0.5)) if hidden else None
        for task in self.tasks:
            self.layers[task.name] = _NormalisedLogits(hidden or in_features, task.n_outputs)

    def forward(self, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Heads."""
        if self.added is None:
            return super().forward(embeddings)
        x = self.added(embeddings * self.in_features**0.5)
        return {name: layer(x) for name, layer in self.layers.items()}


def train_published(
    train: FeatureSet,
    tasks: Sequence[Task],
    seed: int,
    steps: int = 600,
    batch_size: int = 128,
    hidden: int = 0,
) -> Classifier:
    """The published model's heads on all rows of `train`: sum of cross-entropies, Adam with weight decay.

    About `steps` steps whatever the number of rows, so that repeating some is not also training longer. The last
    weights count, nothing is chosen. Returns the classifier in evaluation mode.
    """
    torch.manual_seed(seed)
    model = Classifier(None, PublishedHeads(train.features.shape[1], tasks, hidden))
    config = TrainConfig(batch_size=min(batch_size, len(train)), seed=seed)
    lr = 3e-3 if hidden else 1e-2
    epochs = max(1, round(steps / len(Batches(train, (), config.batch_size))))
    fit(model, Supervised(tasks), train, None, plan("probe", list(model.stages), epochs=epochs, lr=lr), config)
    return model.eval()


def darkened(faces: FaceSet) -> FaceSet:
    """The photos a quarter darker, in whole grey levels: what the published "gaussian noise" leaves of them.

    There a value v becomes 0.75 v + u with u from 0 to 0.0625, cut to a whole number. Three quarters of a whole number
    are at least a quarter below the next one, so that u never matters.
    """
    return replace(faces, inputs=(faces.images.astype(np.uint16) * 3 // 4).astype(np.uint8))


def changed_features(faces: FaceSet, features: FeatureSet, mask: np.ndarray) -> dict[str, list[FeatureSet]]:
    """FaceNet's embeddings of the photos in `mask` (N,) after the changes of `PROTOCOLS`, by change.

    features: of the photos as they are. Rows outside the mask are NaN: they are never to be changed, and it would show.
    """
    some = faces.select(mask)
    facenet = FaceNet.from_pretrained()

    def spread(part: FeatureSet) -> FeatureSet:
        values = np.full_like(features.features, np.nan)
        values[mask] = part.features
        return replace(features, inputs=values)

    noisy = spread(embed(facenet, with_noise(some, np.ones(len(some), bool), NOISE, seed=0)))
    return {NOISY: [noisy], DARKENED: [features, spread(embed(facenet, darkened(some)))]}


def measure_protocols(
    features: FeatureSet,
    changed: Mapping[str, Sequence[FeatureSet]],
    tasks: Sequence[Task],
    mask: np.ndarray,
    seed: int,
    steps: int = 600,
    hidden: int = 0,
) -> pd.DataFrame:
    """The published model by every protocol with one seed (of split, copies, heads and order).

    tasks: gender, then race, whose classes are made equally frequent and whose first class is White. Columns protocol,
    seed, task, metric, value. Beside the tasks' scores: task `White`, accuracy of telling White from all others by the
    race predicted; task `photos`, metric `leaked`, the share of scored photos of which a copy was learnt from.
    """
    race = tasks[-1]
    tables = []
    for protocol, change in PROTOCOLS:
        sides = divide(features, protocol, race.name, seed, mask=mask, changed=changed.get(change, ()))
        outputs = predict(train_published(sides.train, tasks, seed, steps, hidden=hidden), sides.scored)
        targets = sides.scored.targets(tasks)
        rows = evaluate(tasks, outputs, targets, n_boot=1)[["task", "metric", "value"]]
        white = (race.predict(outputs[race.name]) == 0) == (targets[race.name] == 0)
        more = [("White", "accuracy", float(white.float().mean())), ("photos", "leaked", sides.leaked)]
        rows = pd.concat([rows, pd.DataFrame(more, columns=rows.columns)], ignore_index=True)
        tables.append(rows.assign(protocol=protocol.name, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    table["task"] = table["task"].replace({race.name: "race"})
    return table[["protocol", "seed", "task", "metric", "value"]]


def record_reference(
    steps: int = 600, hidden: int = 0, data: tuple[str, ...] = ("UTKFace", "FairFace"), seeds: tuple[int, ...] = SEEDS
) -> int:
    """Records `reference_utkface`: the published model on UTKFace and FairFace, measured by one protocol and another.

    With a hidden layer that is `reference_hidden`.

    Each seed holds out another tenth of the photos; all protocols that split by content hold out the same. Takes about
    fifteen minutes on one core, nearly all of it for embeddings.

    Args:
        steps: Of the optimiser, by every protocol.
        hidden: Units of a layer that both tasks share; 0 for none.
        data: Which of the two sets.
        seeds: Of the split, of which photos are repeated, of the heads and of the order.
    """
    _only_full()
    sets = {"UTKFace": (utkface(), (GENDER, UTK_RACE)), "FairFace": (fairface(), (GENDER, RACE))}
    if not data or set(data) - set(sets):
        raise ConfigError(f"data must be some of {', '.join(sets)}; got {list(data)}.")
    record_name = "reference_hidden" if hidden else "reference_utkface"
    ready = {}
    for name in data:
        faces, tasks = sets[name]
        features = embed(FaceNet.from_pretrained(), faces)
        if name == "FairFace":
            n = min(POOL, len(faces))
            faces, features = few_labels(faces, n, 0), few_labels(features, n, 0)
        mask = (features.labels[tasks[-1].name] != tasks[-1].classes[0]).to_numpy()
        ready[name] = features, changed_features(faces, features, mask), tasks, mask
    about = {name: [some[0].content_hash(), some[1][NOISY][0].content_hash()] for name, some in ready.items()}
    sheet = Sheet(record_name, about | {"steps": steps, "hidden": hidden})
    for name, some in ready.items():
        for seed in settings.progress(seeds, desc=name, unit="seed"):
            sheet.block(
                f"{name}-{seed}",
                lambda name=name, some=some, seed=seed: measure_protocols(*some, seed, steps, hidden).assign(data=name),
            )
    sizes = {"UTKFace": f"{TERMS}, five races", "FairFace": "FairFace, seven races"}
    layer = f" on a shared layer of {hidden}" if hidden else ""
    more = f" --hidden {hidden} --data '{json.dumps(data)}'" if hidden or len(data) < len(sets) else ""
    return _write(
        record_name,
        sheet,
        sheet.rows[["protocol", "data", "seed", "task", "metric", "value"]],
        what=f"the published gender and race model (normalised linear heads{layer}) on FaceNet's frozen embeddings, "
        "scored on a tenth of the photos by protocols from honest to the published ones; 'White' is White or not by "
        "the race predicted, 'leaked' the share of scored photos with a copy among those learnt from",
        data="; ".join(f"{sizes[name]}, {len(some[0]):,} photos" for name, some in ready.items()),
        command=f"record reference --steps {steps}{more}",
        seeds=seeds,
    )


def sharing_on_utkface(steps: int) -> dict[str, Learner]:
    """The methods of `record utkface`: a network a task, hard, soft and cross-stitch sharing, and linear probes."""

    def probe(rows: FeatureSet, tasks: Sequence[Task], seed: int) -> Classifier:
        return linear_probe(rows, tasks, PRIOR if rows.features.shape[1] == FaceNet.embedding_dim else STAGE_PRIOR)

    return {**sharing_methods(strengths=STRENGTHS, steps=steps), "linear probe": probe}


def measure_ages(
    train: FeatureSet, test: FeatureSet, age: Task, methods: Mapping[str, Learner], seed: int
) -> pd.DataFrame:
    """Gender, race and age in years by every method with one seed (of start and order), scored on `test`.

    Columns method, n, seed, task, metric, value, seconds (of all three tasks together). The error of age, `mae`, is in
    years; `mae_10_and_over` and `accuracy_10_and_over` are those of people of ten years and over.
    """
    tasks = (GENDER, UTK_RACE, age)
    targets = test.targets(tasks)
    years = test.labels[age.name].to_numpy(np.float64)
    grown = years >= CHILD
    ages = {"mae": np.ones(len(years), bool), "mae_10_and_over": grown}
    tables = []
    for name, learn in methods.items():
        start = time.perf_counter()
        model = learn(train, tasks, seed)
        seconds = time.perf_counter() - start
        outputs = predict(model, test)
        rows = evaluate(tasks[:2], outputs, targets, n_boot=1)[["task", "metric", "value"]]
        found = {task.name: task.predict(outputs[task.name]) for task in tasks}
        errors = [age_mae(age, found[age.name][some], targets[age.name][some], years[some]) for some in ages.values()]
        more = [(age.name, metric, error) for metric, error in zip(ages, errors, strict=True)]
        for task in tasks[:2]:
            correct = accuracy(found[task.name][grown], targets[task.name][grown])
            more.append((task.name, "accuracy_10_and_over", correct))
        more = pd.DataFrame(more, columns=rows.columns)
        tables.append(pd.concat([rows, more], ignore_index=True).assign(method=name, seconds=seconds))
    table = pd.concat(tables, ignore_index=True).assign(n=len(train), seed=seed)
    table["task"] = table["task"].replace({UTK_RACE.name: "race"})
    return table[["method", "n", "seed", "task", "metric", "value", "seconds"]]


def record_utkface(steps: int = 600, stages: tuple[str, ...] = (), seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `utkface_tasks`: gender, race and age in years on UTKFace, by networks that share and that do not.

    Age is a regression or the expected value over a class a year (DEX). Every seed holds out another tenth of the
    photos, the same as the honest protocol of `record reference`; networks take the same number of steps with the same
    batches.

    Args:
        steps: Of the optimiser, for every network.
        stages: Of FaceNet, whose averaged output is learnt from beside the embedding; repeat_3 is the last before it.
        seeds: Of the split, the start and the order.
    """
    _only_full()
    faces, facenet = utkface(), FaceNet.from_pretrained()
    several = {"embedding": embed(facenet, faces)}
    sides = {seed: divide(several["embedding"], HONEST, UTK_RACE.name, seed) for seed in seeds}
    several |= {stage: embed(facenet, faces, stage=stage) for stage in stages}
    about = {name: features.content_hash() for name, features in several.items()} | {"steps": steps}
    sheet = Sheet("utkface_tasks", about)
    methods = sharing_on_utkface(steps)
    trials = [(name, kind, seed) for name in several for kind in AGES for seed in seeds]
    for name, kind, seed in settings.progress(trials, desc="UTKFace", unit="block"):

        def measure(features: FeatureSet = several[name], kind: str = kind, seed: int = seed) -> pd.DataFrame:
            train, test = (features.select(rows) for rows in (sides[seed].train_rows, sides[seed].scored_rows))
            return measure_ages(train, test, AGES[kind], methods, seed)

        sheet.block(
            f"{name}-{kind}-{seed}",
            lambda measure=measure, name=name, kind=kind: measure().assign(features=name, age=kind),
        )
    columns = ["features", "age", "method", "n", "seed", "task", "metric", "value", "seconds"]
    return _write(
        "utkface_tasks",
        sheet,
        sheet.rows[columns],
        what="gender, race (five) and age in years together on FaceNet's frozen features of the photo: networks with "
        f"one hidden layer, {steps} steps, and linear probes; each seed is scored on another tenth of the photos",
        data=f"{TERMS}, {len(faces):,} photos",
        command=f"record utkface --steps {steps} --stages '{json.dumps(stages)}'",
        seeds=seeds,
    )


@cache
def utkface() -> FaceSet:
    """UTKFace at 160 px: the packed set in the cache, else packed now from `FACEKIT_DATA`.

    Raises DataError that says what to get and where to put it.
    """
    packed = settings.cache_dir() / "utkface-160"
    if (packed / "manifest.json").exists():
        return FaceSet.load(packed)
    folder = (settings.data_dir() or Path()) / "utkface"
    found = sorted(folder.glob("*.tar.gz"))
    if settings.data_dir() is None or not found:
        raise DataError(
            "this needs UTKFace's crops. Put crop_part1.tar.gz as it is into a folder `utkface`, and set FACEKIT_DATA "
            "to the folder that contains it; datasets/UTKFACE.md says from where, and under which terms."
        )
    return pack(found[0], packed, size=160)


def _only_full() -> None:
    if settings.profile() != "full":
        raise ConfigError("results are recorded on real photos: set FACEKIT_PROFILE=full and FACEKIT_DATA.")


def _write(
    name: str, sheet: Sheet, rows: pd.DataFrame, *, what: str, data: str, command: str, seeds: Sequence[int]
) -> int:
    command = f"python -m facekit {command} --seeds {json.dumps(list(seeds), separators=(',', ':'))}"
    path = record(name, rows, what=what, data=data, command=command, seconds=sheet.seconds)
    print(f"wrote {path}: {len(rows):,} rows, {sheet.seconds:.0f} s")
    return 0
