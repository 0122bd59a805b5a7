"""The feature model against real features: `features fit`, `features fidelity` and the datasheet made from the latter.

Whoever learns from drawn features wants two things: that what is learnt works on real faces (trained on drawn, tested
on real), and that the task is as hard as the real one (tested on drawn). `compare` measures both; the record
`feature_model_fidelity` and datasets/fairface_feature_model/README.md keep what it found, by the template fidelity.md;
no figure is typed by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from facekit import settings
from facekit.data.features.fit import AGE_NOISE, GENDER_NOISE, MIN_FACES, RACE_NOISE, fit_features
from facekit.data.features.model import COLUMNS, PACKAGED_MODEL, FeatureModel
from facekit.data.sets import SPLITS, FaceSet, FeatureSet, read_manifest
from facekit.evaluation.metrics import evaluate
from facekit.experiments import PROBES, few_labels, scores
from facekit.files import atomic_path
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.records import ROOT, Record, markdown, recorded
from facekit.studies.common import SEEDS, facenet_features, first, labelled
from facekit.studies.runner import Block, Study, fill, fingerprint, needs_photos, source_hash, study, write_text
from facekit.studies.speed import speed
from facekit.tasks import AGE_BAND
from facekit.training.scoring import predict
from facekit.transfer import probe as transfer_probe

RECORD = "feature_model_fidelity"
DATASHEET = ROOT / "datasets" / "fairface_feature_model" / "README.md"
TEMPLATE = Path(__file__).with_suffix(".md")
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
    model = fit_features(real_features(source).split("train"), min_faces)
    model.save(dest)
    print(
        f"{dest}: {Path(dest).stat().st_size / 2**10:,.0f} KiB, {model.about['faces']:,} faces, "
        f"{len(model.tensors['axes'])} axes"
    )
    return 0


def four_ways(
    train: FeatureSet, test: FeatureSet, model: FeatureModel, n: int, seed: int, method: str, probe_seed: int
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Scores of probes that learned from `n` real or `n` drawn rows, tested on real and on drawn rows.

    train: real rows to take n from. The drawn rows are a draw of their own with the same seed. method: a name from
    `experiments.PROBES`. Yields what was trained on, what was tested on (real, drawn), and rows task, metric, value.
    """
    tested = {"real": test, "drawn": model.draw(N_TEST, seed=TEST_SEED)}
    for trained_on, rows in {"real": few_labels(train, n, seed), "drawn": model.draw(n, seed=seed)}.items():
        probe = learned(rows, method, probe_seed)
        for tested_on, faces in tested.items():
            yield trained_on, tested_on, scores(probe, faces, COLUMNS)


def compare(
    train: FeatureSet, test: FeatureSet, model: FeatureModel, n: int, seed: int, method: str = "linear"
) -> pd.DataFrame:
    """`four_ways` with one seed: columns trained_on, tested_on, method, n, seed, task, metric, value."""
    tables = [
        first(rows, trained_on=trained_on, tested_on=tested_on, method=method, n=n, seed=seed)
        for trained_on, tested_on, rows in four_ways(train, test, model, n, seed, method, seed)
    ]
    return pd.concat(tables, ignore_index=True)


