"""The feature model against real features: `features fit`, `features fidelity` and the datasheet made from the latter.

Whoever learns from drawn features wants two things: that what is learnt works on real faces (trained on drawn, tested
on real), and that the task is as hard as the real one (tested on drawn). `compare` measures both; the record
`feature_model_fidelity` and datasets/fairface_feature_model/README.md keep what it found, by the template fidelity.md;
no figure is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from facekit.data.features.fit import AGE_NOISE, GENDER_NOISE, MIN_FACES, RACE_NOISE, fit_features
from facekit.data.features.model import COLUMNS, PACKAGED_MODEL, FeatureModel
from facekit.data.sets import SPLITS, FaceSet, FeatureSet, read_manifest
from facekit.evaluation.metrics import evaluate
from facekit.experiments import PROBES, few_labels, scores
from facekit.files import may_replace
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.records import ROOT, Record, fill, markdown, recorded
from facekit.studies.common import SEEDS, facenet_features, first, labelled, markdown_of, write_text
from facekit.studies.runner import Block, Study, blocks_of, needs_photos, study
from facekit.studies.speed import speed
from facekit.tasks import AGE_BAND
from facekit.training.scoring import predict

RECORD = "feature_model_fidelity"
DATASHEET = ROOT / "datasets" / "fairface_feature_model" / "README.md"
TEMPLATE = Path(__file__).with_suffix(".md")
SIZES = (200, 1000, 6000, 20000)
KEYS = ["task", "method", "labels"]  # of a comparison
WAYS = (("real", "real"), ("drawn", "real"), ("drawn", "drawn"), ("real", "drawn"))  # trained on, tested on
GROUP_WAYS = ("real → real", "drawn → real", "drawn → drawn")  # those that are compared by group
N_TEST, TEST_SEED = 8000, 1_000_000  # rows to test on, and the seed they are drawn with, which no training draw has
FOLDS = 3  # parts of the training photos in `cross_fit`
RARE_BANDS = ("0-2", "60-69", "more than 70")  # that the datasheet speaks of as those with the fewest photos
SPEED_ROWS = (200_000, 1_000_000)  # of the draws whose speed is recorded


def real_features(source: Path | None = None) -> FeatureSet:
    """FaceNet's embeddings of FairFace (mean of photo and mirror image), with splits.

    source: a stored feature set, or a packed set of photos; without it FairFace as profile full finds it. Raises
    DataError for a folder that holds neither, ConfigError without a source in profile laptop.
    """
    if source is None:
        needs_photos()
        return facenet_features()
    if read_manifest(source).get("kind") == FaceSet.kind:
        return embed(FaceNet.from_pretrained(), FaceSet.load(source), flip=True)
    return FeatureSet.load(source)


def fit(source: Path | None = None, dest: Path = PACKAGED_MODEL, min_faces: int = MIN_FACES) -> int:
    """Fits the model of FaceNet's features to the training split of real photos and writes it.

    Args:
        source: Folder with a stored feature set or a packed set of photos; by default FairFace in profile full.
        dest: File to write; by default the one that comes with facekit.
        min_faces: Fewest faces that a statistic may rest on.

    Examples:
        FACEKIT_PROFILE=full FACEKIT_DATA=~/photos python -m facekit features fit
    """
    may_replace(dest, b'"about"')
    model = fit_features(real_features(source).split("train"), min_faces)
    model.save(dest)
    print(
        f"{dest}: {Path(dest).stat().st_size / 2**10:,.0f} KiB, {model.about['faces']:,} faces, "
        f"{len(model.tensors['axes'])} axes"
    )
    return 0


def compare(
    train: FeatureSet,
    test: FeatureSet,
    model: FeatureModel,
    n: int,
    seed: int,
    method: str = "linear",
    probe_seed: int | None = None,
) -> pd.DataFrame:
    """Scores of probes that learned from `n` real or `n` drawn rows, tested on real and on drawn rows.

    train: real rows to take n from. The drawn rows are a draw of their own with the same seed. method: a name from
    `experiments.PROBES`. probe_seed: of the probe, by default `seed`. Columns trained_on, tested_on (real, drawn),
    method, n, seed, task, metric, value.
    """
    tested, tables = {"real": test, "drawn": model.draw(N_TEST, seed=TEST_SEED)}, []
    for trained_on, rows in {"real": few_labels(train, n, seed), "drawn": model.draw(n, seed=seed)}.items():
        probe = PROBES[method](rows, COLUMNS, seed if probe_seed is None else probe_seed)
        for tested_on, faces in tested.items():
            about = {"trained_on": trained_on, "tested_on": tested_on, "method": method, "n": n, "seed": seed}
            tables.append(first(scores(probe, faces, COLUMNS), **about))
    return pd.concat(tables, ignore_index=True)


def by_group(train: FeatureSet, test: FeatureSet, model: FeatureModel, seed: int = 0) -> pd.DataFrame:
    """Accuracy by race, by gender and by age band of linear probes that learned from all of `train`, or from as many
    drawn rows.

    Columns way (of `GROUP_WAYS`), task, metric, by (race, gender, age), group, value and
    n (real test rows of that group); groups with fewer than 20 of them are left out.
    """
    drawn = model.draw(N_TEST, seed=TEST_SEED)
    learned_from = {"real": few_labels(train, len(train), seed), "drawn": model.draw(len(train), seed=seed)}
    probes = {name: PROBES["linear"](rows, COLUMNS, 0) for name, rows in learned_from.items()}
    photos = pd.concat([test.labels[task.name].value_counts() for task in COLUMNS])
    tables = []
    for way, rows in zip(GROUP_WAYS, (test, test, drawn), strict=True):
        outputs, targets = predict(probes[way.split()[0]], rows), rows.targets(COLUMNS)
        for by in COLUMNS:
            groups = pd.Series(pd.Categorical(rows.labels[by.name], by.classes))
            tables.append(evaluate(COLUMNS, outputs, targets, groups, n_boot=1).assign(way=way, by=by.name))
    found = pd.concat(tables, ignore_index=True)
    found["n"] = found["group"].map(photos).fillna(0).astype(int)
    found = found[(found["metric"] == "accuracy") & (found["n"] >= MIN_FACES)]
    return found[["way", "task", "metric", "by", "group", "value", "n"]].reset_index(drop=True)


def _parts(train: FeatureSet, folds: int) -> Iterator[tuple[int, FeatureSet, FeatureSet, FeatureModel]]:
    """Each of `folds` parts of the rows: its number from 0, the rows of the others, its own, a model of the others."""
    order = np.random.default_rng(0).permutation(len(train))
    for number in range(folds):
        part = order[number::folds]
        rest = train.select(np.setdiff1d(order, part))
        yield number, rest, train.select(part), fit_features(rest)


def cross_fit(train: FeatureSet, n: int, method: str = "linear", folds: int = FOLDS) -> pd.DataFrame:
    """Accuracy of probes on photos that neither they nor the feature model have seen, all of `train` in turn.

    `compare` for each of `folds` parts of the rows: a model of the others; probes that learned from n rows of the
    others (all, where there are fewer); tested on the part. Far more photos than the test split has. Columns way, task,
    metric (`held-out accuracy`), method, labels, group (`part 1` …), value, n (photos in the part).
    """
    tables = []
    for number, rest, part, model in _parts(train, folds):
        labels = min(n, len(rest))
        rows = compare(rest, part, model, labels, number, method, probe_seed=0)
        rows = rows[rows["metric"] == "accuracy"].assign(labels=labels, group=f"part {number + 1}")
        rows["way"] = rows["trained_on"] + " → " + rows["tested_on"]
        tables.append(rows.assign(metric="held-out accuracy", n=len(part)))
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


def _of_test(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies on the test photos: columns task, method, labels, run (the seed), way, value."""
    rows = rows[rows["metric"] == "accuracy"].rename(columns={"n": "labels", "seed": "run"})
    return rows.assign(way=rows["trained_on"] + " → " + rows["tested_on"])[[*KEYS, "run", "way", "value"]]


