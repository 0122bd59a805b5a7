"""facenet-mini against its teacher: the records `mini_fairface` and `mini_groups`, and the model card made from them.

No figure in the card is typed by hand: `python -m facekit record mini` and `record mini_portraits` measure, and
`record card` writes facekit/models/facenet_mini.md from the records and from what the packaged weights say about
themselves, by the template mini.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facekit.data.sets import SPLITS, FaceSet, FeatureSet
from facekit.evaluation.metrics import bootstrap_interval, evaluate
from facekit.experiments import LADDER, few_labels, fine_tune, scores
from facekit.experiments.speed import bench_embedding
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import PACKAGED_WEIGHTS, FaceNetMini
from facekit.models.embedding import embed
from facekit.records import Record, fill, recorded
from facekit.studies.common import SEEDS, TASKS, fairface, labelled, markdown_of, sizes, write_text
from facekit.studies.runner import Block, Study, blocks_of, study
from facekit.tasks import AGE_BAND, GENDER, SKIN_TONE, Task
from facekit.training.scoring import predict
from facekit.transfer.distill import about_weights, agreement
from facekit.transfer.probe import linear_probe

TEACHER, STUDENT = "FaceNet", "facenet-mini"
HANDED = "FaceNet's classifier on facenet-mini"
SCRATCH, TUNED = "same network from scratch", "facenet-mini, fine-tuned"
CARD = PACKAGED_WEIGHTS.with_suffix(".md")
TEMPLATE = Path(__file__).with_suffix(".md")
PORTRAIT_TASKS = (GENDER, SKIN_TONE, AGE_BAND)
LABELS = (200, 1000, 6000)  # and all of them
SMALLEST_GROUP = 20  # no figure over fewer people


def probe_scores(
    train: Mapping[str, FeatureSet], test: Mapping[str, FeatureSet], tasks: Sequence[Task], n: int, seed: int
) -> pd.DataFrame:
    """What linear probes get out of the teacher's and the student's embeddings of the same photos.

    train, test: embeddings by network, TEACHER and STUDENT. All learn from the same `n` rows, drawn with `seed`; the
    network HANDED is the teacher's probe, which never saw the student, on the student's embeddings. Columns network,
    n, seed, task, metric, value.
    """
    probes = {name: linear_probe(few_labels(features, n, seed), tasks) for name, features in train.items()}
    tables = [scores(probe, test[name], tasks).assign(network=name) for name, probe in probes.items()]
    tables.append(scores(probes[TEACHER], test[STUDENT], tasks).assign(network=HANDED))
    return pd.concat(tables, ignore_index=True).assign(n=n, seed=seed)


def pixel_scores(
    mini: FaceNetMini, faces: FaceSet, test: FaceSet, tasks: Sequence[Task], epochs: int, n: int, seed: int
) -> pd.DataFrame:
    """facenet-mini trained on `n` labelled photos of the split `train`: from random weights, and from its own.

    mini: pretrained; it is left as it is. Both get the same photos, order and number of steps, each at the learning
    rate of its rung in `experiments.LADDER`. Columns as `probe_scores`.
    """
    rungs = {rung.plan: rung for rung in LADDER}
    pool = np.flatnonzero(faces.labels["split"] == "train")
    few = few_labels(faces, n, seed, pool).resized(FaceNetMini.image_size)
    tables = []
    for name, rung in ((SCRATCH, rungs["scratch"]), (TUNED, rungs["probe_then_fine_tune"])):
        torch.manual_seed(seed)
        backbone = copy.deepcopy(mini) if rung.pretrained else FaceNetMini()
        model, _ = fine_tune(rung, backbone, few, tasks, epochs=epochs, seed=seed, precision="bf16", channels_last=True)
        tables.append(scores(model, test, tasks).assign(network=name))
    return pd.concat(tables, ignore_index=True).assign(n=n, seed=seed)


def group_scores(train: FeatureSet, test: FeatureSet, teacher: FeatureSet, tasks: Sequence[Task]) -> pd.DataFrame:
    """By race, gender and age band of the test photos: accuracy of linear probes, and the cosine to the teacher.

    train, test: the student's embeddings; the probes learn from all of `train`. teacher: its embeddings of the test
    photos. Columns task, metric, group, value, low, high (95 % bootstrap intervals) and n; groups with fewer than 20
    labels are left out.
    """
    outputs, targets = predict(linear_probe(train, tasks), test), test.targets(tasks)
    groups = [pd.Series(pd.Categorical(test.labels[by.name], by.classes)) for by in TASKS]
    found = pd.concat([evaluate(tasks, outputs, targets, by) for by in groups])
    found = found[found["metric"] == "accuracy"].drop_duplicates(["task", "group"])  # all photos are in each table
    cosine = (test.features.astype(np.float64) * teacher.features).sum(1)
    members = {"all": np.ones(len(test), bool)} | {name: by == name for by in groups for name in by.cat.categories}
    close = [
        ("faces", "cosine", name, cosine[some].mean(), *bootstrap_interval(cosine[some]), some.sum())
        for name, some in members.items()
    ]
    table = pd.concat([found, pd.DataFrame(close, columns=found.columns)], ignore_index=True)
    return table[table["n"] >= SMALLEST_GROUP].reset_index(drop=True)


def closeness(student: FeatureSet, teacher: FeatureSet, metric: str, n: int) -> pd.DataFrame:
    """The mean cosine of two networks' embeddings of the same photos, as `metric`; n: labels of all probes, at most."""
    row = {"network": STUDENT, "n": n, "seed": 0, "task": "faces", "metric": metric}
    return pd.DataFrame([row | {"value": agreement(student, teacher)}])


