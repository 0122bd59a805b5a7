"""A model card, filled in: from the model's own record, its scores, and what only its owner can say.

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019, 1810.03993), section by section. The owner's words
stand between two marks in the card, or are given as arguments; a new card takes over what the old one has there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from facekit.answers import words
from facekit.answers.evaluate import METRICS, Evaluation, TaskScores, drawn
from facekit.errors import ConfigError, OutputError
from facekit.evaluation.groups import PUBLISHED
from facekit.records import fill, markdown

TEMPLATE = Path(__file__).with_suffix(".md")
# What only the owner can say: name to what is asked for.
OWNER = {
    "owner": "who made this model, when, who answers questions about it (an address), and under which licence it is "
    "given away",
    "intended": "what the model is for, who will use it, on whose photos, and what happens to a person after a wrong "
    "answer",
    "limits": "for what else, of the things that somebody could want from it, it must not be used",
    "people": "whether the people in the photos agreed to this use, whom of them you asked about it, and who can "
    "object, and how",
    "recommendations": "what has to be true before the model is used: which groups you have to measure again on "
    "photos of your own, how wrong answers are noticed, when the model is taken out of use",
}
TO_WRITE = "**Owner, to be written:**"
PLACE = re.compile(r"<!-- owner: (\w+) -->\n(.*?)\n<!-- /owner -->", re.DOTALL)
SEAL = re.compile(r"\n<!-- facekit wrote this; SHA-256 of all but the owner's words: ([0-9a-f]{64}) -->\n\Z")
OUT_OF_SCOPE = (
    "Any decision about a single person: work, school, credit, housing, insurance, police, borders, entry, prices.",
    "Finding out or checking who somebody is, and following or sorting people without their knowledge and consent.",
    "Faces of other kinds than those it was measured on below: other places, cameras, ages, cuts.",
)
OF_DRAWN = "People: what it has learnt from was drawn by a program."
OF_TASK = {
    "race": (
        "Saying what race somebody is. The labels are what others thought when they saw a photo; race is no property "
        "of a face.",
        "In the European Union, sorting single people by race from their faces: the AI Act forbids it (Regulation "
        "2024/1689, Article 5(1)(g)), and data that reveal racial or ethnic origin, or biometric data that identify "
        "somebody, are specially protected (GDPR, Article 9).",
    ),
    "gender": (
        "Saying what gender somebody is, or how somebody is to be addressed. The classes were given by others; a face "
        "does not show gender identity, and an infant's shows nothing of the kind.",
    ),
    "age": ("Proving somebody's age: an answer is an estimate from a picture, and may be wrong by decades.",),
    "skin_tone": ("Standing in for race: skin tone is none, and light and cameras change it.",),
}


def card(evaluation: Evaluation, said_by_owner: Mapping[str, str] | None = None, old: str | None = None) -> str:
    """The card as Markdown. said_by_owner: by the names in `OWNER`; what it lacks is taken from `old`, a card.

    What neither has is a place that says what to write there. Raises OutputError where `old` was changed outside of
    the owner's places, so that writing this one in its stead would lose something.
    """
    given = {name: text.strip() for name, text in (said_by_owner or {}).items()}
    said = {**written(old), **{name: text for name, text in given.items() if text}}
    if unknown := sorted(set(said) - set(OWNER)):
        raise ConfigError(f"a card has no place called {unknown[0]!r}; the places are {', '.join(OWNER)}.")
    about, part, data = evaluation.about, evaluation.part, words.data_facts(evaluation.data)
    split = evaluation.data["split"]
    text = fill(
        TEMPLATE,
        name=_md(", ".join(task["name"] for task in part["tasks"])),
        answers=_md("; ".join(words.answers(part))),
        network=_md(words.network(about)),
        started=_md(words.started(about)),
        training=_md(words.training(about)),
        sha256=about["weights"]["sha256"],
        versions=_md(", ".join(f"{name} {version}" for name, version in about["versions"].items())),
        out_of_scope=_list(_out_of_scope(part)),
        factors=_md(_factors(evaluation)),
        groups=_md(_groups(evaluation)),
        framing=_md(words.framing(part)),
        metrics=_list(words.READING),
        rows=f"{evaluation.data['rows']:,}",
        seen=evaluation.data["seen"],
        split="all splits" if split is None else f"its split {split}",
        notes=_list(evaluation.notes) or "- Nothing was found that needs a warning.",
        learnt=_list(f"{name}: {text}" for name, text in words.learnt_from(evaluation).items()),
        overall=_overall(evaluation),
        analyses="\n\n".join(part for task in evaluation.tasks for part in _analyses(evaluation, task)),
        ethics=_list(_ethics(evaluation)),
        caveats=_list(_caveats(evaluation)),
        **{key: _md(data[key]) for key in ("source", "licence", "datasheet")},
        **{name: _place(name, said.get(name)) for name in OWNER},
    )
    return f"{text.rstrip()}\n\n<!-- facekit wrote this; SHA-256 of all but the owner's words: {_seal(text)} -->\n"


def waiting(text: str) -> list[str]:
    """The names of the owner's places of a card in which nothing is written yet."""
    return [name for name, said in PLACE.findall(text) if said.startswith(TO_WRITE)]


