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
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from facekit import settings
from facekit.course import fairface
from facekit.data.fit_features import AGE_NOISE, GENDER_NOISE, MIN_FACES, RACE_NOISE, fit_features
from facekit.data.sets import SPLITS, FaceSet, FeatureSet, read_manifest
from facekit.data.simulated import COLUMNS, PACKAGED_MODEL, FeatureModel
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.experiments import PROBES, few_labels, scores
from facekit.files import atomic_path, sha256_of_file
from facekit.model_card import markdown
from facekit.models.embedding import embed
from facekit.models.facenet import FaceNet
from facekit.models.heads import Classifier
from facekit.recording import SEEDS, Sheet
from facekit.records import ROOT, Record, record, recorded
from facekit.tasks import RACE
from facekit.training.scoring import predict
from facekit.transfer import probe as transfer_probe

RECORD = "feature_model_fidelity"
DATASHEET = ROOT / "datasets" / "fairface_feature_model" / "README.md"
SIZES = (200, 1000, 6000, 20000)
WAYS = (("real", "real"), ("drawn", "real"), ("drawn", "drawn"), ("real", "drawn"))  # trained on, tested on
# Rows to test on and the seed they are drawn with, which no training draw has.
N_TEST, TEST_SEED = 8000, 1_000_000
# Thirds of the training photos in `cross_fit`, and labels that its probes learn from.
FOLDS, N_CROSS = 3, 6000


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


def by_race(train: FeatureSet, test: FeatureSet, model: FeatureModel) -> pd.DataFrame:
    """Accuracy by race of linear probes that learned from all of `train`, or from as many drawn rows.

    Columns way (`real → real`, `drawn → real`, `drawn → drawn`), task, metric, group (the race), value and n (real test
    rows of that race); races with fewer than 20 of them are left out.
    """
    drawn = model.draw(N_TEST, seed=TEST_SEED)
    # The order that the comparison with all labels takes them in, so that both share a probe.
    learned_from = {"real": few_labels(train, len(train), 0), "drawn": model.draw(len(train), seed=0)}
    probes = {name: learned(rows, "linear", 0) for name, rows in learned_from.items()}
    photos = test.labels["race"].value_counts()
    tables = []
    for way, rows in (("real → real", test), ("drawn → real", test), ("drawn → drawn", drawn)):
        outputs = predict(probes[way.split()[0]], rows)
        groups = pd.Series(pd.Categorical(rows.labels["race"], RACE.classes))
        found = evaluate(COLUMNS, outputs, rows.targets(COLUMNS), groups, n_boot=1)
        found = found[(found["metric"] == "accuracy") & (found["group"] != "all")]
        found = found.assign(n=found["group"].map(photos).fillna(0), way=way)
        tables.append(found[found["n"] >= MIN_FACES][["way", "task", "metric", "group", "value", "n"]])
    return pd.concat(tables, ignore_index=True)


def cross_fit(train: FeatureSet, n: int = N_CROSS, folds: int = FOLDS) -> pd.DataFrame:
    """Accuracy of linear probes on photos that neither they nor the feature model have seen, all of `train` in turn.

    For each of `folds` parts of the rows: a model of the others; probes that learned from n rows of the others or from
    n that it draws; tested on the part and on drawn rows. Far more photos than the test split has. Columns way, task,
    metric (`held-out accuracy`), group (`part 1` …), value, n (photos in the part).
    """
    order = np.random.default_rng(0).permutation(len(train))
    tables = []
    for number in range(folds):
        part = order[number::folds]
        rest = train.select(np.setdiff1d(order, part))
        model = fit_features(rest)
        tested = {"real": train.select(part), "drawn": model.draw(N_TEST, seed=TEST_SEED)}
        for trained_on, rows in {"real": few_labels(rest, n, number), "drawn": model.draw(n, seed=number)}.items():
            probe = learned(rows, "linear", 0)
            for tested_on, faces in tested.items():
                table = scores(probe, faces, COLUMNS)
                table = table[table["metric"] == "accuracy"].assign(metric="held-out accuracy", n=len(part))
                tables.append(table.assign(way=f"{trained_on} → {tested_on}", group=f"part {number + 1}"))
    return pd.concat(tables, ignore_index=True)[["way", "task", "metric", "group", "value", "n"]]


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


