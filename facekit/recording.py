"""`python -m facekit record …`: measures on FairFace, with FaceNet, what lessons show as recorded results.

Every command writes `datasets/reference/NAME.json` once all of it is measured. Until then each block of measurements
is a file in the cache, so that a stopped command goes on where it was, and two of them can share the work. Blocks
belong to one commit and one set of photos: with other code or other photos the measuring starts anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.course.profiles import fairface
from facekit.data.sets import FaceSet, FeatureSet, LabelledSet
from facekit.errors import ConfigError, DataError
from facekit.experiments import LADDER, PROBES, Probes, Strategy, few_labels, fine_tune, learning_curve, scores
from facekit.files import write_json
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier
from facekit.records import git_commit, record, recorded
from facekit.tasks import AGE_BAND, GENDER, RACE
from facekit.training.config import Precision
from facekit.transfer.probe import PRIOR, STAGE_PRIOR, linear_probe

TASKS = (RACE, GENDER, AGE_BAND)
SEEDS = (0, 1, 2)
LABELS = (50, 100, 200, 500, 1000, 2000, 5000, 10000)  # and all of them
# Peak learning rates that `record rates` tries for each rung; "probe, then all" takes that of "everything", which is
# what its second half does.
RATES: dict[str, tuple[float, ...]] = {
    "frozen": (1e-3, 3e-3, 1e-2),
    "new last layer": (3e-4, 1e-3, 3e-3),
    "last block": (1e-4, 3e-4, 1e-3),
    "discriminative rates": (3e-4, 1e-3, 3e-3),
    "everything": (1e-4, 3e-4, 1e-3),
    "from scratch": (1e-3, 3e-3),
}
SAME_RATE = {"probe, then all": "everything"}
COPIES = 300  # test photos that must be recognised among mirrored and darkened copies of them


class Sheet:
    """Blocks of measurements, each a file in the cache, of a recording that is not complete yet.

    name: of the record. about: everything that the blocks depend on besides their own names; the code's commit is
    added to it.
    """

    def __init__(self, name: str, about: dict) -> None:
        request = json.dumps({**about, "commit": git_commit()}, sort_keys=True)
        digest = hashlib.sha256(request.encode()).hexdigest()[:16]
        self.folder = settings.cache_dir() / "recording" / f"{name}-{digest}"
        self.seconds = 0.0
        self._tables: list[pd.DataFrame] = []

    def block(self, title: str, measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The rows of a block: from its file, else measured now and kept. Its seconds count in `seconds`."""
        path = self.folder / f"{title}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            start = time.perf_counter()
            rows = measure()
            content = {
                "seconds": time.perf_counter() - start,
                "rows": rows.to_json(orient="table", index=False, double_precision=15),
            }
            write_json(path, content)
        self.seconds += content["seconds"]
        self._tables.append(pd.read_json(io.StringIO(content["rows"]), orient="table", precise_float=True))
        return self._tables[-1]

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all blocks so far."""
        return pd.concat(self._tables, ignore_index=True)


def retention(before: FeatureSet, after: FeatureSet, copies: FeatureSet) -> pd.DataFrame:
    """What is left of what FaceNet was trained for: columns task (`faces`), metric, value.

    before, after: embeddings (N, D) of the same photos by FaceNet as it came and by the network now; copies: now, of
    the first n photos, mirrored and darkened. `cosine` is that between a photo's embeddings before and after, mean
    over the N photos. `recognition` is the share of the first n photos whose nearest copy, of the n, is their own
    (both as in `transfer.forgetting`).
    """
    cosine = float((after.features * before.features).sum(1).mean())
    nearest = (after.features[: len(copies)] @ copies.features.T).argmax(1)
    recognition = float((nearest == np.arange(len(copies))).mean())
    return pd.DataFrame({"task": "faces", "metric": ["recognition", "cosine"], "value": [recognition, cosine]})


def measure_probes(
    sheet: Sheet,
    train: FeatureSet,
    test: FeatureSet,
    labels: Sequence[int],
    seeds: Sequence[int],
    probes: Probes,
    title: str = "",
) -> None:
    """Learning curves of the probes, block by block (one for each n and seed), on the same rows for all."""
    sizes = sorted({n for n in labels if n < len(train)} | {len(train)})
    for n, seed in settings.progress([(n, seed) for n in sizes for seed in seeds], desc="probes", unit="block"):
        sheet.block(
            f"{title}{n}-{seed}", lambda n=n, seed=seed: learning_curve(train, test, TASKS, [n], [seed], probes)
        )


def measure_rung(
    rung: Strategy,
    seed: int,
    train: FaceSet,
    test: FaceSet,
    make: Callable[[bool, int], Backbone],
    epochs: int,
    batch_size: int = 32,
    precision: Precision = "bf16",
    copies: int = 0,
) -> pd.DataFrame:
    """One rung with one seed: its scores on `test`, what it cost, and what is left of the old skill.

    make: (pretrained, seed) to a fresh backbone. copies: test photos for the old skill (see `retention`), 0 for none.
    Columns rung, n, seed, task, metric, value, lr, moved, steps, seconds
    (wall clock of the training) and cpu_seconds (of all its threads).
    """
    start = time.process_time()
    model, result = fine_tune(
        rung,
        make(rung.pretrained, seed),
        train,
        TASKS,
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        channels_last=True,
    )
    cpu_seconds = time.process_time() - start
    after = embed(model.backbone, test, cache=False)
    tables = [scores(Classifier(None, model.heads), after, TASKS)]
    if copies:
        some = test.select(range(min(copies, len(test))))
        some = replace(some, inputs=(some.images[..., ::-1] * 0.7).astype(np.uint8))
        tables.append(retention(embed(make(True, 0), test), after, embed(model.backbone, some, cache=False)))
    rows = pd.concat(tables, ignore_index=True)
    rows.insert(0, "rung", rung.name)
    cost = {"moved": sum(result.moved.values()), "steps": result.steps, "seconds": result.seconds}
    return rows.assign(n=len(train), seed=seed, lr=rung.lr, **cost, cpu_seconds=cpu_seconds)


def rungs_at_best_rates(rates: pd.DataFrame) -> tuple[Strategy, ...]:
    """The ladder with the learning rate of each rung that had the highest mean accuracy over tasks and seeds.

    rates: rows of the record `ladder_rates`. Raises DataError when a rung is not in it.
    """
    accuracy = rates[rates["metric"] == "accuracy"].groupby(["rung", "lr"])["value"].mean()
    chosen = []
    for rung in LADDER:
        name = SAME_RATE.get(rung.name, rung.name)
        if name not in accuracy.index.get_level_values("rung"):
            raise DataError(
                f"the record ladder_rates has no rung {name!r}; run `python -m facekit record rates` again."
            )
        chosen.append(replace(rung, lr=float(accuracy[name].idxmax())))
    return tuple(chosen)


def record_probe(seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `probe_fairface`: FaceNet's embeddings of FairFace, both probes, from 50 labels to all of them.

    All official training photos are there to learn from (nothing is chosen, so none is held out), the official
    validation photos are the test. Takes about ten minutes on one core once the photos are embedded.

    Args:
        seeds: Of the draws of labelled rows and of the probe with a hidden layer.
    """
    faces = fairface_photos()
    features = embed(FaceNet.from_pretrained(), faces, flip=True)
    train, test = features.select(rows_of(features, "train", "validation")), features.split("test")
    sheet = Sheet("probe_fairface", {"features": features.content_hash()})
    measure_probes(sheet, train, test, LABELS, seeds, PROBES)
    return write_record(
        "probe_fairface",
        sheet,
        what="accuracy of probes on FaceNet's frozen embeddings (mean of photo and mirror image) by number of labels; "
        "with all labels every seed of the linear probe is the same fit",
        data=f"FairFace, {len(train):,} labelled photos to draw from, {len(test):,} test photos",
        command="record probe",
        seeds=seeds,
    )


