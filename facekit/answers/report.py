"""An evaluation as a page (`html`: one file, no network, no script), as a table for the terminal, and as CSV."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap

import pandas as pd

from facekit.answers import words
from facekit.answers.evaluate import BEFORE, METRICS, Evaluation, TaskScores
from facekit.show.vector import curves, intervals

PAGE = Path(__file__).with_name("report.html")
WIDTH, LINES = 100, 16  # of the terminal; a longer table is left to the report
SHORT = {"balanced accuracy": "balanced", "mean absolute error": "mean abs. error", "calibration error": "calibration"}
BLANK = ("–", "not shown", "< ")  # how a cell begins that says nothing
HEADING = "For whom does this model answer well?"
# What a section is made of: a text (of several lines: as it stands), a table with its caption, a PNG with its text.
Part = str | tuple[str, pd.DataFrame] | tuple[str, bytes]


def html(evaluation: Evaluation, heading: str = HEADING, before: Mapping[str, Sequence[Part]] | None = None) -> str:
    """The report as one page.

    before: sections that stand before the scores, by their headings; all texts are taken as texts, never as HTML.
    """
    own = [
        (f"section-{number}", words.plain(name), "".join(map(_part, parts)))
        for number, (name, parts) in enumerate((before or {}).items(), 1)
    ]
    tasks = [(f"task-{number}", each) for number, each in enumerate(evaluation.tasks, 1)]
    links = [(anchor, name) for anchor, name, _ in own]
    links += [("glance", "At a glance"), *((name, words.plain(each.task.name)) for name, each in tasks)]
    links += [("reading", "How to read the figures"), ("model", "The model and its data")]
    return PAGE.read_text(encoding="utf-8").format(
        heading=escape(words.plain(heading)),
        before="\n".join(
            f'<section id="{anchor}">\n<h2>{escape(name)}</h2>\n{content}\n</section>' for anchor, name, content in own
        ),
        title=escape(words.title(evaluation)),
        contents=" · ".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links),
        notes=_list(evaluation.notes) or "<p>Nothing about these rows needs a warning.</p>",
        glance=_glance(evaluation),
        tasks="\n".join(_task(evaluation, name, each) for name, each in tasks),
        reading=_list(words.READING),
        facts=_facts(evaluation),
    )


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(words.plain(text))}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _part(part: Part) -> str:
    """One part of a section as HTML."""
    if isinstance(part, str):
        text, tag = "\n".join(escape(words.plain(line)) for line in part.split("\n")), "pre" if "\n" in part else "p"
        return f"<{tag}>{text}</{tag}>"
    told, shown = part
    if isinstance(shown, pd.DataFrame):
        return _table(shown, words.plain(told))
    text, data = escape(words.plain(told)), b64encode(shown).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _table(rows: pd.DataFrame, caption: str, texts: int = 1) -> str:
    """A table of texts; the first column names the rows, the first `texts` are words."""
    kinds = [' class="word"' if place < texts else "" for place in range(len(rows.columns))]
    first = "".join(
        f'<th scope="col"{kind}>{escape(words.plain(name))}</th>'
        for name, kind in zip(rows.columns, kinds, strict=True)
    )
    lines = []
    for row in rows.itertuples(index=False, name=None):
        cells = [f'<th scope="row">{escape(str(row[0]))}</th>']
        cells += [
            f"<td{kind or _kind(each)}>{escape(str(each))}</td>" for kind, each in zip(kinds[1:], row[1:], strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = f"<thead><tr>{first}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide" tabindex="0"><table><caption>{escape(caption)}</caption>{body}</table></div>'


def _kind(cell: object) -> str:
    return ' class="blank"' if str(cell).startswith(BLANK) else ""


def glance(evaluation: Evaluation) -> pd.DataFrame:
    """A row a task and table: task, groups, score of all, worst group, its score, gap, corrected gap."""
    rows: list[tuple[str, ...]] = []
    for each in evaluation.tasks:
        name = METRICS[each.main]
        whole = each.of(())
        score = f"{name} {words.interval(whole[whole['metric'] == each.main].iloc[0], each.main)}"
        if not evaluation.by:
            rows.append((each.task.name, score))
        for by in evaluation.tables[1:]:
            worst, gap = each.extremes(by)
            told = [words.number(value, each.main) for value in (worst.value, gap.value, gap.corrected)]
            by_chance = "–" if math.isnan(gap.p) else f"{gap.p:.3f}"
            group = words.plain(worst.group) or "too few faces"
            rows.append((each.task.name, score, " × ".join(by), group, *told, by_chance))
    columns = ["task", "all faces", "groups by", "worst group", "worst", "gap", "corrected", "by chance (p)"]
    return pd.DataFrame(rows, columns=columns if evaluation.by else columns[:2])


def _glance(evaluation: Evaluation) -> str:
    table = glance(evaluation)
    note = (
        "<p>Gap: from the worst group to the best. By chance: how often a gap like this or wider would come up if all "
        "groups were equal; below 0.05 chance alone hardly makes it, but of twenty equal tables one is expected there "
        f'({len(table)} are looked at here). What “corrected” means is said <a href="#reading">below</a>.</p>'
        if evaluation.by
        else "<p>No group columns were named, so this says nothing of for whom the model works: <code>--by</code>.</p>"
    )
    return _table(table, "Every task, and where it is worst", 4 if evaluation.by else 2) + note


def _task(evaluation: Evaluation, anchor: str, task: TaskScores) -> str:
    name = words.plain(task.task.name)
    parts = [f'<section id="{anchor}">', f"<h2>{escape(name)}</h2>"]
    classes = ", ".join(map(words.plain, task.task.classes))
    parts.append(f"<p>Answers: {escape(classes)}.</p>" if classes else "<p>Answers: a number.</p>")
    parts.append(_table(words.wide(task, ()), f"{name}: all faces"))
    for by in evaluation.tables[1:]:
        said = " and ".join(map(words.plain, by))
        parts.append(f"<h3>{escape(name)} by {escape(said)}</h3><p>{escape(words.finding(task, by))}</p>")
        parts.append(_chart(task, by))
        if len(by) == 1:
            parts.append(_table(words.wide(task, by), f"{name} by {said}"))
        else:
            cells = words.crossed(task, by)
            rows = cells.reset_index(names=f"{cells.index.name} / {cells.columns.name}")
            parts.append(_table(rows, f"{name}: {METRICS[task.main]} by {said}, with the number of faces"))
    if task.confusion is not None:
        parts.append(_confusion(task, name))
    if task.reliability:
        parts.append(_reliability(task, name))
    return "\n".join([*parts, "</section>"])


def _chart(task: TaskScores, by: Sequence[str]) -> str:
    """The main metric of every cell that is shown, as dots with intervals."""
    table = task.of(by)
    table = table[(table["metric"] == task.main) & table["value"].notna()]
    if len(table) < 2:
        return ""
    whole = task.of(())
    average = whole.loc[whole["metric"] == task.main, "value"].iloc[0]
    names = [", ".join(map(words.plain, cell)) for cell in table[list(by)].itertuples(index=False)]
    rows = list(table[["value", "low", "high"]].itertuples(index=False, name=None))
    metric = METRICS[task.main]
    said = "; ".join(
        f"{name} {words.interval(row, task.main)}" for name, row in zip(names, table.itertuples(), strict=True)
    )
    alt = f"{metric} of {words.plain(task.task.name)} by {' and '.join(map(words.plain, by))}: {said}"
    under = (
        f"{metric} with 95 % intervals; dashed: all faces, {words.number(average, task.main)}. Hollow dots: too few "
        "faces to speak of. Groups that are not shown are left out."
    )
    plot = intervals(names, rows, average, alt, list(table["small"]))
    return f"<figure>{plot}<figcaption>{escape(under)}</figcaption></figure>"


def _confusion(task: TaskScores, name: str) -> str:
    assert task.confusion is not None
    classes = list(task.task.classes)
    head = "".join(f'<th scope="col">{escape(words.plain(each))}</th>' for each in classes)
    lines = []
    for true, row in task.confusion.iterrows():
        blank = pd.isna(row["n"])
        cells = [f'<th scope="row">{escape(words.plain(true))}</th>']
        cells.append('<td class="blank">not shown</td>' if blank else f"<td>{int(row['n']):,}</td>")
        for each in classes:
            share = 0.0 if blank else float(row[each])
            right = " right" if each == true else ""
            cell = f'<td class="share{right}" style="--much: {60 * share:.0f}%">{100 * share:.0f} %</td>'
            cells.append('<td class="blank">–</td>' if blank else cell)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"{name}: of the faces labelled as the row says, the share that was answered as the column says"
    first = f'<th scope="col" class="word">labelled</th><th scope="col">faces</th>{head}'
    table = f"<thead><tr>{first}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return (
        f"<h3>What {escape(name)} is mistaken for</h3>"
        f'<div class="wide" tabindex="0"><table><caption>{escape(caption)}</caption>{table}</table></div>'
    )


def _reliability(task: TaskScores, name: str) -> str:
    lines, tables = {}, []
    labels = {"after": "with the stored temperature", "before": "without it"}
    if task.temperature is None:
        labels = {"after": "as the network gives them"}
    for key, label in labels.items():
        table = task.reliability[key]
        lines[label] = list(table[["confidence", "accuracy"]].itertuples(index=False, name=None))
        shown = pd.DataFrame({"confidence (mean)": [f"{value:.3f}" for value in table["confidence"]]})
        shown["right"] = [f"{value:.3f}" for value in table["accuracy"]]
        shown["faces"] = [f"{value:,.0f}" for value in table["n"]]
        tables.append(_table(shown, f"{name}: confidence and share of right answers, {label}"))
    whole = task.of(()).set_index("metric")
    after = whole.loc["calibration_error"]
    said = f"The calibration error is {words.interval(after, '')}"
    if task.temperature is not None:
        before = whole.loc["calibration_error_before"]
        said = (
            f"A temperature of {task.temperature:.3f}, fitted on validation, divides the network's outputs. It takes "
            f"the calibration error from {words.interval(before, '')} to {words.interval(after, '')}"
        )
    alt = "; ".join(
        f"{label}: " + ", ".join(f"confidence {x:.2f} right {y:.2f}" for x, y in points)
        for label, points in lines.items()
    )
    plot = curves(lines, ("confidence", "share of right answers"), f"Reliability diagram of {name}. {alt}")
    under = "Reliability diagram. On the dotted diagonal confidence is accuracy; below it answers are too sure."
    return (
        f"<h3>How far the probabilities of {escape(name)} can be believed</h3><p>{escape(said)}. By group it stands in "
        f"the tables above.</p><figure>{plot}<figcaption>{under}</figcaption></figure>"
        f"<details><summary>The figures of the diagram</summary>{''.join(tables)}</details>"
    )


def _facts(evaluation: Evaluation) -> str:
    about, part = evaluation.about, evaluation.part
    model = {
        "answers": "; ".join(words.answers(part)),
        "is": words.network(about),
        "began with": words.started(about),
        "training": words.training(about),
        "weights": f"SHA-256 {about['weights']['sha256']}",
        "made with": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    }
    data = words.data_facts(evaluation.data)
    answered = {**data, "rows answered": f"{evaluation.data['rows']:,}"}
    answered["seen in training"] = evaluation.data["seen"]
    for name, groups in evaluation.groups.items():
        answered[f"rows by {words.plain(name)}"] = words.sizes(groups)
    tables = (
        ("The model", model),
        ("What it learnt from", words.learnt_from(evaluation)),
        ("What it answered here", answered),
    )
    return "\n".join(_pairs(caption, pairs) for caption, pairs in tables)


def _pairs(caption: str, pairs: dict[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(words.plain(text))}</td></tr>'
        for name, text in pairs.items()
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{rows}</tbody></table>"


def terminal(evaluation: Evaluation) -> str:
    """The scores as plain text, lines of at most `WIDTH` characters; tables of more than `LINES` rows are left out."""
    lines = _wrapped(words.title(evaluation))
    for note in evaluation.notes:
        lines += _wrapped(f"! {words.plain(note)}")
    for task in evaluation.tasks:
        for by in evaluation.tables[1:] or evaluation.tables:
            lines += ["", *_text(task, by)]
            lines += _wrapped(words.finding(task, by)) if by else []
    return "\n".join(lines)


def _text(task: TaskScores, by: Sequence[str]) -> list[str]:
    """A table as lines: all faces, then the cells that are shown, the main metric with its interval."""
    rows: list[list[str]] = []
    for names in dict.fromkeys([(), tuple(by)]):
        table = words.wide(task, names, [task.main]).drop(columns=METRICS[BEFORE], errors="ignore")
        cells = len(names) or 1
        rows += [[", ".join(row[:cells]), *row[cells:]] for row in table.itertuples(index=False, name=None)]
        head = [SHORT.get(name, name) for name in table.columns[cells:]]
    shown = [row for row in rows if not row[1].startswith(BLANK)]
    more = []
    if len(shown) > LINES:
        shown, more = rows[:1], [f"  {len(shown) - 1} groups are shown in the report."]
    elif left := len(rows) - len(shown):
        more = [f"  Not shown: {left}, of too few faces, or they would give such a group away."]
    lines = [[each if len(each) <= 30 else f"{each[:29]}…" for each in row] for row in (["", *head], *shown)]
    widths = [max(len(row[place]) for row in lines) for place in range(len(head) + 1)]
    texts = [[(str.rjust if n else str.ljust)(row[n], width) for n, width in enumerate(widths)] for row in lines]
    title = " by ".join([words.plain(task.task.name), *[" and ".join(map(words.plain, by))] * bool(by)])
    return [title, *(f"  {'  '.join(row)}".rstrip() for row in texts), *more]


def _wrapped(text: str) -> list[str]:
    return wrap(text, WIDTH, subsequent_indent="  ")


def csv(evaluation: Evaluation) -> str:
    """`Evaluation.scores` as CSV."""
    return evaluation.scores.to_csv(index=False, lineterminator="\r\n")  # so that a carriage return is quoted