def _of_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies on held-out parts of the training photos, as `_of_test`; a run is a part."""
    rows = rows[rows["metric"] == "held-out accuracy"].rename(columns={"group": "run"})
    return rows.astype({"labels": int})[[*KEYS, "run", "way", "value"]]


def _ways(accuracies: pd.DataFrame) -> str:
    """Mean over the runs, as Markdown: task, method, labels, and the four ways to train and test."""
    found = accuracies.groupby([*KEYS, "way"], sort=False)["value"].mean().unstack("way")
    return markdown_of(found[[f"{one} → {other}" for one, other in WAYS]])


# Differences that the fidelity is judged by, and how large they may be, in points.
GAPS = {
    "trained on drawn": ("drawn → real", "real → real", 1.5),
    "tested on drawn": ("drawn → drawn", "drawn → real", 2.0),
    "real, tested on drawn": ("real → drawn", "real → real", 2.0),
}


def gaps(accuracies: pd.DataFrame) -> pd.DataFrame:
    """The differences of GAPS in points: columns gap, task, method, labels, mean, error (standard error over runs)."""
    wide = accuracies.pivot_table("value", [*KEYS, "run"], "way", sort=False)
    found = {
        gap: (100 * (wide[one] - wide[other])).groupby(KEYS, sort=False).agg(mean="mean", error="sem")
        for gap, (one, other, _) in GAPS.items()
    }
    return pd.concat(found, names=["gap"]).reset_index()


def _small(points: pd.Series, gap: str) -> pd.Series:
    """Whether differences are small enough; to a hundredth of a point, for records keep six digits."""
    return np.abs(np.round(points, 2)) <= GAPS[gap][2]


def _judged(found: pd.DataFrame, gap: str) -> dict:
    """Of a gap's comparisons the farthest, how many are small enough, and how many there are."""
    own = found[found["gap"] == gap]
    return {**own.loc[own["mean"].abs().idxmax()], "small": _small(own["mean"], gap).sum(), "all": len(own)}