def learned(rows: FeatureSet, method: str, seed: int) -> Classifier:
    """A probe of `PROBES` that learned from all `rows`, from the cache where these rows have taught it before.

    Half of `compare`'s time goes into probes that learn from real rows, which no new fit of the feature model changes.
    """
    request = f"{fingerprint(rows)} {method} {seed} {source_hash(transfer_probe.__name__)}"
    path = settings.cache_dir() / "probes" / f"{hashlib.sha256(request.encode()).hexdigest()[:24]}.safetensors"
    if path.exists():
        state = load_file(path)
        first = state.get(f"heads.layers.{COLUMNS[0].name}.0.weight")  # of a hidden layer (units, D); a linear probe
        hidden = 0 if first is None else len(first)  # has none there
        probe = Classifier(None, Heads(rows.features.shape[1], COLUMNS, hidden))
        probe.load_state_dict(state)
        return probe.eval()
    probe = PROBES[method](rows, COLUMNS, seed)
    with atomic_path(path) as temporary:
        save_file(probe.state_dict(), temporary)
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

    `four_ways` for each of `folds` parts of the rows: a model of the others; probes that learned from n rows of the
    others (all, where there are fewer); tested on the part. Far more photos than the test split has. Columns way, task,
    metric (`held-out accuracy`), method, labels, group (`part 1` …), value, n (photos in the part).
    """
    tables = []
    for number, rest, part, model in _parts(train, folds):
        labels = min(n, len(rest))
        for trained_on, tested_on, table in four_ways(rest, part, model, labels, number, method, 0):
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


def _small(points: pd.Series, gap: str) -> pd.Series:
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
    keys = ["task", "method", "labels"]
    found = on_test[keys].drop_duplicates().reset_index(drop=True)
    held_out = found.assign(labels=found["labels"].clip(upper=on_parts["labels"].max()))
    labels = zip(found["labels"], held_out["labels"], strict=True)
    table = found.assign(labels=[f"{n:,}" if n == m else f"{n:,}; {m:,}" for n, m in labels])
    for gap in ("trained on drawn", "tested on drawn"):
        for name, points, rows in (("test photos", on_test, found), ("held out", on_parts, held_out)):
            own = rows.merge(points[points["gap"] == gap], "left", keys)
            errors = ["" if np.isnan(error) else f" ± {error:.1f}" for error in own["error"]]
            texts = own["mean"].map("{:+.1f}".format) + errors
            table[f"{gap}, {name}"] = texts.where(_small(own["mean"], gap), "**" + texts + "**")
    return table


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
    unmeasured = [name for name in PROBES if name not in set(on_test["method"])]
    area = found[found["task"] == "membership"].set_index("metric")["value"]
    by_group_parts = found[found["metric"] == "held-out accuracy by group"]
    wide = by_group_parts.pivot_table("value", ["task", "by", "group"], "way", sort=False)
    group_gap = 100 * (wide["drawn → real"] - wide["real → real"])
    task, _, group = group_gap.abs().idxmax()
    missed = group_gap.index[~_small(group_gap, "trained on drawn")]
    real_race = "way == 'real → real' and task == 'race' and method == 'linear'"
    real = [rows.query(real_race).groupby("labels")["value"].mean() for rows in (on_test, on_parts)]
    both = max(set(real[0].index) & set(real[1].index))
    worst = test_gaps.loc[test_gaps[test_gaps["gap"] == "trained on drawn"]["mean"].abs().idxmax()]
    same = part_gaps.merge(worst.to_frame().T[["task", "method", "gap"]])
    same = same[same["labels"] == min(worst["labels"], same["labels"].max())].iloc[0]
    hard = [points.query("gap == 'tested on drawn' and task == 'race'")["mean"] for points in (test_gaps, part_gaps)]
    fastest = found[(found["task"] == "speed") & (found["metric"] == "rows_per_second")]["value"].max()
    photos = found[found["metric"] == "held-out accuracy"].drop_duplicates("group")["n"]
    return fill(
        TEMPLATE,
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
        groups=markdown(group_table(found[(found["metric"] == "accuracy") & found["by"].notna()])),
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
        race_hard={name: f"{points.abs().max():.1f}" for name, points in zip(("test", "parts"), hard, strict=True)},
        behind=_behind(part_gaps, "one hidden layer"),
        behind_linear=_behind(part_gaps, "linear"),
        near=f"{both:,}",
        race_test=f"{real[0][both]:.3f}",
        race_parts=f"{real[1][both]:.3f}",
        missing="".join(f" No figures of the probe with {name} are recorded." for name in unmeasured),
        record=scores.about,
    )


def _conclude() -> None:
    print(_ways(_of_test(recorded(RECORD).rows)).to_string(index=False))
    datasheet_command()


@study(command="features fidelity", photos=False, then=_conclude)
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
        *(Block(f"speed-{n}", speed, (model, n)) for n in SPEED_ROWS),  # before anything warms the machine
        Block("membership", membership, (train, validation, model)),
        Block("groups", by_group, (train, test, model)),
        *(Block(f"thirds-{way}-{n}", cross_fit, (train, n, way)) for way in PROBES for n in wanted[way]),
        Block("groups of thirds", cross_groups, (train,)),
    ]
    compared = [
        Block(f"{way}-{n}-{seed}", compare, (train, test, model, n, seed, way))
        for way in PROBES
        for n in sorted({min(n, len(train)) for n in wanted[way]})
        for seed in seeds
    ]
    what = "feature model: probes on held-out thirds, accuracy by group, a membership test, rows drawn a second"
    about = "probes that learned from real or from drawn FaceNet features, tested on real and on drawn ones"
    return [
        Study("feature_model_groups", what=what, data=data, blocks=groups),
        Study(RECORD, what=about, data=data, blocks=compared),
    ]