def speed(model: FeatureModel, n: int = 200_000, rounds: int = 5) -> pd.DataFrame:
    """Rows that `draw` gives for a second of processor time (all threads together), best of some rounds."""
    seconds = []
    for seed in range(rounds):
        start = time.process_time()
        model.draw(n, seed=seed)
        seconds.append(time.process_time() - start)
    return pd.DataFrame({"task": ["speed"], "metric": ["rows_per_cpu_second"], "value": [n / min(seconds)]})


def bench_command(rows: int = 1_000_000, rounds: int = 3) -> int:
    """Measures how many labelled rows of 512 numbers the feature model draws a second.

    Args:
        rows: Rows of one draw (2 KiB of memory each).
        rounds: Draws; the fastest counts.
    """
    if rows < 1 or rounds < 1:
        raise ConfigError(f"rows and rounds must be 1 or more, got {rows} and {rounds}.")
    model, seconds = FeatureModel.load(), []
    for seed in range(rounds):
        start = time.perf_counter(), time.process_time()
        model.draw(rows, seed=seed)
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, processor = np.min(seconds, axis=0)
    print(f"{rows:,} rows: {rows / clock:,.0f} a second on {os.cpu_count()} cores, {rows / processor:,.0f} on one")
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
    sheet.block("groups", lambda: by_race(train, test, model))
    sheet.block("thirds", lambda: cross_fit(train))
    sheet.block("membership", lambda: membership(train, validation, model))
    sheet.block("speed, per core", lambda: speed(model))
    what = "feature model: accuracy by race and on held-out thirds, a membership test, rows drawn a second on one core"
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
    rows = rows[rows["metric"] == "accuracy"].assign(way=rows["trained_on"] + " → " + rows["tested_on"])
    keys = ["task", "method", "n", "way"]
    found = rows.groupby(keys, sort=False)["value"].mean().unstack("way")
    table = found[[f"{one} → {other}" for one, other in WAYS]].map("{:.3f}".format).reset_index()
    table["n"] = table["n"].map("{:,}".format)
    return table.rename(columns={"n": "labels"})


def datasheet_command() -> int:
    """Writes the feature model's datasheet from its records and from what the packaged file says about itself."""
    text = datasheet(recorded(RECORD), recorded("feature_model_groups"), FeatureModel.load())
    with atomic_path(DATASHEET) as path:
        path.write_text(text, encoding="utf-8")
    print(f"wrote {DATASHEET}")
    return 0


def datasheet(scores: Record, groups: Record, model: FeatureModel) -> str:
    """The datasheet (Gebru et al. 2018, 1803.09010), Markdown, from both records and the model itself."""
    rows = scores.rows
    accuracy = rows[rows["metric"] == "accuracy"]
    mean = accuracy.groupby(["task", "method", "n", "trained_on", "tested_on"])["value"].mean()
    mean = mean.unstack(["trained_on", "tested_on"])
    transfer = mean["drawn", "real"] - mean["real", "real"]
    hardness = {one: mean[one, "drawn"] - mean[one, "real"] for one in ("drawn", "real")}
    found = groups.rows
    methods = set(rows["method"])
    area = found[found["task"] == "membership"].set_index("metric")["value"]
    table = found[found["metric"] == "accuracy"].pivot_table("value", ["task", "group", "n"], "way", sort=False)
    table = table[["real → real", "drawn → real", "drawn → drawn"]].map("{:.3f}".format).reset_index()
    table["n"] = table["n"].map("{:.0f}".format)
    thirds = found[found["metric"] == "held-out accuracy"]
    photos = thirds.drop_duplicates("group")["n"]
    thirds = thirds.groupby(["task", "way"], sort=False)["value"].mean().unstack("way")
    thirds = thirds[[f"{one} → {other}" for one, other in WAYS]]
    on_test = mean["real", "real"]["race", "linear"]
    near = min(on_test.index, key=lambda n: abs(n - N_CROSS))
    race = {"near": f"{near:,}", "race_test": f"{on_test[near]:.3f}"}
    race["race_thirds"] = f"{thirds.loc['race', 'real → real']:.3f}"
    thirds = thirds.map("{:.3f}".format).reset_index()
    return DATASHEET_TEXT.format(
        faces=f"{model.about['faces']:,}",
        min_faces=model.about["min_faces"],
        axes=len(model.tensors["axes"]),
        size=f"{PACKAGED_MODEL.stat().st_size / 1000:.0f}",
        numbers=f"{sum(array.size for array in model.tensors.values()) + model.shares.size:,}",
        fidelity=markdown(accuracy_table(rows)),
        within=int((transfer.abs() <= 0.015).sum()),
        equal=int((hardness["drawn"].abs() <= 0.02).sum()),
        equal_real=int((hardness["real"].abs() <= 0.02).sum()),
        comparisons=len(mean),
        worst_transfer=_farthest(transfer),
        worst_hardness=_farthest(hardness["drawn"]),
        worst_hardness_real=_farthest(hardness["real"]),
        thirds=markdown(thirds),
        photos=f"{photos.sum():,.0f}",
        groups=markdown(table.rename(columns={"n": "test photos"})),
        area=area,
        speed=f"{found[found['metric'] == 'rows_per_cpu_second']['value'].iloc[0]:,.0f}",
        gender_noise=f"{100 * GENDER_NOISE:.0f}",
        race_noise=f"{100 * RACE_NOISE:.0f}",
        age_noise=f"{100 * AGE_NOISE:.0f}",
        **race,
        missing="".join(
            f" No figures of the probe with {name} are recorded." for name in PROBES if name not in methods
        ),
        cross_labels=f"{N_CROSS:,}",
        record=scores.about,
    )


