"""For whom classifiers of faces work, and what can be done: the records `fairness_audits`, `fairness_mitigation`,
`fairness_calibration` and `fairness_embeddings`.

Of FairFace's training photos N_ASIDE are set aside once: nothing learns from them or chooses on them, and what is said
of groups rests on them. The official test photos that are here are few and an easy sample for race (a hard one for
age); they stand beside once. No figure rests on fewer than 20 faces: what would is counted and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit.data.features.model import FeatureModel
from facekit.data.portraits import render_portraits
from facekit.data.sets import FeatureSet
from facekit.evaluation.calibration import calibration_error, fit_temperature, temperature_scaled
from facekit.evaluation.groups import PUBLISHED, GroupCounts
from facekit.evaluation.thresholds import decide, fit_thresholds
from facekit.experiments import chance, train_net
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import SharedNet, mlp
from facekit.studies.common import TASKS, facenet_features, fairface, first, set_aside
from facekit.studies.runner import Study, blocks_of, study
from facekit.tasks import AGE_BAND, GENDER, RACE, SKIN_TONE, Task
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Method, Supervised
from facekit.training.plans import plan
from facekit.transfer.fairness import (
    AdversarialRemoval,
    GroupDRO,
    balanced_weights,
    group_sizes,
    resampled,
    reweighing,
)
from facekit.transfer.probe import hidden_probe, linear_probe
from facekit.transfer.sharing import train_shared

SEEDS = (0, 1, 2, 3, 4)
N_VALIDATION = 3000
AUDIT, TEST = "held-out training photos", "official test photos here"
COLUMNS = {task.name: task.classes for task in (RACE, GENDER, AGE_BAND)}
BY_RACE, CELLS, BY_AGE = ("race",), ("race", "gender"), ("age",)
CUTS = {GENDER.name: ((), BY_RACE, CELLS, BY_AGE), RACE.name: ((), BY_RACE, CELLS), AGE_BAND.name: ((), BY_AGE)}
RATES = ("accuracy", "true_positive_rate", "false_positive_rate")

# Audits: what learns from all photos that are left.
PROBE, JOINT, MINI, DRAWN = "linear probe", "joint network", "linear probe on facenet-mini", "drawn features"

# Mitigation: a made shortage of all groups but one, and as many photos as they come.
N, MAJORITY, SKEW = 3000, "White", 0.8
NATURAL, SKEWED = "natural", f"{SKEW:.0%} {MAJORITY}"
HIDDEN = {"linear": 0, "one hidden layer": 64}
STEPS, BATCH = 400, 256
DECAYS, STEP_SIZES, STRENGTHS = (1.0, 8.0), (0.01, 0.03, 0.1), (0.1, 0.3, 1.0)

# Calibration: networks that learnt from few labels.
FEW, FITTED_ON = (200, 1000), (200, N_VALIDATION)
WIDTH, TAKEN_OUT = 128, (1.0, 10.0)  # of the hidden layers that are looked into; strengths of the reversed gradient
N_PROBED = 6000  # rows that a fresh probe learns from
PORTRAITS = (1500, 1500, 1000)  # to train, for the probes, to test


def parted(pool: FeatureSet, seed: int) -> tuple[FeatureSet, FeatureSet]:
    """What is learnt from, in random order, and what is chosen and calibrated on."""
    order = np.random.default_rng(seed).permutation(len(pool))
    return pool.select(order[N_VALIDATION:]), pool.select(order[:N_VALIDATION])


def counted(task: Task, answers: object, rows: FeatureSet, probabilities: np.ndarray | None = None) -> GroupCounts:
    """Answers (N,) of a task to these rows, by race, gender and age band."""
    targets = rows.targets([task])[task.name]
    return GroupCounts(task, COLUMNS).add(answers, targets, rows.labels[list(COLUMNS)], probabilities)  # type: ignore


def by_group(
    counts: GroupCounts, cuts: Sequence[tuple[str, ...]], metrics: Sequence[str] = RATES[:1], cells: bool = True
) -> pd.DataFrame:
    """Scores by group, the worst group and the gap, as rows of a record: by, group, metric, n, value, low, high.

    cuts: the columns that groups are made of, one after the other; () is all rows. What rests on fewer than 20 faces is
    left out; `suppressed_cells` says how many groups that were. `accuracy_worst` and `accuracy_gap` are of the groups
    with 30 labels or more, `accuracy_worst_corrected` less the bias of a minimum. cells: of intersections, whether
    each is told, or the extremes alone.
    """
    tables = []
    for by in cuts:
        found = counts.scores(by, metrics, GENDER.classes[1] if counts.task.name == GENDER.name else None)
        names = [", ".join(cell) for cell in found[list(by)].itertuples(index=False)] if by else ["all"] * len(found)
        found, few = found.assign(group=names), found["n"] < PUBLISHED
        left_out = few[found["metric"] == metrics[0]].sum()
        rows = [("", "suppressed_cells", left_out, np.nan, np.nan)] if left_out else []
        for each in counts.worst(by, RATES[:1]).itertuples() if by and "accuracy" in metrics else ():
            rows.append((each.group, f"accuracy_{each.what}", each.value, each.low, each.high))
            if each.what == "worst":
                rows.append((each.group, "accuracy_worst_corrected", each.corrected, each.low, each.high))
        more = pd.DataFrame(rows, columns=["group", "metric", "value", "low", "high"])
        shown = [found[~few], more] if cells or len(by) < 2 else [more]
        tables.append(pd.concat(shown, ignore_index=True).assign(by=" x ".join(by) or "all"))
    table = pd.concat(tables, ignore_index=True)
    return (table if "n" in table else table.assign(n=np.nan))[["by", "group", "metric", "n", "value", "low", "high"]]


def audited(
    task: Task, net: nn.Module, validation: FeatureSet, rows: FeatureSet, cuts: Sequence[tuple[str, ...]]
) -> pd.DataFrame:
    """`by_group` of a network's answers; calibration errors before and after one temperature, from `validation`."""
    outputs = predict(net, rows)[task.name]
    temperature = fit_temperature(predict(net, validation)[task.name], validation.targets([task])[task.name])
    tables = [by_group(counted(task, task.predict(outputs), rows), cuts)]
    for when, value in (("before", 1.0), ("after", temperature)):
        sure = counted(task, task.predict(outputs), rows, temperature_scaled(outputs, value))
        found = by_group(sure, [cut for cut in cuts if cut in ((), BY_RACE)], ["calibration_error"])
        tables.append(found.replace({"metric": {"calibration_error": f"calibration_error_{when}"}}))
    return first(pd.concat(tables, ignore_index=True).drop_duplicates(), task=task.name)