def _behind(found: pd.DataFrame, method: str) -> str:
    """How far probes of the most drawn labels are behind, in points: `0.9 (race), 1.1 (gender) and 0.7 (age)`."""
    own = found[(found["gap"] == "trained on drawn") & (found["method"] == method)]
    own = own[own["labels"] == own["labels"].max()]
    parts = [f"{-mean:.1f} ({task})" for task, mean in zip(own["task"], own["mean"], strict=True)]
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "an unknown number of"


def gap_table(on_test: pd.DataFrame, on_parts: pd.DataFrame) -> str:
    """Both gaps of probes that learned from drawn rows, on test photos and on held-out ones, as Markdown; misses bold.

    A row for each task, method and number of labels; where the parts have fewer training photos, for both numbers.
    """
    found = on_test[KEYS].drop_duplicates().reset_index(drop=True)
    held_out = found.assign(labels=found["labels"].clip(upper=on_parts["labels"].max()))
    labels = zip(found["labels"], held_out["labels"], strict=True)
    table = found.assign(labels=[f"{n:,}" if n == m else f"{n:,}; {m:,}" for n, m in labels])
    for gap in ("trained on drawn", "tested on drawn"):
        for name, points, rows in (("test photos", on_test, found), ("held out", on_parts, held_out)):
            own = rows.merge(points[points["gap"] == gap], "left", KEYS)
            errors = ["" if np.isnan(error) else f" ± {error:.1f}" for error in own["error"]]
            texts = own["mean"].map("{:+.1f}".format) + errors
            table[f"{gap}, {name}"] = texts.where(_small(own["mean"], gap), "**" + texts + "**")
    return markdown(table)


def group_table(rows: pd.DataFrame) -> str:
    """Accuracy by group as Markdown, a row for each group: photos, and for each task three ways to train and test."""
    rows = rows.assign(column=rows["task"] + ": " + rows["way"], photos=rows["n"].map("{:.0f}".format))
    table = rows.pivot_table("value", ["by", "group", "photos"], "column", sort=False)
    return markdown_of(table[[f"{task.name}: {way}" for task in COLUMNS for way in GROUP_WAYS]])


def speed_table(rows: pd.DataFrame) -> str:
    """Rows a second, drawn and of new memory, as Markdown: a row for each length of a draw."""
    names = {
        "rows_per_second": "drawn a second",
        "rows_per_cpu_second": "drawn a second of one core",
        "memory_per_second": "new memory filled a second",
        "memory_per_cpu_second": "filled a second of one core",
    }
    table = rows[rows["task"] == "speed"].pivot_table("value", "group", "metric", sort=False)[list(names)]
    share = 100 * table["rows_per_cpu_second"] / table["memory_per_cpu_second"]
    table["memory's share of the processor time"] = share.map("{:.0f} %".format)
    return markdown_of(table.rename(columns=names).rename_axis("draw"), "{:,.0f}")


def datasheet_command() -> int:
    """Writes the feature model's datasheet from its records and from what the packaged file says about itself.

    Examples:
        python -m facekit features datasheet
    """
    return write_text(DATASHEET, datasheet(recorded(RECORD), recorded("feature_model_groups"), FeatureModel.load()))


