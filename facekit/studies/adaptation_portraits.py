"""Domain adaptation on rendered portraits, to sketches and to low light: the record `adaptation_portraits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from facekit.course.profiles import portrait_domains
from facekit.data.sets import FaceSet, FeatureSet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.backbones.small import SmallNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.studies.adaptation import COLUMNS, SEEDS, accuracies, frozen_ways
from facekit.studies.runner import Block, Study, study
from facekit.tasks import GLASSES
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.adaptation import domain_accuracy, low_light
from facekit.transfer.alignment import Alignment, DomainAdversarial, kernel_mean_distance, with_statistics_of
from facekit.transfer.probe import linear_probe

# Rendered portraits, as many with glasses as without.
PORTRAITS = (1000, 0, 600)  # of each domain: to learn from, and to score
DIM = 0.02  # noise of small portraits in low light
SHIFTS = ("low light", "sketches")  # what the small network is asked for; it learns from photos
EPOCHS, RATE, ROWS_A_STEP = 10, 1e-2, 64
# Strengths of what stands beside the tasks' losses; of all of them the record says what each way to choose would take.
STRENGTHS = {"CORAL as a loss": (10.0,), "kernel means": (10.0,), "DANN": (0.1, 0.3, 1.0)}
JOINT = {"DANN": 0.3}  # this also with statistics of both domains together


def measure_frozen(seed: int) -> pd.DataFrame:
    """`frozen_ways` for facenet-mini, from photos to sketches. Columns as COLUMNS."""
    both = portrait_domains(PORTRAITS, FaceNetMini.image_size, seed, glasses=None)
    tests = both.source.split("test"), both.target.split("test")
    mini = FaceNetMini.from_pretrained()
    rows = frozen_ways(mini, both.source.split("train"), both.target.split("train"), tests, both.tasks)
    return rows.assign(shift="sketches", seed=seed)[["shift", *COLUMNS]]


def trained(
    learn: Callable[[], Alignment | DomainAdversarial] | None, rows: Mapping[str, FaceSet], seed: int
) -> Classifier:
    """A small network from scratch: of one set by its labels, or of source and target by what `learn` makes.

    All see as many labelled rows in as many steps.
    """
    torch.manual_seed(seed)
    model = Classifier(SmallNet(), Heads(SmallNet.embedding_dim, (GLASSES,)))
    method = learn() if learn else Supervised((GLASSES,))
    recipe = plan("scratch", list(model.stages), EPOCHS, RATE)
    sets = rows if learn else next(iter(rows.values()))
    fit(model, method, sets, None, recipe, TrainConfig(ROWS_A_STEP * (2 if learn else 1), seed=seed))
    return model


def learner(name: str, strength: float, steps: int, separate: bool) -> Callable[[], Alignment | DomainAdversarial]:
    """What trains with source and target by its name in STRENGTHS; the strength grows over half of the steps.

    separate: each domain has BatchNorm statistics of its own in training, as with AdaBN afterwards.
    """
    given: dict[str, Any] = {"ramp": steps // 2, "separate": separate}
    aligned = partial(Alignment, (GLASSES,), strength)
    ways: dict[str, Callable[[], Alignment | DomainAdversarial]] = {
        "CORAL as a loss": partial(aligned, **given),
        "kernel means": partial(aligned, distance=kernel_mean_distance, **given),
        "DANN": partial(DomainAdversarial, (GLASSES,), SmallNet.embedding_dim, strength, **given),
    }
    return ways[name]


def seen_by(net: Classifier, photos: FaceSet) -> FeatureSet:
    """What a classifier's heads see of photos."""
    assert net.backbone is not None
    return embed(net.backbone, photos, cache=False)


def with_own_statistics(net: Classifier, photos: FaceSet) -> Classifier:
    """The same classifier with BatchNorm statistics of these photos (AdaBN)."""
    assert net.backbone is not None
    return Classifier(with_statistics_of(net.backbone, photos), net.heads)


