"""facenet-mini against its teacher: the records `mini_fairface` and `mini_groups`, and the model card made from them.

No figure in the card is typed by hand: `python -m facekit record mini` and `record mini_portraits` measure, and
`record card` writes facekit/models/facenet_mini.md from the records and from what the packaged weights say about
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from facekit import settings
from facekit.course.profiles import fairface
from facekit.data.portraits import render_portraits
from facekit.data.sets import SPLITS, FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import bootstrap_interval, evaluate
from facekit.experiments import LADDER, few_labels, fine_tune, scores
from facekit.experiments.speed import bench_embedding
from facekit.files import atomic_path
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import PACKAGED_WEIGHTS, FaceNetMini
from facekit.models.embedding import embed
from facekit.recording import SEEDS, TASKS, Sheet
from facekit.records import Record, markdown, record, recorded
from facekit.tasks import AGE_BAND, GENDER, SKIN_TONE, Task
from facekit.training.scoring import predict
from facekit.transfer.distill import about_weights, agreement
from facekit.transfer.probe import linear_probe

TEACHER, STUDENT = "FaceNet", "facenet-mini"
HANDED = "FaceNet's classifier on facenet-mini"
SCRATCH, TUNED = "same network from scratch", "facenet-mini, fine-tuned"
CARD = PACKAGED_WEIGHTS.with_suffix(".md")
PORTRAIT_TASKS = (GENDER, SKIN_TONE, AGE_BAND)
PORTRAITS = (1200, 0, 1000)  # train, validation, test
FEW = (50, 200)  # labelled portraits
LABELS = (200, 1000, 6000)  # and all of them
FAST = {"precision": "bf16", "channels_last": True}
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
    faces: FaceSet, test: FaceSet, tasks: Sequence[Task], n: int, seed: int, epochs: int, **options
) -> pd.DataFrame:
    """facenet-mini trained on `n` labelled photos of the split `train`: from random weights, and from its own.

    Both get the same photos, order and number of steps, each at the learning rate of its rung in
    `experiments.LADDER`. options: as `fine_tune` takes them. Columns as `probe_scores`.
    """
    rungs = {rung.plan: rung for rung in LADDER}
    pool = np.flatnonzero(faces.labels["split"] == "train")
    few = few_labels(faces, n, seed, pool).resized(FaceNetMini.image_size)
    tables = []
    for name, rung in ((SCRATCH, rungs["scratch"]), (TUNED, rungs["probe_then_fine_tune"])):
        backbone = FaceNetMini.from_pretrained() if rung.pretrained else FaceNetMini()
        model, _ = fine_tune(rung, backbone, few, tasks, epochs=epochs, seed=seed, **options)
        tables.append(scores(model, test, tasks).assign(network=name))
    return pd.concat(tables, ignore_index=True).assign(n=n, seed=seed)


def group_scores(train: FeatureSet, test: FeatureSet, teacher: FeatureSet, tasks: Sequence[Task]) -> pd.DataFrame:
    """By race, gender and age band of the test photos: accuracy of linear probes, and the cosine to the teacher.

    train, test: the student's embeddings; the probes learn from all of `train`. teacher: its embeddings of the test
    photos. Columns task, metric, group, value, low, high (95 % bootstrap intervals) and n; groups with fewer than 20
    labels are left out.
    """
    outputs, targets = predict(linear_probe(train, tasks), test), test.targets(tasks)
    cosine = (test.features.astype(np.float64) * teacher.features).sum(1)
    tables = []
    for number, by in enumerate(TASKS):
        groups = pd.Series(pd.Categorical(test.labels[by.name], by.classes))
        found = evaluate(tasks, outputs, targets, groups=groups)
        found = found[(found["metric"] == "accuracy") & ((found["group"] != "all") | (number == 0))]
        tables.append(found)
        for name in [*(["all"] if number == 0 else []), *by.classes]:
            some = cosine if name == "all" else cosine[(groups == name).to_numpy()]
            low, high = bootstrap_interval(some)
            row = {"task": "faces", "metric": "cosine", "group": name, "value": some.mean(), "low": low, "high": high}
            tables.append(pd.DataFrame([row | {"n": len(some)}]))
    table = pd.concat(tables, ignore_index=True)
    return table[table["n"] >= SMALLEST_GROUP].reset_index(drop=True)


def portrait_scores(
    faces: FaceSet, features: Mapping[str, FeatureSet], n: int, seed: int, epochs: int, **options
) -> pd.DataFrame:
    """What few labelled portraits are enough for: probes on both networks' embeddings, and training on pixels.

    faces: portraits with all splits. features: their embeddings by network. The rest as in `pixel_scores`.
    """
    pictures = faces.split("test").resized(FaceNetMini.image_size)
    tables = [pixel_scores(faces, pictures, PORTRAIT_TASKS, n, seed, epochs, **options)]
    train, test = ({name: rows.split(part) for name, rows in features.items()} for part in ("train", "test"))
    return pd.concat([probe_scores(train, test, PORTRAIT_TASKS, n, seed), *tables], ignore_index=True)


def speed_scores(images: int = 256) -> pd.DataFrame:
    """Photos a second of `embed` for both networks, taking turns, see `bench_embedding`; columns network, value …"""
    bench = bench_embedding(images).set_index("row")["photos_per_second"]
    found = {
        name: max(value for row, value in bench.items() if row.startswith(f"embed, {name}, ") and "resized" not in row)
        for name in (TEACHER, STUDENT)
    }
    rows = pd.DataFrame({"network": list(found), "value": list(found.values())})
    return rows.assign(n=0, seed=0, task="speed", metric="photos_per_second")


def record_mini(pixels: int = 1000, epochs: int = 12, seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `mini_fairface` and `mini_groups`: facenet-mini, its teacher, and the same network from scratch.

    Labels come from the split `train`, scores are of the split `test`, embeddings are those of the photo (no mirror
    image). Takes about ten minutes on one core once FaceNet's embeddings are there.

    Args:
        pixels: Photos for the networks that are trained on pixels.
        epochs: Passes over them.
        seeds: Of the draws of labelled rows and of training on pixels.
    """
    _only_full()
    faces = fairface()
    features = {TEACHER: embed(FaceNet.from_pretrained(), faces), STUDENT: embed(FaceNetMini.from_pretrained(), faces)}
    train, validation, test = ({name: rows.split(part) for name, rows in features.items()} for part in SPLITS)
    everything = len(train[STUDENT])
    about = {name: rows.content_hash() for name, rows in features.items()} | {"pixels": pixels, "epochs": epochs}
    data = f"FairFace, {everything:,} photos to draw labels from, {len(test[STUDENT]):,} test photos"
    command = f"python -m facekit record mini --pixels {pixels} --epochs {epochs}"

    groups = Sheet("mini_groups", about)
    groups.block("groups", lambda: group_scores(train[STUDENT], test[STUDENT], test[TEACHER], TASKS))
    what = "facenet-mini by group: linear probes that learned from all labels, and the cosine to FaceNet"
    record("mini_groups", groups.rows, what=what, data=data, command=command, seconds=groups.seconds)

    sheet = Sheet("mini_fairface", about)
    close = pd.DataFrame({"network": [STUDENT], "n": everything, "seed": 0, "task": "faces"})
    for name, part in (("cosine", test), ("validation_cosine", validation)):
        rows = close.assign(metric=name, value=agreement(part[STUDENT], part[TEACHER]))
        sheet.block(name, lambda rows=rows: rows)
    for n in (*(n for n in LABELS if n < everything), everything):
        for seed in seeds if n < everything else seeds[:1]:  # with all rows every draw is the same fit
            sheet.block(f"probe-{n}-{seed}", lambda n=n, seed=seed: probe_scores(train, test, TASKS, n, seed))
    pictures = faces.split("test").resized(FaceNetMini.image_size)
    for seed in seeds:
        sheet.block(
            f"pixels-{seed}", lambda seed=seed: pixel_scores(faces, pictures, TASKS, pixels, seed, epochs, **FAST)
        )
    sheet.block("speed", speed_scores)
    what = (
        "facenet-mini, FaceNet and the same network from scratch: linear probes on frozen embeddings of the photo, "
        f"training on the pixels of {pixels:,} photos in {epochs} epochs, photos a second on the CPU"
    )
    path = record("mini_fairface", sheet.rows, what=what, data=data, command=command, seconds=sheet.seconds)
    print(f"wrote {path}: {len(sheet.rows):,} rows, {sheet.seconds:.0f} s")
    return 0