def measure_audit(
    pool: FeatureSet, audit: FeatureSet, test: FeatureSet, drawn: FeatureModel | None, network: str, seed: int
) -> pd.DataFrame:
    """One network that learnt gender, race and age band, by group. drawn: learn from its features, not from `pool`'s.

    Columns network, seed, audited, task and those of `by_group`; the official test photos are cut by race alone.
    Calibration errors are by race, too.
    """
    learn, validation = parted(pool if drawn is None else drawn.draw(len(pool), seed=seed), seed)
    if network == JOINT:
        net: nn.Module = train_net(learn, TASKS, seed, hidden=(512,), dropout=0.7, steps=800, lr=1e-3)
    else:
        net = linear_probe(learn, TASKS)
    tables = []
    for task in TASKS:
        tables.append(first(audited(task, net, validation, audit, CUTS[task.name]), audited=AUDIT))
        few = [cut for cut in CUTS[task.name] if cut in ((), BY_RACE)]
        tables.append(first(audited(task, net, validation, test, few), audited=TEST))
    return first(pd.concat(tables, ignore_index=True), network=network, seed=seed)


def drawn_from(learn: FeatureSet, data: str) -> FeatureSet:
    """The first N rows, as they come or so that SKEW of them are of MAJORITY."""
    if data == NATURAL:
        return learn.select(range(N))
    of_it = (learn.labels[RACE.name] == MAJORITY).to_numpy()
    n = round(SKEW * N)
    return learn.select(np.sort(np.concatenate([np.flatnonzero(of_it)[:n], np.flatnonzero(~of_it)[: N - n]])))


@dataclass(frozen=True)
class Trial:
    """A network that was trained in one way. worst: the loss of the group that does worst on validation."""

    net: nn.Module
    setting: str
    worst: float


