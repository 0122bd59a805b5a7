"""The best classifier of race, gender and age band that is known here: the record `best_fairface`.

Networks of several kinds and what they answer together. Of FairFace's training photos N_ASIDE are set aside: nothing
learns from them and nothing is chosen on them. On N_VALIDATION others the epoch of a network and the members of an
ensemble are chosen. The official test photos that are here are few, an easy sample for race and a hard one for age;
they stand beside, once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from facekit import settings
from facekit.data.sets import FaceSet, LabelledSet
from facekit.evaluation.calibration import fit_temperatures
from facekit.evaluation.groups import PUBLISHED
from facekit.evaluation.metrics import bootstrap_interval, evaluate
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.studies.common import TASKS, fairface, first, set_aside
from facekit.studies.joint import RECIPE as JOINT
from facekit.studies.last_stage import RECIPE as LAST_STAGE
from facekit.studies.members import VIEWS, heads, last_stage, megabytes, tuned
from facekit.studies.runner import Block, Study, blocks_of, study
from facekit.studies.tuning import Tuning
from facekit.training.augment import Augment

N_VALIDATION = 1000
VALIDATION, ASIDE, TEST = "validation", "set aside", "official test photos here"
SHARED, SINGLE = "hidden layer, shared", "hidden layer, one a task"
STAGE = "last stage"
PASS = "FaceNet, one pass"
ALL, ONE_EACH, CHOSEN = "all", "one of each kind", "chosen on validation"
STAGE_PASSES = 2
ROUNDS = 20  # of choosing a member
# For few passes: rates that fall less towards the input, and photos that are changed less. The heads' rate is halved.
QUICK = Tuning((2,), lr=1.5e-3, factor=1.6, augment=Augment())
QUICK_COMMAND = "--plan everything --factor 1.6 --lr 1.5e-3 --augment true"
SPED, REPEATS = 256, 3  # photos that the rate is measured on, and how often
COMMAND = (
    "python -m facekit train --backbone facenet --tasks race,gender,age --plan discriminative --since mixed_6a "
    "--lr 3e-3 --augment strong --smoothing 0.1 --batch_size 32 --weight_decay 0.05 --precision bf16 "
    "--channels_last true"
)

Scores = dict[str, torch.Tensor]  # task name to log probabilities (N, classes), of a part


@dataclass(frozen=True, eq=False)
class Answer:
    """What one or several members answer. scores: by part. frozen: the last stage that each left as it was, or "".

    networks: how many were trained.
    """

    scores: Mapping[str, Scores]
    frozen: tuple[str, ...]
    seconds: float
    megabytes: float  # of what was trained
    networks: int = 1


def answer_of(rows: pd.DataFrame, views: Sequence[str]) -> Answer:
    """The mean of the log probabilities over views, from the rows of a member."""
    scores: dict[str, Scores] = {}
    for part in rows["part"].unique():
        some = [rows[(rows["part"] == part) & (rows["view"] == view)] for view in views]
        scores[part] = {
            task.name: torch.from_numpy(
                np.mean([each[[f"{task.name} {i}" for i in range(task.n_outputs)]].to_numpy() for each in some], 0)
            ).log_softmax(1)
            for task in TASKS
        }
    one = rows.iloc[0]
    return Answer(scores, (one["frozen"],), one["seconds"], one["megabytes"], int(one["networks"]))


def tempered(answer: Answer, targets: Mapping[str, torch.Tensor]) -> Answer:
    """The answer with the temperatures, one a task, that fit validation best; which class is first stays as it is.

    Members that learnt from smoothed labels are less sure also of what they know, and would count for less in a mean.
    """
    heat = fit_temperatures(TASKS, answer.scores[VALIDATION], targets)
    scores = {
        part: {name: (values / heat[name]).log_softmax(1) for name, values in found.items()}
        for part, found in answer.scores.items()
    }
    return replace(answer, scores=scores)


def together(answers: Sequence[Answer], weights: Sequence[float] | None = None) -> Answer:
    """The weighted mean of the log probabilities of several answers; members of weight 0 are left out."""
    weights = [1.0] * len(answers) if weights is None else list(weights)
    used = [(each, weight) for each, weight in zip(answers, weights, strict=True) if weight]
    total = sum(weight for _, weight in used)
    scores = {
        part: {
            name: torch.stack([each.scores[part][name] * (weight / total) for each, weight in used])
            .sum(0)
            .log_softmax(1)
            for name in found
        }
        for part, found in answers[0].scores.items()
    }
    members = [each for each, _ in used]
    frozen = tuple(stage for each in members for stage in each.frozen)
    seconds, size = (sum(getattr(each, name) for each in members) for name in ("seconds", "megabytes"))
    return Answer(scores, frozen, seconds, size, sum(each.networks for each in members))


def loss_of(scores: Scores, targets: Mapping[str, torch.Tensor]) -> float:
    """The sum of the tasks' mean losses, in nats."""
    return sum(task.loss(scores[task.name], targets[task.name]).item() for task in TASKS)