def speed_scores(images: int = 256) -> pd.DataFrame:
    """Photos a second of `embed` for both networks, taking turns, see `bench_embedding`; columns network, value …"""
    bench = bench_embedding(images).query("unit == 'photos/s'").set_index("row")["value"]
    found = {
        name: max(value for row, value in bench.items() if row.startswith(f"embed, {name}, ") and "resized" not in row)
        for name in (TEACHER, STUDENT)
    }
    rows = pd.DataFrame({"network": list(found), "value": list(found.values())})
    return rows.assign(n=0, seed=0, task="speed", metric="photos_per_second")


@study
def record(pixels: int = 1000, epochs: int = 12, seeds: tuple[int, ...] = SEEDS) -> list[Study]:
    """Records `mini_fairface` and `mini_groups`: facenet-mini, its teacher, and the same network from scratch.

    Labels come from the split `train`, scores are of the split `test`, embeddings are those of the photo (no mirror
    image). Takes about ten minutes on one core once FaceNet's embeddings are there.

    Args:
        pixels: Photos for the networks that are trained on pixels.
        epochs: Passes over them.
        seeds: Of the draws of labelled rows and of training on pixels.
    """
    faces, facenet, mini = fairface(), FaceNet.from_pretrained(), FaceNetMini.from_pretrained()
    features = {TEACHER: embed(facenet, faces), STUDENT: embed(mini, faces)}
    train, validation, test = ({name: rows.split(part) for name, rows in features.items()} for part in SPLITS)
    pictures = faces.split("test").resized(FaceNetMini.image_size)
    n_all = len(train[STUDENT])
    data = labelled(n_all, test[STUDENT], "photos to draw labels from")
    close = {"cosine": test, "validation_cosine": validation}
    # With all rows every draw is the same fit.
    counts = [(n, seeds if n < n_all else seeds[:1]) for n in sizes(LABELS, n_all)]
    return [
        Study(
            "mini_groups",
            what="facenet-mini by group: linear probes that learned from all labels, and the cosine to FaceNet",
            data=data,
            blocks=[Block("groups", group_scores, (train[STUDENT], test[STUDENT], test[TEACHER], TASKS))],
        ),
        Study(
            "mini_fairface",
            what="facenet-mini, FaceNet and the same network from scratch: linear probes on frozen embeddings of the "
            f"photo, training on the pixels of {pixels:,} photos in {epochs} epochs, photos a second on the CPU",
            data=data,
            blocks=[
                *(Block(name, closeness, (part[STUDENT], part[TEACHER], name, n_all)) for name, part in close.items()),
                *(block for n, some in counts for block in blocks_of(probe_scores, (train, test, TASKS), [n], some)),
                *blocks_of(pixel_scores, (mini, faces, pictures, TASKS, epochs, pixels), seeds),
                Block("speed", speed_scores),
            ],
        ),
    ]