def trial(
    method: Callable[[], Method],
    train: FeatureSet,
    validation: FeatureSet,
    hidden: int,
    decay: float,
    seed: int,
    setting: str = "",
) -> Trial:
    """Trains linear heads, or heads on a hidden layer, by the one recipe. setting: the method's strength, in words."""
    torch.manual_seed(seed)
    learner, dim = method(), train.features.shape[1]
    task = learner.tasks[0]
    net = SharedNet(mlp(dim, (hidden,)), [task]) if hidden else Classifier(None, Heads(dim, [task]))
    recipe = plan("everything", list(net.stages), max(1, STEPS * BATCH // len(train)), 3e-3 if hidden else 1e-2)
    fit(net, learner, train, None, recipe, TrainConfig(batch_size=BATCH, weight_decay=decay, seed=seed))
    targets = validation.targets([task, RACE])
    _, losses = task.known_losses(predict(net, validation)[task.name], targets[task.name])
    groups = pd.Series(losses.numpy()).groupby(targets[RACE.name].numpy()).mean()
    words = f"decay {decay:g}" + (f", {setting}" if setting else "")
    return Trial(net, words, groups[groups.index >= 0].max())


def trials(
    task: Task, train: FeatureSet, validation: FeatureSet, hidden: int, seed: int
) -> Mapping[str, Sequence[Trial]]:
    """Every way to learn, with each of its strengths."""
    sizes = group_sizes(train, RACE)
    alike = resampled(train, balanced_weights(train, RACE), seed)

    def each(method: Callable[[], Method], rows: FeatureSet = train, setting: str = "") -> list[Trial]:
        return [trial(method, rows, validation, hidden, decay, seed, setting) for decay in DECAYS]

    found = {
        "plain": each(partial(Supervised, [task])),
        "balanced sampling": each(partial(Supervised, [task]), alike),
        "balanced loss": each(partial(GroupDRO, [task], RACE, sizes, 0.0)),
        "group DRO": [
            made
            for value in STEP_SIZES
            for made in each(partial(GroupDRO, [task], RACE, sizes, value), setting=f"step size {value:g}")
        ],
    }
    if task.name != RACE.name:
        found["reweighing"] = each(partial(Supervised, [task]), resampled(train, reweighing(train, RACE, task), seed))
        if hidden:
            found["adversarial removal"] = [
                made
                for value in STRENGTHS
                for made in each(
                    partial(AdversarialRemoval, [task], RACE, hidden, value), setting=f"strength {value:g}"
                )
            ]
    return found


def measure_mitigation(
    pool: FeatureSet, audit: FeatureSet, task: Task, data: str, network: str, seed: int
) -> pd.DataFrame:
    """Every way to learn from N rows, its strength chosen on validation: the lowest loss of the worst group there.

    Columns data, task, network, seed, method, setting, and those of `by_group`. `thresholds` are those of the plain
    network at which the groups have equal true positives on validation, for gender alone; the rates that they trade
    are told of these two.
    """
    learn, validation = parted(pool, seed)
    tables = []

    def scored(answers: object, method: str, setting: str) -> None:
        metrics = RATES if task.name == GENDER.name and method in ("plain", "thresholds") else RATES[:1]
        found = by_group(counted(task, answers, audit), ((), BY_RACE, CELLS), metrics, cells=False)
        tables.append(first(found, method=method, setting=setting))

    for method, made in trials(task, drawn_from(learn, data), validation, HIDDEN[network], seed).items():
        best = min(made, key=lambda each: each.worst)
        scored(task.predict(predict(best.net, audit)[task.name]), method, best.setting)
        if method == "plain" and task.name == GENDER.name:
            held_out, wanted = positive(best.net, validation), validation.targets([task])[task.name]
            cut = fit_thresholds(held_out, wanted, validation.labels[RACE.name])
            scored(decide(positive(best.net, audit), audit.labels[RACE.name], cut), "thresholds", best.setting)
    return first(pd.concat(tables, ignore_index=True), data=data, task=task.name, network=network, seed=seed)


def positive(net: nn.Module, rows: FeatureSet) -> np.ndarray:
    """The probability of gender's second class, float64 (N,)."""
    return predict(net, rows)[GENDER.name].double().softmax(1)[:, 1].numpy()


def measure_calibration(pool: FeatureSet, audit: FeatureSet, n: int, seed: int) -> pd.DataFrame:
    """Networks with a hidden layer that learnt from n labels, before and after a temperature.

    Columns n, seed, head, task, fitted_on (labels that the temperature was fitted on, 0 for none), metric, value.
    """
    learn, validation = parted(pool, seed)
    few, rows = learn.select(range(n)), []
    heads = {
        "hidden layer, dropout 0.7": hidden_probe(few, TASKS, seed=seed),
        "hidden layer, no dropout": train_net(few, TASKS, seed, steps=600),
    }
    for head, net in heads.items():
        outputs, held_out = predict(net, audit), predict(net, validation)
        targets, wanted = audit.targets(TASKS), validation.targets(TASKS)
        for task in TASKS:
            said, true = outputs[task.name], targets[task.name]
            right = (task.predict(said) == true)[task.known(true)].double().mean().item()
            rows.append((head, task.name, 0, "accuracy", right))
            rows.append((head, task.name, 0, "calibration_error", calibration_error(temperature_scaled(said, 1), true)))
            for fitted_on in FITTED_ON:
                found = fit_temperature(held_out[task.name][:fitted_on], wanted[task.name][:fitted_on])
                error = calibration_error(temperature_scaled(said, found), true)
                rows.append((head, task.name, fitted_on, "temperature", found))
                rows.append((head, task.name, fitted_on, "calibration_error", error))
    table = pd.DataFrame(rows, columns=["head", "task", "fitted_on", "metric", "value"])
    return first(table, n=n, seed=seed)


def embedded(net: SharedNet, rows: FeatureSet) -> FeatureSet:
    """What a network's heads see, at length 1."""
    with torch.no_grad():
        seen = torch.cat([net.embed(part) for part in torch.from_numpy(rows.features).float().split(4096)])
    return replace(rows, inputs=torch.nn.functional.normalize(seen).numpy())


def without_race(learn: FeatureSet, audit: FeatureSet, strength: float, seed: int) -> tuple[SharedNet, float]:
    """A network for gender that was trained against an opponent who names the race, and the opponent's loss on `audit`.

    The loss is in nats; log 7 = 1.95 is that of one who guesses among seven.
    """
    torch.manual_seed(seed)
    net = SharedNet(mlp(learn.features.shape[1], (WIDTH,)), [GENDER])
    method = AdversarialRemoval([GENDER], RACE, WIDTH, strength)
    train_shared(net, method, learn, steps=1200, seed=seed, lr=3e-3)
    with torch.no_grad():
        said = method.opponent(net.embed(torch.from_numpy(audit.features).float()))
    return net, RACE.loss(said, audit.targets([RACE])[RACE.name]).item()


def measure_embeddings(
    pool: FeatureSet, audit: FeatureSet, asked: Sequence[Task], n: int, photos: str, seed: int
) -> pd.DataFrame:
    """What fresh linear probes read from the hidden layer of networks that were trained for one task alone.

    asked: tasks that are trained for and read. n: rows of `pool` that the probes learn from, the networks from the
    others. photos: what these are. Columns photos, embedding, seed, task, metric, value; `the features` are what
    all networks start from, `always the same` looks at nothing. Where race is asked, networks for gender have race
    taken out of their hidden layer by an opponent, whose `opponent_loss` is that of `without_race`.
    """
    order = np.random.default_rng(seed).permutation(len(pool))
    learn, probed = pool.select(order[n:]), pool.select(order[:n])
    seen = {"the features": (probed, audit)}
    for task in asked:
        net = train_net(learn, [task], seed, hidden=(WIDTH,), dropout=0.5, steps=600)
        seen[f"trained for {task.name}"] = (embedded(net, probed), embedded(net, audit))
    tables = [chance(probed, audit, asked).assign(embedding="always the same")]
    for strength in TAKEN_OUT if RACE in asked else ():
        name = f"trained for gender, race taken out, strength {strength:g}"
        net, loss = without_race(learn, audit, strength, seed)
        seen[name] = (embedded(net, probed), embedded(net, audit))
        tables.append(pd.DataFrame([(RACE.name, "opponent_loss", loss)], columns=["task", "metric", "value"]))
        tables[-1]["embedding"] = name
    for name, (train, test) in seen.items():
        outputs, targets = predict(linear_probe(train, asked), test), test.targets(asked)
        for task in asked:
            counts = GroupCounts(task, []).add(task.predict(outputs[task.name]), targets[task.name], test.labels[[]])
            tables.append(counts.scores((), ["accuracy", "balanced_accuracy"]).assign(embedding=name, task=task.name))
    found = pd.concat(tables, ignore_index=True)
    found = found[found["metric"] != "mae"].assign(photos=photos, seed=seed)
    return found[["photos", "embedding", "seed", "task", "metric", "value", "low", "high"]]


@study
def record(seeds: tuple[int, ...] = SEEDS) -> list[Study]:
    """Records `fairness_audits`, `fairness_mitigation`, `fairness_calibration`, `fairness_embeddings`.

    Takes about twenty minutes on one core once the photos are embedded.

    Args:
        seeds: Of the draws, of the networks' weights and of the order.
    """
    faces, small = facenet_features(), embed(FaceNetMini.from_pretrained(), fairface())
    both = {"FaceNet": faces, "facenet-mini": small}
    parts = {name: (*set_aside(data), data.split("test")) for name, data in both.items()}
    pool, audit, test = parts["FaceNet"]
    rest = f"{len(audit):,} others are audited, on which nothing was learnt or chosen"
    fair = f"FairFace, official training photos: {rest}"
    audits = [
        *blocks_of(measure_audit, (pool, audit, test, None), (PROBE, JOINT), seeds),
        *blocks_of(measure_audit, (*parts["facenet-mini"], None), (MINI,), seeds),
        *blocks_of(measure_audit, (pool, audit, test, FeatureModel.load()), (DRAWN,), seeds),
    ]
    drawn = embed(FaceNetMini.from_pretrained(), render_portraits(sum(PORTRAITS)))
    learnt = sum(PORTRAITS[:2])
    portraits = drawn.select(range(learnt)), drawn.select(range(learnt, len(drawn)))
    return [
        Study(
            "fairness_audits",
            what="classifiers of gender, race and age band by group, with calibration before and after a temperature: "
            "linear probe and joint network on FaceNet's embeddings, linear probe on facenet-mini's, and one that "
            "learnt from drawn features alone. The models behind drawn features and facenet-mini were made from "
            "FairFace's training photos, audited ones among them. Groups of fewer than 20 faces are left out",
            data=f"{fair}, {len(pool) - N_VALIDATION:,} to learn from and {N_VALIDATION:,} for temperatures; beside "
            f"them {len(test):,} official test photos, an easy sample for race and a hard one for age",
            blocks=audits,
        ),
        Study(
            "fairness_mitigation",
            what=f"{N:,} photos to learn from, as they come and with {SKEWED}, gender by race and race by race: plain, "
            "balanced sampling and loss, reweighing, group DRO, adversarial removal, thresholds for equal true "
            "positives; of each, weight decay and strength are those with the lowest loss of the worst group on "
            "validation",
            data=f"{fair}, {N_VALIDATION:,} to choose on, with groups as they come",
            blocks=[
                *blocks_of(measure_mitigation, (pool, audit), (GENDER, RACE), (SKEWED, NATURAL), HIDDEN, seeds),
            ],
        ),
        Study(
            "fairness_calibration",
            what="networks with a hidden layer on FaceNet's embeddings that learnt from few labels: calibration error "
            "before and after one temperature",
            data=f"{fair}; temperatures fitted on {FITTED_ON[0]:,} or {FITTED_ON[1]:,} further labels",
            blocks=blocks_of(measure_calibration, (pool, audit), FEW, seeds),
        ),
        Study(
            "fairness_embeddings",
            what="what fresh linear probes read from the hidden layer of networks that were trained for one task alone",
            data=f"{fair}, {N_PROBED:,} for the probes; and rendered portraits on facenet-mini's embeddings, "
            f"{PORTRAITS[0]:,} to train, {PORTRAITS[1]:,} for the probes and {PORTRAITS[2]:,} to test",
            blocks=[
                *blocks_of(measure_embeddings, (pool, audit, TASKS, N_PROBED), ("FairFace",), seeds),
                *blocks_of(measure_embeddings, (*portraits, (GENDER, SKIN_TONE), PORTRAITS[1]), ("portraits",), seeds),
            ],
        ),
    ]