def record_portraits(epochs: int = 12, seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `mini_portraits`: facenet-mini, FaceNet and the same network from scratch with few labelled portraits.

    Takes about five minutes on one core.

    Args:
        epochs: Passes over the labelled portraits of the networks that are trained on pixels.
        seeds: Of the draws of labelled portraits and of training on pixels.
    """
    _only_full()
    portraits = render_portraits(PORTRAITS)
    networks = {TEACHER: FaceNet.from_pretrained(), STUDENT: FaceNetMini.from_pretrained()}
    features = {name: embed(network, portraits) for name, network in networks.items()}
    about = {name: rows.content_hash() for name, rows in features.items()} | {"epochs": epochs}
    sheet = Sheet("mini_portraits", about)
    for n in FEW:
        for seed in seeds:
            sheet.block(
                f"{n}-{seed}", lambda n=n, seed=seed: portrait_scores(portraits, features, n, seed, epochs, **FAST)
            )
    path = record(
        "mini_portraits",
        sheet.rows,
        what="facenet-mini, FaceNet and the same network from scratch with few labelled portraits",
        data=f"{PORTRAITS[0]:,} rendered portraits to draw labels from, {PORTRAITS[2]:,} test portraits",
        command=f"python -m facekit record mini_portraits --epochs {epochs}",
        seconds=sheet.seconds,
    )
    print(f"wrote {path}: {len(sheet.rows):,} rows, {sheet.seconds:.0f} s")
    return 0


def _only_full() -> None:
    if settings.profile() != "full":
        raise ConfigError("results are recorded on real photos: set FACEKIT_PROFILE=full and FACEKIT_DATA.")


def record_card() -> int:
    """Writes facenet-mini's model card from its three records and from its weights."""
    records = (recorded(f"mini_{name}") for name in ("fairface", "groups", "portraits"))
    text = card(*records, about_weights(PACKAGED_WEIGHTS))
    with atomic_path(CARD) as path:
        path.write_text(text, encoding="utf-8")
    print(f"wrote {CARD}")
    return 0


def accuracy_table(rows: pd.DataFrame, tasks: Sequence[Task]) -> pd.DataFrame:
    """Mean accuracy over seeds as text: a row for each network and number of labels, a column for each task."""
    rows = rows[rows["metric"] == "accuracy"]
    mean = rows.groupby(["network", "n", "task"], sort=False)["value"].mean().unstack("task")
    mean = mean[[task.name for task in tasks]].map("{:.3f}".format).reset_index()
    mean["n"] = mean["n"].map("{:,}".format)
    return mean.rename(columns={"n": "labels", "age": "age band", "skin_tone": "skin tone"})


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


def card(scores: Record, groups: Record, portraits: Record, about: dict) -> str:
    """The model card (Mitchell et al. 2019, 1810.03993), Markdown.

    scores, groups, portraits: the records `mini_fairface`, `mini_groups`, `mini_portraits`. about: `about_weights`.
    """
    rows = scores.rows
    single = rows.set_index(["network", "metric"])["value"]
    speed = {name: single[name, "photos_per_second"] for name in (TEACHER, STUDENT)}
    by_group = groups.rows.copy()
    by_group["value"] = [f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in by_group.itertuples()]
    by_group["score"] = by_group["metric"].where(by_group["task"] == "faces", by_group["task"])
    by_group = by_group.pivot_table("value", ["group", "n"], "score", "first", sort=False).reset_index()
    weight = about["options"].get("answers")
    return CARD_TEXT.format(
        runs=made_by(about),
        answers=ANSWERS_TEXT.format(weight=weight) if weight else NO_LABEL,
        parameters=f"{sum(p.numel() for p in FaceNetMini().parameters()):,}",
        photos=f"{about['trained_on']:,}",
        pictures=f"{about['pictures']:,}",
        rendered=f"{about['options']['portraits']:,}",
        blended=f"{about['options']['blended']:,}",
        test=f"{int(groups.rows['n'].max()):,}",
        cosine=f"{single[STUDENT, 'cosine']:.3f}",
        validation=f"{single[STUDENT, 'validation_cosine']:.3f}",
        times=f"{speed[STUDENT] / speed[TEACHER]:.0f}",
        mini_speed=f"{speed[STUDENT]:.0f}",
        facenet_speed=f"{speed[TEACHER]:.0f}",
        scores=markdown(accuracy_table(rows, TASKS)),
        portraits=markdown(accuracy_table(portraits.rows, PORTRAIT_TASKS)),
        portraits_data=portraits.about["data"],
        groups=markdown(by_group.rename(columns={"age": "age band", "cosine": "cosine to FaceNet"})),
        record=scores.about,
        drawn=portraits.about,
    )


NO_LABEL = "It never saw a label."
ANSWERS_TEXT = """In its last run a second loss, with weight {weight}, was the difference between what linear
classifiers of race, gender and age band say about its embedding and about FaceNet's (reused classifiers: Chen et al.
2022, arXiv 2203.14001); these were fitted to FaceNet's embeddings and the labels of the same training photos."""

CARD_TEXT = """# Model card: facenet-mini

Written by `python -m facekit record card` from recorded measurements; do not edit it by hand.

## The model

A residual network of {parameters} parameters (`facekit.models.backbones.mini.FaceNetMini`) that turns a photo of a face, 96 × 96
pixels, into 512 numbers of length 1 in the space of FaceNet's embeddings. It was taught by FaceNet: for each of
{pictures} pictures, as it is or mirrored, it learned to give the embedding that FaceNet gives the same view (cosine
loss; a consistent teacher as in Beyer et al. 2022, arXiv 2106.05237; distillation: Hinton et al. 2015, arXiv
1503.02531). {answers}
Weights: float16, BatchNorm's statistics float32. This form of card: Mitchell et al. 2019, arXiv
1810.03993.

{runs}

The file's metadata hold the same configuration and the checksums of the photos and of the teacher.

## Data, attribution, terms

- Photos: {photos} of FairFace (Kimmo Kärkkäinen and Jungseock Joo, FairFace: Face Attribute Dataset for Balanced Race,
  Gender, and Age for Bias Measurement and Mitigation, WACV 2021; github.com/joojs/fairface), CC BY 4.0. A twentieth of
  the official training photos is left out for validation. The weights hold no photo, and no embedding of a person.
- Further pictures: {rendered} portraits that facekit renders, half of them sketches, of other people than lessons and
  records show, and {blended} blends of any two of these pictures (Zhang et al. 2018, arXiv 1710.09412).
- Teacher: FaceNet (Schroff et al., CVPR 2015; Inception-ResNet-v1 with the VGGFace2 weights of David Sandberg, in Tim
  Esler's facenet-pytorch; code under the MIT licence). VGGFace2 (Cao et al. 2018) was released for non-commercial
  research. What is learned from its network should be used under the same restriction.
- The people in both sets were never asked. That is a reason to learn with this model, and not to deploy it.

## Meant for

Teaching transfer learning where FaceNet is too slow or not at hand: probes and heads on its embeddings, fine-tuning on
a laptop, showing what a small student keeps of a large teacher, auditing by group.

## Not for

Recognising, verifying, tracking or finding people; decisions about people of any kind; inferring race, gender, age,
emotion, health or character of anyone who did not ask for it. FairFace's labels say what annotators perceived in a
photo, not what a person is. Not for photos that are not aligned faces, and not for children's data. It inherits the
errors of its teacher and adds its own; the differences between groups below are part of them. How well it tells
persons apart has not been measured.

## Measured

On {test} test photos of FairFace (from its official validation part; no part in training or choosing).
Cosine to FaceNet's embedding of the same photo, mean: {cosine} (validation photos: {validation}).
Speed of `facekit.models.embedding.embed`, fastest of fp32 and bf16: {mini_speed} photos a second, FaceNet
{facenet_speed} in the same run, {times} times as fast ({record[hardware]}; `python -m benchmarks embedding` measures
it again).

Accuracy, mean over seeds {record[seeds]} where several draws of the labelled photos are possible. FaceNet and
facenet-mini are frozen, with a linear probe; "FaceNet's classifier on facenet-mini" learned from FaceNet's embeddings
and never saw facenet-mini's. The network from scratch and the fine-tuned one were trained on the pixels of the labelled
photos, with the same number of steps.

{scores}

By group as annotated (value, 95 % bootstrap interval over the test photos; groups of fewer than 20 are left out): mean
cosine to FaceNet, and accuracy of linear probes on facenet-mini that learned from all labels.

{groups}

Accuracy with few labels on drawn faces (`facekit.data.portraits`), a kind of picture that FaceNet was not trained on;
facenet-mini saw others of them, without labels, where further pictures are named above: {portraits_data}.

{portraits}

Recorded {record[date]} by `{record[command]}` (commit {record[git_commit]}) and
`{drawn[command]}` (commit {drawn[git_commit]}).
"""
