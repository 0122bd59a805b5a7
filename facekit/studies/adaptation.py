"""Domain adaptation on real photos, where it helps and where it harms: `adaptation_low_light`, `adaptation_utkface`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from facekit.data.catalogue import photos
from facekit.data.sets import FaceSet, FeatureSet, LabelledSet
from facekit.evaluation.metrics import evaluate
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.models.heads import Classifier
from facekit.studies.common import Data, fairface, rows_of
from facekit.studies.reference import TERMS
from facekit.studies.runner import Block, Study, blocks_of, study
from facekit.tasks import AGE_BAND, GENDER, RACE, Task
from facekit.training.loop import predict
from facekit.transfer.adaptation import coral, domain_accuracy, low_light
from facekit.transfer.alignment import with_statistics_of
from facekit.transfer.probe import hidden_probe, linear_probe

SEEDS = (0, 1, 2, 3, 4)
COLUMNS = ["network", "method", "seed", "task", "metric", "value"]
WITHIN = ["low", "high"]  # 95 % bootstrap interval over the rows of one test
N, N_TEST = 3000, 3000  # rows of each domain to learn from, rows that are scored
LOW_LIGHT_TASKS = (GENDER, RACE)
RACE_IN_FOUR = Task("race_in_four", "multiclass", ("White", "Black", "Asian", "Indian"))
UTK_TASKS = (GENDER, RACE_IN_FOUR, AGE_BAND)
LABELLED = 300  # target labels beside the source
MEASURED = 512  # photos of each domain that AdaBN takes statistics from; 800 and 2,000 gave the same accuracies


def accuracies(model: Classifier, test: LabelledSet, tasks: Sequence[Task], method: str) -> pd.DataFrame:
    """The accuracy in every task, as rows of a record, with an interval (WITHIN) over the test's rows."""
    found = evaluate(tasks, predict(model, test), test.targets(tasks))
    return found.loc[found["metric"] == "accuracy", ["task", "metric", "value", *WITHIN]].assign(method=method)


def domain_row(source: FeatureSet, target: FeatureSet, method: str) -> pd.DataFrame:
    """How well a fresh probe tells the two apart, as a row of a record."""
    value = domain_accuracy(source, target)
    return pd.DataFrame([{"task": "domain", "metric": "domain_accuracy", "value": value, "method": method}])


def frozen_ways(
    backbone: Backbone, source: FaceSet, target: FaceSet, tests: tuple[FaceSet, FaceSet], tasks: Sequence[Task]
) -> pd.DataFrame:
    """Linear probes on a frozen network: source only, three alignments without target labels, and target labels.

    tests: of source and target. Also what stands above and what breaks: target labels on statistics of the target's
    own, and new statistics for the target alone.
    """
    look = partial(embed, cache=False)
    own = [with_statistics_of(backbone, rows) for rows in (source, target)]
    rows, other = look(backbone, source), look(backbone, target)
    seen = [look(backbone, part) for part in tests]
    adapted, adapted_other = look(own[0], source), look(own[1], target)
    adapted_test = look(own[1], tests[1])
    moved = coral(rows, other)(rows)
    shifted = replace(rows, inputs=rows.features - rows.features.mean(0) + other.features.mean(0))
    learnt_from = {
        "on the source": (rows, seen[0]),
        "source only": (rows, seen[1]),
        "mean": (shifted, seen[1]),
        "CORAL": (moved, seen[1]),
        "AdaBN": (adapted, adapted_test),
        "target labels": (other, seen[1]),
        "target labels, AdaBN": (adapted_other, adapted_test),
        "new statistics for the target alone": (rows, adapted_test),
    }
    tables = [accuracies(linear_probe(a, tasks), b, tasks, name) for name, (a, b) in learnt_from.items()]
    tables += [
        domain_row(moved if name == "CORAL" else a, b, name)
        for name, (a, b) in {
            "source only": (rows, other),
            "CORAL": (moved, other),
            "AdaBN": (adapted, adapted_other),
        }.items()
    ]
    return pd.concat(tables, ignore_index=True).assign(network=f"{backbone.name}, frozen")


def measure_low_light(faces: FaceSet, seed: int) -> pd.DataFrame:
    """`frozen_ways` for facenet-mini, from clean photos to others in low light. Columns as COLUMNS and WITHIN."""
    order = np.random.default_rng(seed).permutation(len(faces))
    source, target, test = (faces.select(np.sort(part)) for part in np.split(order[: 2 * N + N_TEST], [N, 2 * N]))
    dark = [low_light(part, seed=2 * seed + place) for place, part in enumerate((target, test))]
    rows = frozen_ways(FaceNetMini.from_pretrained(), source, dark[0], (test, dark[1]), LOW_LIGHT_TASKS)
    return rows.assign(seed=seed)[[*COLUMNS, *WITHIN]]


def in_four(rows: Data, column: str) -> Data:
    """The rows with `race_in_four`, as FairFace and UTKFace both know it; it is missing where they do not agree."""
    same = {"White": "White", "Black": "Black", "Indian": "Indian", "Asian": "Asian"}
    same |= {"East Asian": "Asian", "Southeast Asian": "Asian"}
    return replace(rows, labels=rows.labels.assign(race_in_four=rows.labels[column].map(same)))