def chosen(answers: Sequence[Answer], targets: Mapping[str, torch.Tensor]) -> list[int]:
    """How often each answer is taken into the mean, so that the loss on validation gets low.

    In each of ROUNDS rounds the answer is added, again perhaps, that lowers the loss most; of all rounds the best is
    taken (ensemble selection with replacement, Caruana et al. 2004, ICML, section 2.2).
    """
    counts, found = [0] * len(answers), []
    for _ in range(ROUNDS):
        tried = []
        for i in range(len(answers)):
            more = [count + (i == j) for j, count in enumerate(counts)]
            tried.append((loss_of(together(answers, more).scores[VALIDATION], targets), more))
        found.append(min(tried, key=lambda each: each[0]))
        counts = found[-1][1]
    return min(found, key=lambda each: each[0])[1]


def stage_costs(network: Backbone) -> pd.DataFrame:
    """By stage, in order, the multiplications and additions for one photo, in billions of pairs, and its megabytes."""
    rows, before = {}, 0
    photo = torch.zeros((1, 3, *[network.image_size] * 2), dtype=torch.uint8)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for name, _ in network.eval().walk(network.prepare(photo)):
            done = counter.get_total_flops()
            rows[name] = {"multiply_adds": (done - before) / 2e9, "megabytes": megabytes(network.stages[name])}
            before = done
    return pd.DataFrame(rows).T


def cost_of(answer: Answer, costs: pd.DataFrame, views: int) -> dict[str, float]:
    """What an answer for a photo takes: billions of multiply-adds of all views, and megabytes.

    Stages that were frozen are computed once for all members.
    """
    names = list(costs.index)
    ends = [names.index(stage) + 1 if stage else 0 for stage in answer.frozen]
    below = costs.iloc[: max(ends)].sum()
    own = sum(costs["multiply_adds"].iloc[end:].sum() for end in ends)
    return {
        "multiply_adds": views * (below["multiply_adds"] + own),
        "megabytes": below["megabytes"] + answer.megabytes,
    }


