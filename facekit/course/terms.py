"""The terms of the course in one table, docs/terms.csv: the learner's glossary and the next owner's vocabulary.

Columns: name; korean (empty where a text has to use the English word anyway); for (`word`, which lessons use, or
`code`, a name of facekit); meaning, one line, without a full stop.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from facekit.files import atomic_path
from facekit.records import ROOT

TABLE = ROOT / "docs" / "terms.csv"
GLOSSARY_HEAD = """# Glossary

Every term that the lessons use, in one line, with the Korean term beside it. The lessons link here.
"""
VOCABULARY_HEAD = """# Vocabulary

One name for one thing, in code, texts and lessons; the name is the field's where the field has one. Made from
terms.csv by `python -m facekit lessons glossary`.

| name | what it is |
|---|---|
"""


@dataclass(frozen=True)
class Term:
    """A row of the table; `anchor` is where the glossary's heading lies in JupyterLab."""

    name: str
    korean: str
    code: bool
    meaning: str

    @property
    def anchor(self) -> str:
        return self.name.replace(" ", "-")


def terms(table: Path = TABLE) -> list[Term]:
    """All terms in their order."""
    with open(table, encoding="utf-8", newline="") as file:
        return [Term(row["name"], row["korean"], row["for"] == "code", row["meaning"]) for row in csv.DictReader(file)]


def pages(known: list[Term]) -> dict[Path, str]:
    """What is made of the table: path to text."""
    words = [term for term in known if not term.code]
    entries = [f"### {term.name}\n\n{f'{term.korean}. ' if term.korean else ''}{_sentence(term)}\n" for term in words]
    names = [(f"`{term.name}`" if term.code else term.name, term.meaning) for term in known]
    return {
        ROOT / "lessons" / "glossary.md": "\n".join([GLOSSARY_HEAD, *entries]),
        ROOT / "docs" / "vocabulary.md": VOCABULARY_HEAD + "".join(f"| {name} | {text} |\n" for name, text in names),
    }


def _sentence(term: Term) -> str:
    text = re.sub(r"; `\w+` [^;]*$|; `\w+`$", "", term.meaning)  # where the code has it is for the next owner
    return text[0].upper() + text[1:] + "."


def glossary_command() -> int:
    """Writes lessons/glossary.md and docs/vocabulary.md from docs/terms.csv.

    Examples:
        python -m facekit lessons glossary
    """
    for path, text in pages(terms()).items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0
