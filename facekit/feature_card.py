"""The feature model against real features: `features fit`, `features fidelity` and the datasheet made from the latter.

Whoever learns from drawn features wants two things: that what is learnt works on real faces (trained on drawn, tested
on real), and that the task is as hard as the real one (tested on drawn). `compare` measures both; the record
`feature_model_fidelity` and datasets/fairface_feature_model/README.md keep what it found; no figure is typed by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from facekit import settings
from facekit.course.profiles import fairface
from facekit.data.features.fit import AGE_NOISE, GENDER_NOISE, MIN_FACES, RACE_NOISE, fit_features
from facekit.data.features.model import CHUNK, COLUMNS, PACKAGED_MODEL, FeatureModel
from facekit.data.sets import SPLITS, FaceSet, FeatureSet, read_manifest
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.experiments import PROBES, few_labels, scores
from facekit.files import atomic_path, sha256_of_file
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier
from facekit.recording import SEEDS, Sheet
from facekit.records import ROOT, Record, markdown, record, recorded
from facekit.tasks import AGE_BAND
from facekit.training.scoring import predict
from facekit.transfer import probe as transfer_probe

RECORD = "feature_model_fidelity"
DATASHEET = ROOT / "datasets" / "fairface_feature_model" / "README.md"
SIZES = (200, 1000, 6000, 20000)
WAYS = (("real", "real"), ("drawn", "real"), ("drawn", "drawn"), ("real", "drawn"))  # trained on, tested on
# Rows to test on and the seed they are drawn with, which no training draw has.
N_TEST, TEST_SEED = 8000, 1_000_000
# Parts of the training photos in `cross_fit`.
FOLDS = 3
# Age bands that the datasheet speaks of as those with the fewest photos.
RARE_BANDS = ("0-2", "60-69", "more than 70")
# Rows of the draws whose speed is recorded.
SPEED_ROWS = (200_000, 1_000_000)


def real_features(source: Path | None = None) -> FeatureSet:
    """FaceNet's embeddings of FairFace (mean of photo and mirror image), with splits.

    source: a stored feature set, or a packed set of photos; without it FairFace as profile full finds it. Raises
    DataError for a folder that holds neither, ConfigError without a source in profile laptop.
    """
    if source is None:
        if settings.profile() != "full":
            raise ConfigError(
                "the feature model is made from real photos: name a folder with their embeddings, or set "
                "FACEKIT_PROFILE=full, and FACEKIT_DATA to the folder with FairFace and FaceNet's weights."
            )
        return embed(FaceNet.from_pretrained(), fairface(), flip=True)
    if read_manifest(source).get("kind") == FaceSet.kind:
        return embed(FaceNet.from_pretrained(), FaceSet.load(source), flip=True)
    return FeatureSet.load(source)


def fit_command(source: Path | None = None, dest: Path = PACKAGED_MODEL, min_faces: int = MIN_FACES) -> int:
    """Fits the model of FaceNet's features to the training split of real photos and writes it.

    Args:
        source: Folder with a stored feature set or a packed set of photos; by default FairFace in profile full.
        dest: File to write; by default the one that comes with facekit.
        min_faces: Fewest faces that a statistic may rest on.
    """
    model = fit_features(real_features(source).split("train"), min_faces)
    model.save(dest)
    print(
        f"{dest}: {Path(dest).stat().st_size / 2**10:,.0f} KiB, {model.about['faces']:,} faces, "
        f"{len(model.tensors['axes'])} axes"
    )
    return 0


def compare(
    train: FeatureSet, test: FeatureSet, model: FeatureModel, n: int, seed: int, methods: Sequence[str] | None = None
) -> pd.DataFrame:
    """Scores of probes that learned from `n` real or `n` drawn rows, tested on real and on drawn rows.

    train: real rows to take n from. The drawn rows are a draw of their own with the same seed. methods: names from
    `experiments.PROBES`, by default all. Columns trained_on, tested_on (real, drawn), method, n, seed, task, metric,
    value.
    """
    tested = {"real": test, "drawn": model.draw(N_TEST, seed=TEST_SEED)}
    tables = []
    for trained_on, rows in {"real": few_labels(train, n, seed), "drawn": model.draw(n, seed=seed)}.items():
        for method in methods or PROBES:
            probe = learned(rows, method, seed)
            for tested_on, faces in tested.items():
                table = scores(probe, faces, COLUMNS)
                for column, value in {"seed": seed, "n": n, "method": method, "tested_on": tested_on}.items():
                    table.insert(0, column, value)
                table.insert(0, "trained_on", trained_on)
                tables.append(table)
    return pd.concat(tables, ignore_index=True)


def learned(rows: FeatureSet, method: str, seed: int) -> Classifier:
    """A probe of `PROBES` that learned from all `rows`, from the cache where these rows have taught it before.

    Half of `compare`'s time goes into probes that learn from real rows, which no new fit of the feature model changes.
    """
    request = f"{rows.content_hash()} {method} {seed} {sha256_of_file(Path(transfer_probe.__file__))}"
    path = settings.cache_dir() / "probes" / f"{hashlib.sha256(request.encode()).hexdigest()[:24]}.pt"
    if path.exists():
        return torch.load(path, weights_only=False)
    probe = PROBES[method](rows, COLUMNS, seed)
    with atomic_path(path) as temporary:
        torch.save(probe, temporary)
    return probe


def by_group(train: FeatureSet, test: FeatureSet, model: FeatureModel, seed: int = 0) -> pd.DataFrame:
    """Accuracy by race, by gender and by age band of linear probes that learned from all of `train`, or from as many
    drawn rows.

    Columns way (`real → real`, `drawn → real`, `drawn → drawn`), task, metric, by (race, gender, age), group, value and
    n (real test rows of that group); groups with fewer than 20 of them are left out.
    """
    drawn = model.draw(N_TEST, seed=TEST_SEED)
    # The order that the comparison with all labels takes them in, so that both share a probe.
    learned_from = {"real": few_labels(train, len(train), seed), "drawn": model.draw(len(train), seed=seed)}
    probes = {name: learned(rows, "linear", 0) for name, rows in learned_from.items()}
    tables = []
    for way, rows in (("real → real", test), ("drawn → real", test), ("drawn → drawn", drawn)):
        outputs = predict(probes[way.split()[0]], rows)
        for column in COLUMNS:
            photos = test.labels[column.name].value_counts()
            groups = pd.Series(pd.Categorical(rows.labels[column.name], column.classes))
            found = evaluate(COLUMNS, outputs, rows.targets(COLUMNS), groups, n_boot=1)
            found = found[(found["metric"] == "accuracy") & (found["group"] != "all")]
            found = found.assign(n=found["group"].map(photos).fillna(0), way=way, by=column.name)
            tables.append(found[found["n"] >= MIN_FACES][["way", "task", "metric", "by", "group", "value", "n"]])
    return pd.concat(tables, ignore_index=True)


def _parts(train: FeatureSet, folds: int) -> Iterator[tuple[int, FeatureSet, FeatureSet, FeatureModel]]:
    """Each of `folds` parts of the rows: its number from 0, the rows of the others, its own, a model of the others."""
    order = np.random.default_rng(0).permutation(len(train))
    for number in range(folds):
        part = order[number::folds]
        rest = train.select(np.setdiff1d(order, part))
        yield number, rest, train.select(part), fit_features(rest)


def cross_fit(train: FeatureSet, n: int, method: str = "linear", folds: int = FOLDS) -> pd.DataFrame:
    """Accuracy of probes on photos that neither they nor the feature model have seen, all of `train` in turn.

    For each of `folds` parts of the rows: a model of the others; probes that learned from n rows of the others (all,
    where there are fewer) or from as many that it draws; tested on the part and on drawn rows. Far more photos than the
    test split has. method: a name from `experiments.PROBES`. Columns way, task, metric (`held-out accuracy`), method,
    labels, group (`part 1` …), value, n (photos in the part).
    """
    tables = []
    for number, rest, part, model in _parts(train, folds):
        labels = min(n, len(rest))
        tested = {"real": part, "drawn": model.draw(N_TEST, seed=TEST_SEED)}
        learned_from = {"real": few_labels(rest, labels, number), "drawn": model.draw(labels, seed=number)}
        for trained_on, rows in learned_from.items():
            probe = learned(rows, method, 0)
            for tested_on, faces in tested.items():
                table = scores(probe, faces, COLUMNS)
                table = table[table["metric"] == "accuracy"].assign(metric="held-out accuracy", n=len(part))
                way = f"{trained_on} → {tested_on}"
                tables.append(table.assign(way=way, method=method, labels=labels, group=f"part {number + 1}"))
    order = ["way", "task", "metric", "method", "labels", "group", "value", "n"]
    return pd.concat(tables, ignore_index=True)[order]


def cross_groups(train: FeatureSet, folds: int = FOLDS) -> pd.DataFrame:
    """`by_group` on the parts of `cross_fit`, mean over the parts weighted by photos.

    Columns as there; the metric is `held-out accuracy by group`.
    """
    found = pd.concat([by_group(rest, part, model, number) for number, rest, part, model in _parts(train, folds)])
    keys = ["way", "task", "by", "group"]
    sums = found.assign(value=found["value"] * found["n"]).groupby(keys, sort=False)[["value", "n"]].sum()
    return sums.assign(value=sums["value"] / sums["n"], metric="held-out accuracy by group").reset_index()


def membership(seen: FeatureSet, unseen: FeatureSet, model: FeatureModel, n_boot: int = 200) -> pd.DataFrame:
    """How well the model's density tells faces that it was fitted to from faces that it never saw.

    Rows `area` (under the ROC curve of the log density; 0.5 is a guess), `low` and `high` (95 % bootstrap interval):
    columns task, metric, value.
    """
    scores = [model.log_density(rows) for rows in (seen, unseen)]
    truth = np.repeat([1, 0], [len(seen), len(unseen)])
    rng = np.random.default_rng(0)
    areas = [
        roc_auc_score(truth, np.concatenate([rng.choice(part, len(part)) for part in scores])) for _ in range(n_boot)
    ]
    low, high = np.percentile(areas, [2.5, 97.5])
    value = [roc_auc_score(truth, np.concatenate(scores)), low, high]
    return pd.DataFrame({"task": "membership", "metric": ["area", "low", "high"], "value": value})


def speed(model: FeatureModel, n: int, rounds: int = 5) -> pd.DataFrame:
    """How fast `draw` gives n rows, and how fast new memory of that size can be had at all; the best of some rounds.

    Metrics, in rows a second: `rows_per_second` of a draw, `rows_per_cpu_second` by processor time (all threads
    together), and the same two of new memory in which as many threads write a constant, `memory_per_second` and
    `memory_per_cpu_second`. Columns task, metric, group (`1,000,000 rows`), value.
    """
    found = {}
    for seed in range(rounds):
        for name, make in {"rows": partial(model.draw, seed=seed), "memory": partial(_filled, dim=model.dim)}.items():
            start = time.perf_counter(), time.process_time()
            made = make(n)
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            del made  # outside of the clock
            for unit, value in zip(("second", "cpu_second"), seconds, strict=True):
                metric = f"{name}_per_{unit}"
                found[metric] = max(found.get(metric, 0), n / value)
    return pd.DataFrame({"task": "speed", "metric": list(found), "group": f"{n:,} rows", "value": list(found.values())})


def _filled(n: int, dim: int) -> np.ndarray:
    """New memory for n rows, float32 (n, D), in which one thread a core, as in a draw, has written a constant."""
    rows = np.empty((n, dim), np.float32)
    starts = iter(range(0, n, CHUNK))

    def work(_: int) -> None:
        for start in starts:
            rows[start : start + CHUNK] = 1

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    return rows


def bench_command(rows: int = 1_000_000, rounds: int = 5) -> int:
    """Measures how many labelled rows of 512 numbers the feature model draws a second.

    Beside it stands what the machine allows: how fast new memory for as many rows can be had and filled with a
    constant.

    Args:
        rows: Rows of one draw (2 KiB of memory each).
        rounds: Draws; the fastest counts.
    """
    if rows < 1 or rounds < 1:
        raise ConfigError(f"rows and rounds must be 1 or more, got {rows} and {rounds}.")
    found = speed(FeatureModel.load(), rows, rounds).set_index("metric")["value"]
    cores = os.cpu_count()
    for name, what in {"rows": "drawn", "memory": "new memory filled with a constant"}.items():
        clock, processor = found[f"{name}_per_second"], found[f"{name}_per_cpu_second"]
        print(f"{rows:,} rows {what}: {clock:,.0f} a second on {cores} cores, {processor:,.0f} a second of one core")
    share = found["rows_per_cpu_second"] / found["memory_per_cpu_second"]
    print(f"the memory alone takes {100 * share:.0f} % of the processor time of a draw")
    return 0


def fidelity_command(
    source: Path | None = None,
    sizes: tuple[int, ...] = SIZES,
    seeds: tuple[int, ...] = SEEDS,
    hidden_sizes: tuple[int, ...] = SIZES,
) -> int:
    """Measures how drawn features stand in for real ones, records it as feature_model_fidelity, writes the datasheet.

    Probes learn from real rows of the training split or from drawn rows, and are tested on the real test split and on
    drawn rows. Takes about half an hour on one core; a stopped command goes on where it was.

    Args:
        source: Folder with a stored feature set or a packed set of photos; by default FairFace in profile full.
        sizes: Numbers of labels; one above the number of real training rows becomes that number.
        seeds: Of the draws and of the probe with a hidden layer.
        hidden_sizes: As sizes, for the probe with a hidden layer, which takes nine tenths of the time.
    """
    features = real_features(source)
    train, validation, test = (features.split(name) for name in SPLITS)
    model = FeatureModel.load()
    about = {"features": features.content_hash(), "model": sha256_of_file(PACKAGED_MODEL)}
    data = f"FairFace, {len(train):,} photos to draw labels from, {len(test):,} test photos, {N_TEST:,} drawn test rows"
    command = "python -m facekit features fidelity"
    for name, value, usual in (("sizes", sizes, SIZES), ("seeds", seeds, SEEDS), ("hidden_sizes", hidden_sizes, SIZES)):
        if tuple(value) != usual:
            command += f" --{name} '{json.dumps(list(value), separators=(',', ':'))}'"

    sheet = Sheet("feature_model_groups", about)
    for n in SPEED_ROWS:  # before anything warms the machine
        sheet.block(f"speed-{n}", partial(speed, model, n))
    sheet.block("membership", lambda: membership(train, validation, model))
    sheet.block("groups", lambda: by_group(train, test, model))
    blocks = [(way, n) for way in PROBES for n in (sizes if way == "linear" else hidden_sizes)]
    for way, n in settings.progress(blocks, desc="held-out thirds", unit="block"):
        sheet.block(f"thirds-{way}-{n}", partial(cross_fit, train, n, way))
    sheet.block("groups of thirds", lambda: cross_groups(train))
    what = "feature model: probes on held-out thirds, accuracy by group, a membership test, rows drawn a second"
    record("feature_model_groups", sheet.rows, what=what, data=data, command=command, seconds=sheet.seconds)

    sheet = Sheet(RECORD, about)
    # The quick probes first.
    labels = {way: sorted({min(n, len(train)) for n in (sizes if way == "linear" else hidden_sizes)}) for way in PROBES}
    blocks = [(way, n, seed) for way, numbers in labels.items() for n in numbers for seed in seeds]
    for way, n, seed in settings.progress(blocks, desc="fidelity", unit="block"):
        block = partial(compare, train, test, model, n, seed, [way])
        sheet.block(f"{way}-{n}-{seed}", block)
    what = "probes that learned from real or from drawn FaceNet features, tested on real and on drawn ones"
    path = record(RECORD, sheet.rows, what=what, data=data, command=command, seconds=sheet.seconds)
    print(accuracy_table(sheet.rows).to_string(index=False))
    print(f"wrote {path}: {len(sheet.rows):,} rows, {sheet.seconds:.0f} s")
    return datasheet_command()


def accuracy_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over seeds as text: task, method, labels, and the four ways to train and test."""
    return _ways(_of_test(rows))