def measure(
    network: Backbone, asked: Mapping[str, LabelledSet], members: Mapping[str, Sequence[pd.DataFrame]]
) -> pd.DataFrame:
    """Scores of each member and of ensembles, from what the members answer (rows as in `members.answers`), by kind.

    Columns method, networks, seed, views (of a photo), part, task, group, metric, value, low, high, n, seconds (of all
    trainings), megabytes, multiply_adds (billions for a photo). `accuracy_gain` is over the member that does best on
    validation, paired by photo. Of the chosen ensemble there are the accuracies by race, and `share_of_chosen` says how
    much of it each member is; no figure rests on fewer than PUBLISHED faces.
    """
    costs = stage_costs(network)
    targets = {part: data.targets(TASKS) for part, data in asked.items()}
    tables = []

    def scored(method: str, answer: Answer, seed: int = 0, views: int = len(VIEWS)) -> pd.DataFrame:
        found = [evaluate(TASKS, scores, targets[part]).assign(part=part) for part, scores in answer.scores.items()]
        about = {"method": method, "networks": answer.networks, "seed": seed, "views": views}
        cost = {"seconds": answer.seconds, **cost_of(answer, costs, views)}
        return first(pd.concat(found, ignore_index=True), **about).assign(**cost)

    both = {
        kind: [tempered(answer_of(rows, list(VIEWS)), targets[VALIDATION]) for rows in found]
        for kind, found in members.items()
    }
    for kind, found in members.items():
        for seed, rows in enumerate(found):
            tables.append(scored(kind, answer_of(rows, list(VIEWS)[:1]), seed, 1))
            tables.append(scored(kind, both[kind][seed], seed))
    names, pool = zip(
        *(((kind, seed), each) for kind, found in both.items() if kind != SINGLE for seed, each in enumerate(found)),
        strict=True,
    )
    best = min(pool, key=lambda each: loss_of(each.scores[VALIDATION], targets[VALIDATION]))
    ensembles = {f"{len(found)} x {kind}": together(found) for kind, found in both.items() if len(found) > 1}
    if SINGLE in both and len(both[SHARED]) > len(TASKS):  # as many networks as one a task
        ensembles[f"{len(TASKS)} x {SHARED}"] = together(both[SHARED][: len(TASKS)])
    ensembles[ONE_EACH] = together([found[0] for kind, found in both.items() if kind != SINGLE])
    ensembles[ALL] = together(pool)
    counts = chosen(pool, targets[VALIDATION])
    ensembles[CHOSEN] = together(pool, counts)
    for name, answer in ensembles.items():
        table = scored(name, answer)
        more = pd.DataFrame(gains(answer, best, targets))
        shared = table.iloc[0][["method", "networks", "seed", "views", "seconds", "megabytes", "multiply_adds"]]
        tables += [table, more.assign(**shared)[table.columns]]
        if name == CHOSEN:
            by = evaluate(TASKS, answer.scores[ASIDE], targets[ASIDE], asked[ASIDE].labels["race"]).assign(part=ASIDE)
            by = by[(by["group"] != "all") & (by["metric"] == "accuracy") & (by["n"] >= PUBLISHED)]
            tables.append(by.assign(**shared)[table.columns])
    for (kind, seed), each, count in zip(names, pool, counts, strict=True):
        about = scored(kind, each, seed).iloc[:1]
        share = count / sum(counts)
        about = about.assign(part=VALIDATION, task="all", metric="share_of_chosen", value=share, low=share, high=share)
        tables.append(about)
    found = pd.concat(tables, ignore_index=True)
    order = ["method", "networks", "seed", "views", "part", "task", "group", "metric", "value", "low", "high", "n"]
    return found[[*order, "seconds", "megabytes", "multiply_adds"]]


def gains(answer: Answer, best: Answer, targets: Mapping[str, Mapping[str, torch.Tensor]]) -> list[dict]:
    """Accuracy of an answer less that of another on the same photos, with an interval, as rows of `measure`."""
    rows = []
    for part, truth in targets.items():
        for task in TASKS:
            known = task.known(truth[task.name])
            right, other = (
                (task.predict(each.scores[part][task.name]) == truth[task.name])[known].double()
                for each in (answer, best)
            )
            low, high = bootstrap_interval(right - other)
            value = (right - other).mean().item()
            rows.append(
                {"part": part, "task": task.name, "group": "all", "metric": "accuracy_gain", "value": value}
                | {"low": low, "high": high, "n": int(known.sum())}
            )
    return rows


def measure_rate(network: Backbone, photos: FaceSet) -> pd.DataFrame:
    """Photos a second of one pass through the whole network, in bf16; rows of `measure`.

    On processors of the time that a core works, else of the clock, after a pass that warms up. The median of REPEATS
    passes, between the lowest and the highest.
    """
    on_cpu = settings.device().type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    rates = []
    for _ in range(REPEATS + (not on_cpu)):
        start = clock()
        embed(network, photos, cache=False)
        rates.append(len(photos) / (clock() - start))
    rates = rates[-REPEATS:]
    costs = stage_costs(network).sum()
    row = {"method": PASS, "networks": 1, "seed": 0, "views": 1, "part": ASIDE, "task": "faces", "group": "all"}
    row |= {"metric": "photos_per_core_second" if on_cpu else "photos_per_second"}
    row |= {"value": np.median(rates), "low": min(rates), "high": max(rates)}
    row |= {"n": len(photos), "seconds": 0.0, **costs[["megabytes", "multiply_adds"]]}
    return pd.DataFrame([row])