def record_stages(stages: tuple[str, ...] = ("repeat_3",), seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `stages_fairface`: linear probes on what FaceNet knows before its embedding, and on the embedding.

    Of each stage the output, averaged over places, of photo and mirror image. Same photos and draws as `record probe`.

    Args:
        stages: Names of FaceNet's stages; stem, repeat_1, mixed_6a, repeat_2, mixed_7a and repeat_3 (the last).
        seeds: Of the draws of labelled rows.
    """
    faces, facenet = fairface_photos(), FaceNet.from_pretrained()
    several = {name: embed(facenet, faces, flip=True, stage=name) for name in stages}
    several["embedding"] = embed(facenet, faces, flip=True)
    sheet = Sheet("stages_fairface", {name: features.content_hash() for name, features in several.items()})
    train, test = rows_of(faces, "train", "validation"), rows_of(faces, "test")
    for name, features in several.items():
        prior = PRIOR if name == "embedding" else STAGE_PRIOR
        probe = {name: lambda rows, tasks, seed, prior=prior: linear_probe(rows, tasks, prior)}
        measure_probes(sheet, features.select(train), features.select(test), LABELS, seeds, probe, f"{name}-")
    return write_record(
        "stages_fairface",
        sheet,
        what="accuracy of linear probes on FaceNet's embedding and on the averaged output of earlier stages (mean of "
        "photo and mirror image) by number of labels",
        data=f"FairFace, {len(train):,} labelled photos to draw from, {len(test):,} test photos",
        command="record stages" if tuple(stages) == ("repeat_3",) else f"record stages --stages '{json.dumps(stages)}'",
        seeds=seeds,
    )


def record_rates(labels: int = 192, epochs: int = 4, photos: int = 500, seeds: tuple[int, ...] = (0,)) -> int:
    """Records `ladder_rates`: each rung of the ladder at several learning rates, scored on validation photos.

    The test photos take no part. `record ladder` then gives each rung its best rate.

    Args:
        labels: Photos to learn from, drawn from the split `train`.
        epochs: Passes over them.
        photos: Validation photos to score on, at most.
        seeds: Of the draw of photos, of the heads, of order and dropout.
    """
    faces = fairface_photos()
    pool, held_out = (rows_of(faces, name) for name in ("train", "validation"))
    validation = few_labels(faces, min(photos, len(held_out)), seed=0, pool=held_out)
    trials = [(seed, rung, lr) for seed in seeds for rung in LADDER for lr in RATES.get(rung.name, ())]
    sheet = _measure_rungs("ladder_rates", trials, faces, pool, validation, labels, epochs)
    return write_record(
        "ladder_rates",
        sheet,
        what=f"rungs of the transfer ladder for FaceNet at several rates, {epochs} epochs, scored on validation photos",
        data=f"FairFace, {labels:,} photos to learn from, {len(validation):,} of validation",
        command=f"record rates --labels {labels} --epochs {epochs} --photos {photos}",
        seeds=seeds,
    )


def record_ladder(labels: int = 1000, epochs: int = 4, seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `ladder_fairface`: FaceNet on FairFace, frozen, tuned from the top down, and from scratch.

    Every rung learns race, gender and age band together from the same photos in the same number of steps, at the
    learning rate that did best in `ladder_rates`. The defaults take about an hour of processor time; several processes
    with different seeds share the work, the last call with all seeds writes the record.

    Args:
        labels: Photos to learn from, drawn from all official training photos.
        epochs: Passes over them.
        seeds: Of the draw of photos, of the heads, of order and dropout.
    """
    faces = fairface_photos()
    pool, test = rows_of(faces, "train", "validation"), faces.split("test")
    rungs = rungs_at_best_rates(recorded("ladder_rates").rows)
    trials = [(seed, rung, rung.lr) for seed in seeds for rung in rungs]
    sheet = _measure_rungs("ladder_fairface", trials, faces, pool, test, labels, epochs, COPIES)
    return write_record(
        "ladder_fairface",
        sheet,
        what=f"FaceNet fine-tuned on FairFace for race, gender and age band together, {epochs} epochs, bf16, each rung "
        "at the rate that did best on validation photos",
        data=f"FairFace, {labels:,} photos to learn from, {len(test):,} test photos",
        command=f"record ladder --labels {labels} --epochs {epochs}",
        seeds=seeds,
    )


def show(name: str) -> int:
    """Prints a recorded result: what it is, where it comes from, and means and spreads over its seeds.

    Args:
        name: Of the record, as in datasets/reference.
    """
    result = recorded(name)
    print(result.caption())
    for key in ("command", "seeds", "versions", "git_commit", "seconds"):
        print(f"{key}: {result.about[key]}")
    rows = result.rows
    by = [column for column in rows if column in ("n", "lr") or not pd.api.types.is_numeric_dtype(rows[column])]
    found = rows.groupby(by, sort=False)["value"].agg(mean="mean", spread="std", seeds="count")
    print(found.reset_index().to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return 0


def fairface_photos() -> FaceSet:
    """FairFace's photos, all splits; raises ConfigError in profile laptop."""
    if settings.profile() != "full":
        raise ConfigError(
            "results are recorded on real photos: set FACEKIT_PROFILE=full, and FACEKIT_DATA to the folder with "
            "FairFace and FaceNet's weights."
        )
    return fairface()


def rows_of(data: LabelledSet, *splits: str) -> np.ndarray:
    """Indices of the rows of these splits."""
    return np.flatnonzero(data.labels["split"].isin(splits))


def _backbone(pretrained: bool, seed: int) -> Backbone:
    if pretrained:
        return FaceNet.from_pretrained()
    torch.manual_seed(seed)
    return FaceNet()


def _measure_rungs(
    name: str,
    trials: Sequence[tuple[int, Strategy, float]],
    faces: FaceSet,
    pool: np.ndarray,
    test: FaceSet,
    labels: int,
    epochs: int,
    copies: int = 0,
) -> Sheet:
    """Trains on draws of `labels` photos from the rows `pool` of `faces`, scores on `test`, one block a trial."""
    about = {"test": test.content_hash(), "train": len(pool), "labels": labels, "epochs": epochs}
    sheet = Sheet(name, about)
    few = {seed: few_labels(faces, labels, seed, pool) for seed in {seed for seed, _, _ in trials}}
    for seed, rung, lr in settings.progress(trials, desc=name, unit="rung"):
        at_rate = replace(rung, lr=lr)
        sheet.block(
            f"{seed}-{rung.plan}-{lr:g}",
            lambda seed=seed, rung=at_rate: measure_rung(rung, seed, few[seed], test, _backbone, epochs, copies=copies),
        )
    return sheet


def write_record(name: str, sheet: Sheet, *, what: str, data: str, command: str, seeds: Sequence[int]) -> int:
    """Writes the record of a complete sheet and says so; returns 0. command: without the seeds, which are added."""
    command = f"python -m facekit {command} --seeds {json.dumps(list(seeds), separators=(',', ':'))}"
    path: Path = record(name, sheet.rows, what=what, data=data, command=command, seconds=sheet.seconds)
    print(f"wrote {path}: {len(sheet.rows):,} rows, {sheet.seconds:.0f} s")
    return 0