def measured(nets: tuple[Classifier, Classifier], sets: tuple[FaceSet, FaceSet], method: str) -> pd.DataFrame:
    """Of a classifier for each domain: accuracies, and what can be seen without target labels.

    sets: source and target, with train and test. `accuracy` is that on the target's test. `source_accuracy`;
    `domain_accuracy` of a fresh probe on both tests; `reverse_accuracy`: a probe that learns the target's training rows
    by their given answers, on the source (Ganin et al. 2016), NaN where all answers are one; `entropy` of the answers
    on the target's training rows.
    """
    tests = [part.split("test") for part in sets]
    own, other = (seen_by(net, part.split("train")) for net, part in zip(nets, sets, strict=True))
    answers = predict(nets[1], sets[1].split("train"))[GLASSES.name].double().softmax(1)
    guessed = GLASSES.predict(answers).numpy()
    reverse = float("nan")
    if len(np.unique(guessed)) > 1:
        labels = pd.DataFrame({GLASSES.name: np.array(GLASSES.classes)[guessed], "split": "train"})
        reverse = accuracies(linear_probe(replace(other, labels=labels), [GLASSES]), own, [GLASSES], "")["value"].iloc[
            0
        ]
    values = {
        "accuracy": accuracies(nets[1], tests[1], [GLASSES], "")["value"].iloc[0],
        "source_accuracy": accuracies(nets[0], tests[0], [GLASSES], "")["value"].iloc[0],
        "domain_accuracy": domain_accuracy(seen_by(nets[0], tests[0]), seen_by(nets[1], tests[1])),
        "reverse_accuracy": reverse,
        "entropy": -(answers * answers.clamp(min=1e-12).log()).sum(1).mean().item(),
    }
    rows = pd.DataFrame({"metric": list(values), "value": list(values.values())})
    return rows.assign(method=method, task=GLASSES.name)


def measure_scratch(shift: str, seed: int) -> pd.DataFrame:
    """All ways to train a small network on photos, with glasses, for what `shift` names. Columns shift and COLUMNS."""
    styles = ("photo", "photo" if shift == "low light" else "sketch")
    both = portrait_domains(PORTRAITS, SmallNet.image_size, seed, styles)
    dark = low_light(both.target, noise=DIM, seed=seed) if shift == "low light" else both.target
    sets = both.source, dark
    source, target = (part.split("train") for part in sets)
    rows = {"source": source, "target": replace(target, labels=target.labels[["split"]])}
    plain = trained(None, {"source": source}, seed)
    upper = trained(None, {"target": target}, seed)

    def own(net: Classifier) -> tuple[Classifier, Classifier]:
        return with_own_statistics(net, source), with_own_statistics(net, target)

    tables = [
        measured((plain, plain), sets, "source only"),
        measured(own(plain), sets, "AdaBN"),
        measured((upper, upper), sets, "target labels"),
    ]
    steps = EPOCHS * -(-len(source) // ROWS_A_STEP)
    for name, strengths in STRENGTHS.items():
        for strength in strengths:
            net = trained(learner(name, strength, steps, separate=True), rows, seed)
            tables.append(measured(own(net), sets, f"{name}, {strength:g}"))
    for name, strength in JOINT.items():
        net = trained(learner(name, strength, steps, separate=False), rows, seed)
        tables.append(measured((net, net), sets, f"{name}, {strength:g}, joint statistics"))
    rows_found = pd.concat(tables, ignore_index=True)
    return rows_found.assign(shift=shift, network="small, from scratch", seed=seed)[["shift", *COLUMNS]]


@study(photos=False)
def record(seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `adaptation_portraits`: rendered photos adapted to sketches and to low light, frozen and from scratch.

    Takes about a quarter of an hour on one core.

    Args:
        seeds: Portraits are rendered anew for each, and networks start anew.
    """
    n, _, n_test = PORTRAITS
    return Study(
        "adaptation_portraits",
        what="from rendered photos to sketches of other people: linear probes on frozen facenet-mini, and a small "
        f"network from scratch (32 pixels a side, {EPOCHS} passes) that learns who wears glasses; the same network "
        f"for a quarter of the light and noise of {DIM:.0%}",
        data=f"rendered portraits: {n:,} of each kind to learn from, {n_test:,} to test; for the small network half "
        "of them wear glasses",
        blocks=[
            block
            for seed in seeds
            for block in (
                Block(f"frozen-{seed}", measure_frozen, (seed,)),
                *(Block(f"{shift}-{seed}", measure_scratch, (shift, seed)) for shift in SHIFTS),
            )
        ],
    )