@study
def record(
    cycles: tuple[int, ...] = (2, 2),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    stage_seeds: tuple[int, ...] = (0, 1, 2, 3),
    since: str | None = None,
) -> Study:
    """Records `best_fairface`: networks and ensembles for race, gender and age band, scored on photos set aside.

    A hidden layer on frozen features, the last stage tuned, and everything from `mixed_6a` up tuned on photos that are
    mirrored, turned, scaled, shifted, relit and partly covered. Give a core some hours; several processes that share a
    core should have one thread each, since two that wait for each other take many times as long.

    Args:
        cycles: Passes over the photos in each cycle of the long training; a member is made after each.
        seeds: Of the hidden layers' weights, of order and dropout.
        stage_seeds: The same of the tuned last stage.
        since: Lowest stage of the long training, by default `mixed_6a`; `stem` is the whole network, which wants a GPU.
    """
    pool, aside = set_aside(fairface())
    chosen_on = min(N_VALIDATION, len(pool) // 3)
    learn, validation = pool.select(range(chosen_on, len(pool))), pool.select(range(chosen_on))
    asked = {VALIDATION: validation, ASIDE: aside, TEST: fairface().split("test")}
    facenet = FaceNet.from_pretrained()
    members = {
        SHARED: blocks_of(heads, (facenet, learn, asked, JOINT, True), seeds),
        SINGLE: blocks_of(heads, (facenet, learn, asked, JOINT, False), seeds),
        STAGE: blocks_of(last_stage, (facenet, learn, asked, LAST_STAGE, STAGE_PASSES), stage_seeds),
    }

    def long(how: Tuning) -> list[Block]:
        return blocks_of(tuned, (facenet, learn, validation, asked, how, facenet.image_size), (0,))

    for end in range(1, len(cycles) + 1):
        how = Tuning(cycles[:end]) if since is None else Tuning(cycles[:end], since=since)
        members[f"from {how.since}, {' + '.join(map(str, how.passes))} passes"] = long(how)
    members[f"from {QUICK.since}, {' + '.join(map(str, QUICK.passes))} passes, quick"] = long(QUICK)
    photos = aside.select(range(min(SPED, len(aside))))
    command = COMMAND if since is None else COMMAND.replace("--since mixed_6a", f"--since {since}")
    on_cpu = settings.device().type == "cpu"
    where = "one thread each on a machine that others used as well" if on_cpu else "on one GPU"
    return Study(
        "best_fairface",
        what="networks for race, gender and age band on FaceNet, and ensembles of them: the mean log probabilities "
        "of members, at temperatures fitted on validation, and, with 2 views, of photo and mirror image. Hidden layers "
        "on the frozen last stage before the embedding; that stage tuned "
        f"({STAGE_PASSES} passes over photos and mirror images); all from a stage up tuned on photos that are "
        "mirrored, turned, scaled, shifted, relit and partly covered, with labels smoothed. Epochs, and members that "
        f"are chosen, are those that do best on validation. A cycle of the long training is `{command}`, the quick one "
        f"has `{QUICK_COMMAND}` instead. Seconds are of the trainings alone, with the cycles before, {where}",
        data=f"FairFace, official training photos: {len(learn):,} to learn from, {len(validation):,} to choose on, "
        f"{len(aside):,} others set aside, on which nothing was learnt or chosen; beside them {len(asked[TEST]):,} "
        "official test photos, an easy sample for race and a hard one for age",
        blocks=[Block("scores", measure, (facenet, asked, members)), Block("rate", measure_rate, (facenet, photos))],
    )