def written(old: str | None) -> dict[str, str]:
    """The owner's words in a card, by the names in `OWNER`; raises as `card`."""
    if old is None:
        return {}
    seal = SEAL.search(old)
    if seal is None or seal[1] != _seal(old[: seal.start()]):
        raise OutputError(
            "the model card there was changed outside of the owner's places, and would be lost; move it away, or name "
            "another folder for the results."
        )
    return {name: said for name, said in PLACE.findall(old) if not said.startswith(TO_WRITE)}


def _seal(text: str) -> str:
    return hashlib.sha256(PLACE.sub(r"\1", text).rstrip().encode()).hexdigest()


def _place(name: str, said: str | None) -> str:
    said = said.replace("<!--", "&lt;!--") if said else f"{TO_WRITE} {OWNER[name]}."
    return f"<!-- owner: {name} -->\n{said}\n<!-- /owner -->"


def _md(text: object) -> str:
    """A text in Markdown, all of it as it is."""
    return re.sub(r"[\\`*|]|(?<!\w)_|_(?!\w)|\](?=[\[(:])|<(?=[\w/!?])", r"\\\g<0>", words.plain(text))


def _list(texts: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"- {_md(text)}" for text in texts)


def _table(rows: pd.DataFrame) -> str:
    return markdown(rows.rename(columns=_md).map(_md))


def _out_of_scope(part: Mapping) -> list[str]:
    named = {task["name"].removesuffix("_years") for task in part["tasks"]}
    own = [text for name, texts in OF_TASK.items() if name in named for text in texts]
    return [*own, *OUT_OF_SCOPE, *([OF_DRAWN] if drawn(part["data"]) else [])]


def _factors(evaluation: Evaluation) -> str:
    if not evaluation.by:
        return "none: no group columns were named, so this card does not say for whom the model works (`--by` does)"
    pairs = [" × ".join(by) for by in evaluation.tables if len(by) > 1]
    return ", ".join(evaluation.by) + (f", and of two together {', '.join(pairs)}" if pairs else "")


def _groups(evaluation: Evaluation) -> str:
    return "; ".join(f"{name}: {words.sizes(groups)}" for name, groups in evaluation.groups.items()) or "none"


def _overall(evaluation: Evaluation) -> str:
    parts = []
    for task in evaluation.tasks:
        table = task.of(())
        for row in table.itertuples():
            parts.append((task.task.name, METRICS[row.metric], words.interval(row, row.metric), words.counted(row)))
    return _table(pd.DataFrame(parts, columns=["task", "score", "value [95 % interval]", "faces"]))


def _analyses(evaluation: Evaluation, task: TaskScores) -> Iterator[str]:
    for by in evaluation.tables[1:]:
        yield f"### {_md(task.task.name)} by {_md(' and '.join(by))}"
        yield _md(words.finding(task, by))
        if len(by) == 1:
            yield _table(words.wide(task, by, [task.main]))
        else:
            cells = words.crossed(task, by)
            yield _table(cells.reset_index(names=f"{METRICS[task.main]}: {cells.index.name} / {cells.columns.name}"))


def _ethics(evaluation: Evaluation) -> Iterator[str]:
    yield (
        "Photos of faces, and embeddings computed from them, are data about people, who as a rule were not asked "
        "whether they may be sorted. No photo, no embedding and no answer about a single face is in this card or "
        f"beside it, and nothing is told over fewer than {PUBLISHED} faces."
    )
    yield (
        "A wrong answer harms people in different ways, and those groups most that were rare in the training data; the "
        "tables above say how often, not how badly."
    )
    yield "Equal scores for all groups would not make a use right that is wrong in itself."


def _caveats(evaluation: Evaluation) -> Iterator[str]:
    yield (
        "The scores hold for faces like those of the evaluation data, cut in the same way, and for nobody else. For "
        "another use measure again, on labelled photos of the people whom it will meet."
    )
    for task in evaluation.tasks:
        lost = [by for by in evaluation.tables[1:] if _hidden(task, by)]
        if lost:
            told = "; ".join(f"{' × '.join(by)}: {_hidden(task, by)} of {_cells(task, by)}" for by in lost)
            yield (
                f"{task.task.name}: groups of which nothing can be told for want of faces: {told}. That nothing is "
                "told does not mean that the model works for them."
            )
    if drawn(evaluation.data):
        yield "The labels of drawn faces are exact. Those of photos are not, and scores on photos are lower for it."
    else:
        yield "Labels have errors of their own, and what the annotators got wrong the model is praised for repeating."


def _cells(task: TaskScores, by: Sequence[str]) -> int:
    table = task.of(by)
    return int((table["metric"] == task.main).sum())


def _hidden(task: TaskScores, by: Sequence[str]) -> int:
    table = task.of(by)
    return int(((table["metric"] == task.main) & (table["shown"] != "")).sum())