def _of_test(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies on the test photos: columns task, method, labels, run (the seed), way, value."""
    rows = rows[rows["metric"] == "accuracy"]
    way = rows["trained_on"] + " → " + rows["tested_on"]
    return rows.assign(way=way, labels=rows["n"], run=rows["seed"])[["task", "method", "labels", "run", "way", "value"]]


def _of_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies on held-out parts of the training photos, as `_of_test`; a run is a part."""
    rows = rows[rows["metric"] == "held-out accuracy"].assign(run=rows["group"])
    return rows.astype({"labels": int})[["task", "method", "labels", "run", "way", "value"]]


def _ways(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Mean over the runs, as text: task, method, labels, and the four ways to train and test."""
    found = accuracies.groupby(["task", "method", "labels", "way"], sort=False)["value"].mean().unstack("way")
    table = found[[f"{one} → {other}" for one, other in WAYS]].map("{:.3f}".format).reset_index()
    table["labels"] = table["labels"].map("{:,}".format)
    return table


# Differences that the fidelity is judged by, and how large they may be, in points.
GAPS = {
    "trained on drawn": ("drawn → real", "real → real", 1.5),
    "tested on drawn": ("drawn → drawn", "drawn → real", 2.0),
    "real, tested on drawn": ("real → drawn", "real → real", 2.0),
}


def gaps(accuracies: pd.DataFrame) -> pd.DataFrame:
    """The differences of GAPS in points: columns task, method, labels, gap, mean, error (standard error over runs)."""
    keys = ["task", "method", "labels"]
    wide = accuracies.pivot_table("value", [*keys, "run"], "way", sort=False)
    tables = []
    for gap, (one, other, _) in GAPS.items():
        found = (100 * (wide[one] - wide[other])).groupby(keys, sort=False).agg(["mean", "sem"])
        tables.append(found.rename(columns={"sem": "error"}).reset_index().assign(gap=gap))
    return pd.concat(tables, ignore_index=True)[[*keys, "gap", "mean", "error"]]


def _small(points: pd.Series | float, gap: str) -> pd.Series | bool:
    """Whether differences are small enough; to a hundredth of a point, for records keep six digits."""
    return np.abs(np.round(points, 2)) <= GAPS[gap][2]


def _within(found: pd.DataFrame, gap: str) -> dict[str, str]:
    """How many of a gap's comparisons are small enough, and the largest: parts of a sentence."""
    own = found[found["gap"] == gap]
    small = _small(own["mean"], gap)
    far = own.loc[own["mean"].abs().idxmax()]
    where = f"{far['mean']:+.1f} points ({far['task']}, {far['method']}, {far['labels']:,} labels)"
    return {"within": f"{small.sum()} of {len(own)}", "farthest": where}


def _behind(found: pd.DataFrame, method: str) -> str:
    """How far probes of the most drawn labels are behind, in points: `0.9 (race), 1.1 (gender) and 0.7 (age)`."""
    own = found[(found["gap"] == "trained on drawn") & (found["method"] == method)]
    own = own[own["labels"] == own["labels"].max()]
    parts = [f"{-mean:.1f} ({task})" for task, mean in zip(own["task"], own["mean"], strict=True)]
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "an unknown number of"


def gap_table(on_test: pd.DataFrame, on_parts: pd.DataFrame) -> pd.DataFrame:
    """Both gaps of probes that learned from drawn rows, on test photos and on held-out ones, as text; misses in bold.

    A row for each task, method and number of labels; where the parts have fewer training photos, for both numbers.
    """
    found = on_test[["task", "method", "labels"]].drop_duplicates().reset_index(drop=True)
    columns = {"task": found["task"], "method": found["method"], "labels": []}
    most = on_parts["labels"].max()
    held_out = found["labels"].clip(upper=most)
    columns["labels"] = [
        f"{n:,}" if n == m else f"{n:,}; {m:,}" for n, m in zip(found["labels"], held_out, strict=True)
    ]
    for gap in ("trained on drawn", "tested on drawn"):
        for name, gaps_, labels in (("test photos", on_test, found["labels"]), ("held out", on_parts, held_out)):
            index = gaps_[gaps_["gap"] == gap].set_index(["task", "method", "labels"])
            cells = []
            for key in zip(found["task"], found["method"], labels, strict=True):
                mean, error = index.loc[key, ["mean", "error"]]
                text = f"{mean:+.1f}" if np.isnan(error) else f"{mean:+.1f} ± {error:.1f}"
                cells.append(text if _small(mean, gap) else f"**{text}**")
            columns[f"{gap}, {name}"] = cells
    return pd.DataFrame(columns)


def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by group as text, a row for each group: photos, and for each task three ways to train and test."""
    ways = ["real → real", "drawn → real", "drawn → drawn"]
    rows = rows.assign(column=rows["task"] + ": " + rows["way"])
    table = rows.pivot_table("value", ["by", "group", "n"], "column", sort=False)
    table = table[[f"{task.name}: {way}" for task in COLUMNS for way in ways]].map("{:.3f}".format).reset_index()
    table["n"] = table["n"].map("{:.0f}".format)
    return table.rename(columns={"n": "photos"})


def speed_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows a second, drawn and of new memory, as text: a row for each length of a draw."""
    table = rows[rows["task"] == "speed"].pivot_table("value", "group", "metric", sort=False)
    share = table["rows_per_cpu_second"] / table["memory_per_cpu_second"]
    names = {
        "rows_per_second": "drawn a second",
        "rows_per_cpu_second": "drawn a second of one core",
        "memory_per_second": "new memory filled a second",
        "memory_per_cpu_second": "filled a second of one core",
    }
    table = table[list(names)].map("{:,.0f}".format).rename(columns=names)
    table["memory's share of the processor time"] = (100 * share).map("{:.0f} %".format)
    return table.reset_index().rename(columns={"group": "draw"})


def datasheet_command() -> int:
    """Writes the feature model's datasheet from its records and from what the packaged file says about itself."""
    text = datasheet(recorded(RECORD), recorded("feature_model_groups"), FeatureModel.load())
    with atomic_path(DATASHEET) as path:
        path.write_text(text, encoding="utf-8")
    print(f"wrote {DATASHEET}")
    return 0


def datasheet(scores: Record, groups: Record, model: FeatureModel) -> str:
    """The datasheet (Gebru et al. 2018, 1803.09010), Markdown, from both records and the model itself."""
    found = groups.rows
    on_test, on_parts = _of_test(scores.rows), _of_parts(found)
    test_gaps, part_gaps = gaps(on_test), gaps(on_parts)
    methods = set(on_test["method"])
    area = found[found["task"] == "membership"].set_index("metric")["value"]
    by_group_test = found[(found["metric"] == "accuracy") & found["by"].notna()]
    by_group_parts = found[found["metric"] == "held-out accuracy by group"]
    wide = by_group_parts.pivot_table("value", ["task", "by", "group"], "way", sort=False)
    group_gap = 100 * (wide["drawn → real"] - wide["real → real"])
    task, _, group = group_gap.abs().idxmax()
    missed = group_gap.index[~_small(group_gap, "trained on drawn")]
    real = [
        rows[(rows["way"] == "real → real") & (rows["task"] == "race") & (rows["method"] == "linear")]
        .groupby("labels")["value"]
        .mean()
        for rows in (on_test, on_parts)
    ]
    both = max(set(real[0].index) & set(real[1].index))
    worst = test_gaps[test_gaps["gap"] == "trained on drawn"]
    worst = worst.loc[worst["mean"].abs().idxmax()]
    same = part_gaps.merge(worst.to_frame().T[["task", "method", "gap"]])
    same = same[same["labels"] == min(worst["labels"], same["labels"].max())].iloc[0]
    race_hard = {
        name: f"{table[(table['gap'] == 'tested on drawn') & (table['task'] == 'race')]['mean'].abs().max():.1f}"
        for name, table in {"test": test_gaps, "parts": part_gaps}.items()
    }
    fastest = found[(found["task"] == "speed") & (found["metric"] == "rows_per_second")]["value"].max()
    photos = found[found["metric"] == "held-out accuracy"].drop_duplicates("group")["n"]
    return DATASHEET_TEXT.format(
        faces=f"{model.about['faces']:,}",
        min_faces=model.about["min_faces"],
        axes=len(model.tensors["axes"]),
        size=f"{PACKAGED_MODEL.stat().st_size / 1000:.0f}",
        numbers=f"{sum(array.size for array in model.tensors.values()) + model.shares.size:,}",
        fidelity=markdown(_ways(on_test)),
        thirds=markdown(_ways(on_parts)),
        gap_table=markdown(gap_table(test_gaps, part_gaps)),
        test={name: _within(test_gaps, name) for name in GAPS},
        parts={name: _within(part_gaps, name) for name in GAPS},
        photos=f"{photos.sum():,.0f}",
        groups=markdown(group_table(by_group_test)),
        group_parts=markdown(group_table(by_group_parts)),
        groups_within=f"{_small(group_gap, 'trained on drawn').sum()} of {len(group_gap)}",
        groups_missed=len(missed),
        rare_bands=", ".join(RARE_BANDS),
        groups_own=sum(task == by for task, by, _ in missed),
        groups_rare=sum(by == AGE_BAND.name and group in RARE_BANDS for _, by, group in missed),
        groups_farthest=f"{group_gap[group_gap.abs().idxmax()]:+.1f} points ({task}, {group})",
        area=area,
        speed=f"{fastest:,.0f}",
        speeds=markdown(speed_table(found)),
        gender_noise=f"{100 * GENDER_NOISE:.0f}",
        race_noise=f"{100 * RACE_NOISE:.0f}",
        age_noise=f"{100 * AGE_NOISE:.0f}",
        worst={
            "test": f"{worst['mean']:+.1f}",
            "where": f"{worst['task']}, {worst['method']}, {worst['labels']:,} labels",
            "parts": f"{same['mean']:+.1f}",
        },
        race_hard=race_hard,
        behind=_behind(part_gaps, "one hidden layer"),
        behind_linear=_behind(part_gaps, "linear"),
        near=f"{both:,}",
        race_test=f"{real[0][both]:.3f}",
        race_parts=f"{real[1][both]:.3f}",
        missing="".join(
            f" No figures of the probe with {name} are recorded." for name in PROBES if name not in methods
        ),
        record=scores.about,
    )


DATASHEET_TEXT = """# Datasheet: a model of FaceNet's features of FairFace

Written by `python -m facekit features datasheet` from recorded measurements; do not edit it by hand. The form follows
Gebru et al., Datasheets for Datasets (2018, arXiv 1803.09010).

## What it is

`facekit/data/fairface_features.safetensors` ({size} kB, {numbers} numbers): statistics from which
`facekit.data.features.model.FeatureModel` draws vectors of 512 numbers that lie as FaceNet's embeddings of faces lie, with a
race, a gender and an age band each, in any mix. No row of it, and nothing drawn from it, belongs to a person.

It is fitted to FaceNet's embeddings (mean of a photo's and its mirror image's, length 1) of {faces} photos, FairFace's
official training photos without the twentieth that facekit keeps for validation. The numbers are: how often each of
the 126 combinations of race, gender and age band occurs; {axes} axes on which all features lie to 1 part in 10,000; the
overall mean and what each class, and each pair of classes, adds to it; a covariance for each race and gender. There is
no term for race, gender and age band together. No number rests on fewer than {min_faces} faces: a pair of classes with
fewer has no term and the common covariance, combinations with fewer share one pool, and a test proves it on a toy set.
Three more numbers are constants: {race_noise} % of the drawn faces look like a face of any race, {gender_noise} % like
one of the other gender, {age_noise} % like the age band beside their own.

## How it was made

```
python -m facekit features fit          # with FACEKIT_PROFILE=full, and FACEKIT_DATA as datasets/FAIRFACE.md says
python -m facekit features fidelity     # measures what stands below, records it, writes this file
```

The method is described at the top of `facekit/data/fit_features.py`, and why one Gaussian around the means will not do:
classes are then too easy to tell apart. A covariance for each race and gender and the three constants are the remedy.

## Attribution and terms

- Photos and labels: Kimmo Kärkkäinen and Jungseock Joo, *FairFace: Face Attribute Dataset for Balanced Race, Gender,
  and Age for Bias Measurement and Mitigation*, WACV 2021; github.com/joojs/fairface; CC BY 4.0. These statistics are
  under the same licence; name the authors where you share them or what you make of them.
- Network: FaceNet (Schroff et al., CVPR 2015), Inception-ResNet-v1 with the VGGFace2 weights of David Sandberg, in Tim
  Esler's facenet-pytorch (MIT licence). VGGFace2 (Cao et al. 2018) was released for non-commercial research; use what
  is derived from its network under the same restriction.

## What a face embedding is, and consent

A face embedding is a list of numbers that a network makes of a photo so that photos of one person get similar lists.
That is what it is for: whoever has the list of a face can find that face again among others, without the photo, and a
face cannot be changed like a password. Used to identify people it is biometric data, which laws such as the GDPR
(Articles 4 and 9) protect more than other data. FairFace's photos come from public sources; the people in them were
not asked whether their faces may be measured, nor were those on whose photos FaceNet was trained. A licence for a
photo is not consent to that. So facekit ships no embedding of anyone. It ships statistics over many faces, and draws
new numbers from them.

## What it can tell, and what it cannot

It can tell how features of groups of faces differ, and how hard that makes a task: a classifier that learned from
drawn features works on FaceNet's features of real photos about as well as one that learned from real ones, and makes
about as many errors on drawn features as on real ones. The tables below say where that holds, and where less. It cannot
tell:

- anything about a person. It holds no identities: two drawn vectors are never two photos of one face, so nothing about
  recognition or verification can be learned or measured with it;
- what FaceNet has beyond the {axes} axes. They hold 99.99 % of the squared length of its output; the rest is left out;
- anything about photos: pose, light, expression, image quality are scatter here, without a label;
- combinations of all three labels beyond what their pairs say; the rarest combinations are the least exact;
- what people are. The labels say what annotators perceived: two genders, seven races, nine age bands. The differences
  between groups that it reproduces are those of this network on these photos, its errors included.

Not for decisions about people, and not for identifying, tracking or sorting them.

## Measured

Probes that learned from real rows (training photos) or from drawn rows, tested on real test photos and on drawn rows;
accuracy, mean over seeds {record[seeds]}. Data: {record[data]}.

- Trained on drawn and tested on real is within 1.5 points of trained on real in {test[trained on drawn][within]}
  comparisons; the farthest: {test[trained on drawn][farthest]}.
- The same probe, trained on drawn rows, is within 2 points on drawn and on real rows in
  {test[tested on drawn][within]}; the farthest: {test[tested on drawn][farthest]}. Trained on real rows, in
  {test[real, tested on drawn][within]}; the farthest: {test[real, tested on drawn][farthest]}.

{fidelity}

The same on photos that neither probe nor model has seen, but of the kind that the model stands for: the training photos
in three parts, for each a model and probes of the other two thirds, mean over the parts ({photos} photos in all). A
division like this one served to choose the constants of the fit, among them the three noises; the test photos had no
part in that choice, nor had the validation photos.

- Trained on drawn and tested on real is within 1.5 points of trained on real in {parts[trained on drawn][within]}; the
  farthest: {parts[trained on drawn][farthest]}.
- The same probe, trained on drawn rows, is within 2 points on drawn and on real rows in
  {parts[tested on drawn][within]}; the farthest: {parts[tested on drawn][farthest]}. Trained on real rows, in
  {parts[real, tested on drawn][within]}; the farthest: {parts[real, tested on drawn][farthest]}.

{thirds}

### Where it misses, by how much, and why

Both differences in points, ± their standard error over the seeds or the parts, which does not count that the test
photos are a sample, too. Bold: more than 1.5 points (trained on drawn minus trained on real, tested on real) or more
than 2 points (tested on drawn minus tested on real, trained on drawn).

{gap_table}

Three things are behind it.

- The test photos are few, and so are the seeds. The farthest of the first column, {worst[test]} points
  ({worst[where]}), is {worst[parts]} on held-out photos. The standard error of an accuracy of 0.65 over 1,000 photos is
  1.5 points.
- The test photos, of FairFace's official validation photos, are easier than the training photos that the model stands
  for: linear probes that learned from {near} real labels tell race right for {race_test} of the former and for
  {race_parts} of held-out ones of the latter. That makes race on drawn rows look too hard in the third column, by up to
  {race_hard[test]} points; on held-out photos it is at most {race_hard[parts]} off.
- A hidden layer learns from real faces what the model has no statistic for: it knows the mean of a cell and the scatter
  of a race and gender, and nothing of what curves or clusters within them. With the most labels a hidden layer that
  learned from drawn rows is behind one that learned from real ones, on held-out photos,
  by {behind} points;
  a linear probe by {behind_linear}.{missing}

### By group

Linear probes that learned from as many labels as there are training photos; groups of fewer than {min_faces} test
photos are left out. On the test photos:

{groups}

On the held-out training photos trained on drawn is within 1.5 points of trained on real in {groups_within}
comparisons; the farthest: {groups_farthest}. Of the {groups_missed} that miss, {groups_own} are groups that are
classes of the task itself, where a border that lies a little otherwise gives one class what it takes from the next, and
{groups_rare} (some of them the same) are of the age bands with the fewest photos ({rare_bands}).

{group_parts}

### Membership

Is a photo that the model was fitted to more likely under it than one that it never saw? The area under the
ROC curve of the model's log density, training photos against validation photos, is {area[area]:.3f} (95 % interval
{area[low]:.3f} to {area[high]:.3f}; 0.5 is a guess).

### Speed

Up to {speed} rows a second ({record[hardware]}; `python -m benchmarks features` measures it again). A row is 2 KiB,
and a draw pays for new memory, which the system must find and clear, besides the arithmetic: the table shows beside it
how fast as many threads fill new memory of the same size with a constant, in the same run.

{speeds}

Recorded {record[date]} by `{record[command]}`, commit {record[git_commit]}.
"""