def _farthest(gaps: pd.Series) -> str:
    """The gap that is farthest from 0, in points, and where it is: `+1.9 points (race, linear, 6,000 labels)`."""
    task, method, n = gaps.abs().idxmax()
    return f"{100 * gaps[task, method, n]:+.1f} points ({task}, {method}, {n:,} labels)"


DATASHEET_TEXT = """# Datasheet: a model of FaceNet's features of FairFace

Written by `python -m facekit features datasheet` from recorded measurements; do not edit it by hand. The form follows
Gebru et al., Datasheets for Datasets (2018, arXiv 1803.09010).

## What it is

`facekit/data/fairface_features.safetensors` ({size} kB, {numbers} numbers): statistics from which
`facekit.data.simulated.FeatureModel` draws vectors of 512 numbers that lie as FaceNet's embeddings of faces lie, with a
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

The method is described at the top of `facekit/data/fit_features.py`.

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

- Trained on drawn and tested on real is within 1.5 points of trained on real in {within} of {comparisons} comparisons;
  the farthest: {worst_transfer}.
- The same probe, trained on drawn rows, is within 2 points on drawn and on real rows in {equal} of {comparisons}; the
  farthest: {worst_hardness}. Trained on real rows, in {equal_real}; the farthest: {worst_hardness_real}.

The model stands for the training photos, and the test photos, 1,000 of FairFace's official validation photos, are not
as hard as those: linear probes that learned from {near} real labels tell race right for {race_test} of them and for
{race_thirds} of held-out training photos (second table). So race seems too hard on drawn rows in the first table and
does not in the second. The standard error of an accuracy of 0.65 over 1,000 photos is 1.5 points.{missing}

{fidelity}

On photos that neither probe nor model has seen, linear probes, {cross_labels} labels: the training photos in three
parts, for each a model and probes of the other two thirds, mean over the parts ({photos} photos in all). A division
like this one served to choose the constants of the fit, among them the three noises; the test photos had no part in
that choice, nor had the validation photos.

{thirds}

By race, linear probes that learned from as many labels as there are training photos; groups of fewer than 20 test
photos are left out:

{groups}

Membership: is a photo that the model was fitted to more likely under it than one that it never saw? The area under the
ROC curve of the model's log density, training photos against validation photos, is {area[area]:.3f} (95 % interval
{area[low]:.3f} to {area[high]:.3f}; 0.5 is a guess).

Drawing gives {speed} rows a second on one core ({record[hardware]}).

Recorded {record[date]} by `{record[command]}`, commit {record[git_commit]}.
"""
