"""Figures and facts of an evaluation in words, the same in report, model card and terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from facekit.answers.evaluate import ALL, METRICS, Evaluation, TaskScores
from facekit.evaluation.groups import PUBLISHED, SMALL

READING = (
    f"In brackets stands the interval that holds the score with 95 % confidence, found by drawing the rows again and "
    f"again with replacement (bootstrap). (small) marks cells of fewer than {SMALL} faces: too few to speak of, and "
    "their intervals are narrower than they should be.",
    f"Nothing is told over fewer than {PUBLISHED} faces: such cells say “< {PUBLISHED}”. A few more are blank (not "
    "shown), so that what was left out cannot be had by subtracting the cells that are shown from their sums.",
    "The worst of several groups looks worse than it is, and the gap to the best wider, because both are picked for "
    "being extreme. “Corrected” takes this bias off; the limits beside it hold for all groups at once, and are wide.",
    "Accuracy is the share of answers that are right. Balanced accuracy is its mean over the classes, each counting "
    "the same. The calibration error says how far confidence and accuracy lie apart: 0.1 means that answers given with "
    "0.9 are right in, say, 0.8 of the cases. With few faces it is above 0 even for perfect probabilities (about 0.1 "
    "with 50), so small groups look worse in it than large ones. “Before” is without the stored temperature.",
)


def plain(text: object) -> str:
    """A text without characters that cannot be printed, each written as its code."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def number(value: float, metric: str) -> str:
    """A score as it is shown: two decimals of a number's unit, three of a share; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.2f}" if metric == "mae" else f"{value:.3f}"


def interval(row: Any, metric: str) -> str:
    """Value and limits of a row with value, low and high."""
    if math.isnan(row.value):
        return "–"
    return f"{number(row.value, metric)} [{number(row.low, metric)}, {number(row.high, metric)}]"


def counted(row: Any) -> str:
    """The number of faces of a row, with a mark where they are few, or why it is not shown."""
    return row.shown or f"{row.n:,}{' (small)' if row.small else ''}"


def wide(task: TaskScores, by: Sequence[str], limits: Collection[str] = tuple(METRICS)) -> pd.DataFrame:
    """The table of one task by these columns, a row a cell: the groups, `faces`, and each metric as a text.

    limits: the metrics that have their interval beside them.
    """
    table = task.of(by)
    metrics = [name for name in METRICS if (table["metric"] == name).any()]
    parts = {name: table[table["metric"] == name] for name in metrics}
    first = parts[metrics[0]]
    shown = {name: [plain(group) for group in first[name]] for name in by} or {"groups": [ALL]}
    shown["faces"] = [counted(row) for row in first.itertuples()]
    for name, part in parts.items():
        values = [interval(row, name) if name in limits else number(row.value, name) for row in part.itertuples()]
        shown[METRICS[name]] = values
    return pd.DataFrame(shown)


def crossed(task: TaskScores, by: Sequence[str]) -> pd.DataFrame:
    """The main metric by two columns, as a table of one (index) by the other: score, interval and faces as a text."""
    table = task.of(by)
    table = table[table["metric"] == task.main]
    cells = [row.shown or f"{interval(row, task.main)} of {counted(row)}" for row in table.itertuples()]
    texts = table[list(by)].map(plain).assign(cell=cells)
    rows, columns = (list(dict.fromkeys(texts[name])) for name in by)
    made = texts.pivot(index=by[0], columns=by[1], values="cell").loc[rows, columns]
    return made if len(columns) <= len(rows) else made.T


def finding(task: TaskScores, by: Sequence[str]) -> str:
    """A sentence or two on the worst group and the gap of one table."""
    worst, gap = task.extremes(by)
    n = gap.left_out
    left = f" {n} group{'s' * (n > 1)} of too few faces, or without a label, {'were' if n > 1 else 'was'} left out."
    if math.isnan(gap.value):
        return f"No two groups here have {SMALL} faces or more, so no worst group and no gap can be told."
    show = [number(value, task.main) for value in (worst.value, gap.value, gap.corrected, gap.low, gap.high)]
    chance = "fewer than 1" if gap.p < 0.01 else f"{100 * gap.p:.0f}"
    verdict = "chance alone hardly makes it" if gap.p < 0.05 else "chance alone can make it"
    return (
        f"Worst of {gap.groups}: {plain(worst.group)}, {show[0]}. Gap to the best {show[1]}, corrected {show[2]} "
        f"(limits {show[3]} to {show[4]}). If all groups were equal, a gap like this or wider would come up in "
        f"{chance} of 100 samples of this size: {verdict}.{left if n else ''}"
    )


def answers(part: Mapping[str, Any]) -> list[str]:
    """Each task with its classes, or its kind."""
    return [f"{task['name']} ({', '.join(task['classes']) or 'a number'})" for task in part["tasks"]]


def network(about: Mapping[str, Any]) -> str:
    """What the network is."""
    net = about["network"]
    heads = f"a hidden layer of {net['hidden']} units" if net["hidden"] else "a linear layer"
    if net["backbone"] is None:
        return f"{heads} for each task, on embeddings of {net['width']} numbers that were computed before"
    return f"the network {net['backbone']} with {heads} for each task on its embedding of {net['width']} numbers"


def started(about: Mapping[str, Any]) -> str:
    """Where the training began."""
    began = about["network"]["started_from"]
    if began is None:
        return "random weights"
    return f"{began['file']} (SHA-256 {began['sha256'][:16]}…): {began['source']}; {began['licence']}"


def training(about: Mapping[str, Any]) -> str:
    """How the model was trained."""
    recipe = about["recipe"]
    given = "".join(f", {name} {value:g}" for name, value in about["parameters"].items())
    augment = "with" if recipe["augment"] else "without"
    return (
        f"method {about['method']}{given}; plan {recipe['plan']}, {recipe['epochs']} epochs of which the weights of "
        f"epoch {recipe['best_epoch']} were kept (lowest loss on the split validation), batches of "
        f"{recipe['batch_size']}, highest learning rate {recipe['lr']:g}, {augment} augmentation, "
        f"{recipe['precision']}, seed {recipe['seed']}"
    )


def data_facts(data: Mapping[str, Any]) -> dict[str, str]:
    """What is known of a set: source, licence, datasheet."""
    named = " / ".join(dict.fromkeys(str(data[key]) for key in ("name", "source") if data.get(key)))
    source = named or "not stated in the set's manifest"
    return {
        "source": plain(f"embeddings drawn from a model of {source}" if "drawn_with_seed" in data else source),
        "licence": plain(data.get("licence") or "not stated in the set's manifest"),
        "datasheet": plain(data.get("datasheet") or "none"),
    }


def sizes(groups: pd.Series) -> str:
    """Groups with their numbers of rows."""
    return ", ".join(f"{plain(group)} {'not shown' if pd.isna(n) else f'{n:,}'}" for group, n in groups.items())


def learnt_from(evaluation: Evaluation) -> dict[str, str]:
    """What is known of the set that a model was trained on: as `data_facts`, with rows by split and group, and hash."""
    part, data = evaluation.part, evaluation.part["data"]
    rows = ", ".join(f"{n:,} {split}" for split, n in data["rows"].items())
    sha = ", ".join(f"{name} {value}" for name, value in data["sha256"].items())
    by = {f"rows of train by {plain(name)}": sizes(groups) for name, groups in evaluation.learnt.items()}
    if not by and evaluation.by:
        by = {"rows by group": "not known: another set than the one that was answered here"}
    return {**data_facts(data), "rows": rows, **by, "framing": framing(part), "SHA-256": sha}


def framing(part: Mapping[str, Any]) -> str:
    """How the faces in the photos were cut."""
    cut = part["framing"]
    kind = {"aligned": "the largest face that MTCNN finds, cut out and resized"}.get(cut["how"], cut["how"])
    pixels = f", {cut['pixels']}" if cut.get("pixels") else ""
    below = f", embedded by {cut['backbone']}" if cut.get("backbone") else ""
    return plain(f"{kind}{pixels}{below}")


def title(evaluation: Evaluation) -> str:
    """What was evaluated on what, in one line."""
    data, names = evaluation.data, [task.task.name for task in evaluation.tasks]
    split = "all splits" if data["split"] is None else f"the split {data['split']}"
    source = data_facts(data)["source"]
    return f"{', '.join(map(plain, names))} on {data['rows']:,} rows ({split}) of {source}"