def datasheet(scores: Record, groups: Record, model: FeatureModel) -> str:
    """The datasheet (Gebru et al. 2018, 1803.09010), Markdown, from both records and the model itself."""
    found = groups.rows
    on_test, on_parts = _of_test(scores.rows), _of_parts(found)
    test_gaps, part_gaps = gaps(on_test), gaps(on_parts)
    test, parts = ({gap: _judged(found, gap) for gap in GAPS} for found in (test_gaps, part_gaps))
    worst = test["trained on drawn"]
    same = min(worst["labels"], part_gaps["labels"].max())
    by_part = part_gaps.set_index(["gap", *KEYS])["mean"]
    on_real = "way == 'real → real' and method == 'linear'"
    real = {
        name: rows.query(on_real).pivot_table("value", "labels", "task")
        for name, rows in (("test", on_test), ("parts", on_parts))
    }
    near = max(set(real["test"].index) & set(real["parts"].index))
    hard = [points.query("gap == 'tested on drawn' and task == 'race'")["mean"] for points in (test_gaps, part_gaps)]
    by_group_parts = found[found["metric"] == "held-out accuracy by group"]
    wide = by_group_parts.pivot_table("value", ["task", "by", "group"], "way", sort=False)
    points = (
        (100 * (wide["drawn → real"] - wide["real → real"])).rename("mean").reset_index().assign(gap="trained on drawn")
    )
    missed = points[~_small(points["mean"], "trained on drawn")]
    rare = (missed["by"] == AGE_BAND.name) & missed["group"].isin(RARE_BANDS)
    unmeasured = [name for name in PROBES if name not in set(on_test["method"])]
    return fill(
        TEMPLATE,
        about=model.about,
        axes=len(model.tensors["axes"]),
        kilobytes=PACKAGED_MODEL.stat().st_size / 1000,
        numbers=sum(array.size for array in model.tensors.values()) + model.shares.size,
        noise={"race": 100 * RACE_NOISE, "gender": 100 * GENDER_NOISE, "age": 100 * AGE_NOISE},
        fidelity=_ways(on_test),
        thirds=_ways(on_parts),
        gap_table=gap_table(test_gaps, part_gaps),
        test=test,
        parts=parts,
        worst_in_parts=by_part["trained on drawn", worst["task"], worst["method"], same],
        photos=found[found["metric"] == "held-out accuracy"].drop_duplicates("group")["n"].sum(),
        near=near,
        real={name: table.loc[near] for name, table in real.items()},
        race_hard={"test": hard[0].abs().max(), "parts": hard[1].abs().max()},
        behind={"hidden": _behind(part_gaps, "one hidden layer"), "linear": _behind(part_gaps, "linear")},
        missing="".join(f" No figures of the probe with {name} are recorded." for name in unmeasured),
        groups=group_table(found[(found["metric"] == "accuracy") & found["by"].notna()]),
        group_parts=group_table(by_group_parts),
        group=_judged(points, "trained on drawn"),
        missed={"all": len(missed), "own": (missed["task"] == missed["by"]).sum(), "rare": rare.sum()},
        rare_bands=", ".join(RARE_BANDS),
        area=found[found["task"] == "membership"].set_index("metric")["value"],
        speed=found[(found["task"] == "speed") & (found["metric"] == "rows_per_second")]["value"].max(),
        speeds=speed_table(found),
        record=scores.about,
        sample=scores.sample(),
    )


@study(command="features fidelity", photos=False, then=datasheet_command)
def fidelity(
    source: Path | None = None,
    sizes: tuple[int, ...] = SIZES,
    seeds: tuple[int, ...] = SEEDS,
    hidden_sizes: tuple[int, ...] = SIZES,
) -> list[Study]:
    """Measures how drawn features stand in for real ones, records it as feature_model_fidelity, writes the datasheet.

    Probes learn from real rows of the training split or from drawn rows, and are tested on the real test split and on
    drawn rows. Takes about half an hour on one core; a stopped command goes on where it was.

    Args:
        source: Folder with a stored feature set or a packed set of photos; by default FairFace in profile full.
        sizes: Numbers of labels; one above the number of real training rows becomes that number.
        seeds: Of the draws and of the probe with a hidden layer.
        hidden_sizes: As sizes, for the probe with a hidden layer, which takes nine tenths of the time.

    Examples:
        FACEKIT_PROFILE=full FACEKIT_DATA=~/photos python -m facekit features fidelity --seeds [0]
    """
    features = real_features(source)
    train, validation, test = (features.split(name) for name in SPLITS)
    model = FeatureModel.load()
    data = labelled(len(train), test, "photos to draw labels from") + f", {N_TEST:,} drawn test rows"
    wanted = {way: sizes if way == "linear" else hidden_sizes for way in PROBES}  # the quick probes first
    groups = [
        *blocks_of(speed, (model,), SPEED_ROWS),  # before anything warms the machine
        Block("membership", membership, (train, validation, model)),
        Block("groups", by_group, (train, test, model)),
        *(block for way in PROBES for block in blocks_of(cross_fit, (train,), wanted[way], [way])),
        Block("groups of thirds", cross_groups, (train,)),
    ]
    numbers = {way: sorted({min(n, len(train)) for n in wanted[way]}) for way in PROBES}
    compared = [
        block for way in PROBES for block in blocks_of(compare, (train, test, model), numbers[way], seeds, [way])
    ]
    what = "feature model: probes on held-out thirds, accuracy by group, a membership test, rows drawn a second"
    about = "probes that learned from real or from drawn FaceNet features, tested on real and on drawn ones"
    return [
        Study("feature_model_groups", what=what, data=data, blocks=groups),
        Study(RECORD, what=about, data=data, blocks=compared),
    ]