def of_both(source: Data, target: Data, seed: int) -> tuple[Data, Data, Data, Data]:
    """Rows of the source to learn from and to score, and the same of the target: other ones with every seed."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(part)) for part in (source, target)]
    a, at_home, b, seen = (
        part.select(order[place : place + n])
        for part, order in zip((source, target), orders, strict=True)
        for place, n in ((0, N), (N, N_TEST))
    )
    return a, at_home, b, seen


def of_all_and_grown(model: Classifier, part: FeatureSet, tasks: Sequence[Task], method: str) -> pd.DataFrame:
    """`accuracies` of all, and as the metric `accuracy_10_and_over` of those from ten years on."""
    grown = part.select(~part.labels[AGE_BAND.name].isin(["0-2", "3-9"]).to_numpy())
    older = accuracies(model, grown, tasks, method).assign(metric="accuracy_10_and_over")
    return pd.concat([accuracies(model, part, tasks, method), older])


def as_recorded(tables: Sequence[pd.DataFrame], network: str, head: str, seed: int) -> pd.DataFrame:
    """Rows of `adaptation_utkface`: columns head, COLUMNS and WITHIN; race in four is called race."""
    found = pd.concat(tables, ignore_index=True).replace({"task": {RACE_IN_FOUR.name: "race"}})
    return found.assign(network=network, head=head, seed=seed)[["head", *COLUMNS, *WITHIN]]


def measure_utkface(source: FeatureSet, target: FeatureSet, network: str, head: str, seed: int) -> pd.DataFrame:
    """From FairFace to UTKFace on embeddings, with `linear` heads, or for gender with a `hidden` layer.

    Columns as `as_recorded`.
    """
    a, at_home, b, seen = of_both(source, target, seed)
    few = b.select(range(LABELLED))
    with_few = FeatureSet(np.concatenate([a.features, few.features]), pd.concat([a.labels, few.labels]))
    learnt_from = {
        "source only": a,
        "mean": replace(a, inputs=a.features - a.features.mean(0) + b.features.mean(0)),
        "CORAL": coral(a, b)(a),
        f"{LABELLED} target labels": few,
        f"source and {LABELLED} target labels": with_few,
        "target labels": b,
    }
    tasks = UTK_TASKS if head == "linear" else UTK_TASKS[:1]
    tables = [domain_row(a, b, "source only")]
    for name, rows in learnt_from.items():
        model = linear_probe(rows, tasks) if head == "linear" else hidden_probe(rows, tasks, seed=seed)
        scored = {name: seen} | ({"on the source": at_home} if rows is a else {})
        tables += [of_all_and_grown(model, part, tasks, method) for method, part in scored.items()]
    return as_recorded(tables, network, head, seed)


def measure_own_statistics(source: FaceSet, target: FaceSet, backbone: Backbone, seed: int) -> pd.DataFrame:
    """AdaBN from FairFace to UTKFace: linear heads on a network whose BatchNorms have statistics of each domain.

    Of the same rows as `measure_utkface`. `on the source, AdaBN` says what new statistics alone cost, where source is
    learnt from and scored. Columns as `as_recorded`.
    """
    a, at_home, b, seen = of_both(source, target, seed)
    own = [with_statistics_of(backbone, part.select(range(min(MEASURED, len(part))))) for part in (a, b)]
    look = partial(embed, cache=False)
    rows, other = look(own[0], a), look(own[1], seen)
    model = linear_probe(rows, UTK_TASKS)
    scored = {"AdaBN": other, "on the source, AdaBN": look(own[0], at_home)}
    tables = [of_all_and_grown(model, part, UTK_TASKS, method) for method, part in scored.items()]
    return as_recorded([domain_row(rows, other, "AdaBN"), *tables], backbone.name, "linear", seed)


def utkface_blocks(seeds: Sequence[int]) -> list[Block]:
    """Blocks of both networks: `measure_utkface`, with the hidden layer on FaceNet's embeddings, and AdaBN."""
    faces, others = fairface(), photos("utkface")
    learnt_from = rows_of(faces, "train", "validation")
    pixels = in_four(faces.select(learnt_from), RACE.name), in_four(others, "utk_race")
    blocks = []
    for network in (FaceNet.from_pretrained(), FaceNetMini.from_pretrained()):
        both = (
            in_four(embed(network, faces).select(learnt_from), RACE.name),
            in_four(embed(network, others), "utk_race"),
        )
        heads = ("linear",) if network.name == FaceNetMini.name else ("linear", "hidden")
        blocks += blocks_of(measure_utkface, (*both, network.name), heads, seeds)
        blocks += [
            Block(f"AdaBN-{network.name}-{seed}", measure_own_statistics, (*pixels, network, seed)) for seed in seeds
        ]
    return blocks


@study
def record(seeds: tuple[int, ...] = SEEDS) -> list[Study]:
    """Records `adaptation_low_light` and `adaptation_utkface`: FairFace adapted to low light, and to UTKFace.

    Takes about half an hour on one core.

    Args:
        seeds: Of the draws.
    """
    faces = fairface()
    faces = faces.select(rows_of(faces, "train", "validation")).resized(FaceNetMini.image_size)
    return [
        Study(
            "adaptation_low_light",
            what="from clean photos to other ones with a quarter of the light and noise of 4 %: linear probes on "
            "frozen facenet-mini",
            data=f"FairFace, official training photos: {N:,} clean, {N:,} other ones in low light, {N_TEST:,} to test",
            blocks=blocks_of(measure_low_light, (faces,), seeds),
        ),
        Study(
            "adaptation_utkface",
            what="from FairFace to UTKFace: linear heads and heads with a hidden layer on frozen embeddings of FaceNet "
            f"and facenet-mini; AdaBN with statistics of {MEASURED} photos of each",
            data=f"FairFace, {N:,} official training photos; {TERMS}, {N:,} photos to learn from and {N_TEST:,} to "
            "test",
            blocks=utkface_blocks(seeds),
        ),
    ]