def write_card() -> int:
    """Writes facenet-mini's model card from its three records and from its weights.

    Examples:
        python -m facekit record card
    """
    scores, groups, portraits = (recorded(f"mini_{name}") for name in ("fairface", "groups", "portraits"))
    return write_text(CARD, card(scores, groups, portraits, about_weights(PACKAGED_WEIGHTS)))


def accuracy_table(rows: pd.DataFrame, tasks: Sequence[Task]) -> str:
    """Mean accuracy over seeds as Markdown: a row for each network and number of labels, a column for each task."""
    mean = rows[rows["metric"] == "accuracy"].pivot_table("value", ["network", "n"], "task", sort=False)
    mean = mean[[task.name for task in tasks]].rename_axis(["network", "labels"])
    return markdown_of(mean.rename(columns={"age": "age band", "skin_tone": "skin tone"}))


def made_by(about: Mapping) -> str:
    """The command that made weights, where and how long it ran, after that of the weights that it started from."""
    before = about.get("started_from")
    chosen = {name: value for name, value in about["options"].items() if value is not None}
    options = " ".join(f"--{name} {value}" for name, value in chosen.items())
    options += " --weights THESE" if before else ""
    text = (
        f"Made in {about['seconds']:.0f} s with {about['processes']} process(es) on {about['hardware']}, torch "
        f"{about['torch']}, by\n\n    python -m facekit distill FAIRFACE {options}"
    )
    return f"{made_by(before)}\n\nand from these weights:\n\n{text}" if before else text


NO_LABEL = "It never saw a label."
ANSWERS_TEXT = """In its last run a second loss, with weight {weight}, was the difference between what linear
classifiers of race, gender and age band say about its embedding and about FaceNet's (reused classifiers: Chen et al.
2022, arXiv 2203.14001); these were fitted to FaceNet's embeddings and the labels of the same training photos."""


def card(scores: Record, groups: Record, portraits: Record, about: dict) -> str:
    """The model card (Mitchell et al. 2019, 1810.03993), Markdown.

    scores, groups, portraits: the records `mini_fairface`, `mini_groups`, `mini_portraits`. about: `about_weights`.
    """
    single = scores.rows.set_index(["network", "metric"])["value"]
    speed = {name: single[name, "photos_per_second"] for name in (TEACHER, STUDENT)}
    by_group = groups.rows.astype({"n": str})
    by_group["value"] = [f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in by_group.itertuples()]
    by_group["score"] = by_group["metric"].where(by_group["task"] == "faces", by_group["task"])
    by_group = by_group.pivot_table("value", ["group", "n"], "score", "first", sort=False)
    weight = about["options"].get("answers")
    return fill(
        TEMPLATE,
        about=about,
        runs=made_by(about),
        answers=ANSWERS_TEXT.format(weight=weight) if weight else NO_LABEL,
        parameters=sum(p.numel() for p in FaceNetMini().parameters()),
        test=groups.rows["n"].max(),
        cosine=single[STUDENT, "cosine"],
        validation=single[STUDENT, "validation_cosine"],
        times=speed[STUDENT] / speed[TEACHER],
        speed=speed,
        scores=accuracy_table(scores.rows, TASKS),
        portraits=accuracy_table(portraits.rows, PORTRAIT_TASKS),
        groups=markdown_of(by_group.rename(columns={"age": "age band", "cosine": "cosine to FaceNet"})),
        record=scores.about,
        sample=scores.sample(),
        drawn=portraits.about,
    )
