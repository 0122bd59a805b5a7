"""What the build puts around a lesson: the minutes it takes, below its goal, and the way on, at its end.

Neither is typed. Minutes are counted from the source, so that both copies say the same on every machine, by this rule
for somebody who reads English as a second language:

- 80 words of text a minute; link addresses and the references are not read
- 10 lines of code a minute, and half a minute to run a cell and look at what it shows
- a minute for each question of the quiz, and one in which the cells compute: a lesson has no more than that
- for each exercise five minutes, and one more for each line of its solution; its text and cells by the rates above

Each sum is rounded up to five minutes. The way on names the lessons before and after by their titles.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from facekit.course.folders import Lesson, find_lessons
from facekit.errors import LessonError

if TYPE_CHECKING:
    from nbformat import NotebookNode

WORDS, LINES = 80, 10  # a minute
CELL, QUESTION, COMPUTING, EXERCISE, SOLUTION_LINE = 0.5, 1, 1, 5, 1  # minutes
ROUNDED = 5  # minutes
NEXT = "Where next"  # the heading of the way on
TYPED = "**Minutes on a laptop:**"
# Its indent, and after a line break each: the solution, and the lines of the learner's copy where it has some.
SOLUTION = re.compile(
    r"^([ \t]*)# <solution>((?:\n.*)*?)(?:\n[ \t]*# <todo>((?:\n.*)*?))?\n[ \t]*# </solution>$", re.MULTILINE
)


def add_minutes(cells: Sequence[NotebookNode], lesson: Lesson) -> None:
    """Writes the minutes into the first of a source's cells, below the goal; a first cell of another form stays."""
    first = cells[0] if cells else None
    if first is None or not re.match(r"# \d\d · [^\n]+\n\n[^\n]", first.source):
        return
    if TYPED in first.source:
        where = f"{lesson.stem}/lesson.py, first cell"
        raise LessonError(f"{where}: take out the line {TYPED!r}; the build counts the minutes and writes them there.")
    reading, exercises = minutes(cells, _questions(lesson))
    first.source += f"\n\n{TYPED} {reading} to read and run, {exercises} for the exercises."


def minutes(cells: Sequence[NotebookNode], questions: int) -> tuple[int, int]:
    """Minutes to read and run a source's cells, and for the exercises, by the rule above.

    questions: in the quiz.
    """
    spent, section = {"reading": float(COMPUTING + QUESTION * questions), "Exercises": 0.0}, ""
    for cell in cells:
        if cell.cell_type == "markdown" and (heading := re.match(r"## +(.+)", cell.source)):
            section = heading[1].strip()
        if section == "References" or "solution-only" in cell.metadata.get("tags", []):
            continue
        part = section if section in spent else "reading"
        if cell.cell_type == "markdown":
            spent[part] += len(text_words(cell.source)) / WORDS
            continue
        solutions = [block[2] for block in SOLUTION.finditer(cell.source)]
        spent[part] += CELL + len(code_lines(SOLUTION.sub("", cell.source))) / LINES
        if "solution" in cell.metadata.get("tags", []):
            spent["Exercises"] += EXERCISE + SOLUTION_LINE * sum(len(code_lines(block)) for block in solutions)
    reading, exercises = (ROUNDED * math.ceil(value / ROUNDED) for value in spent.values())
    return reading, exercises


def text_words(markdown: str) -> list[str]:
    """The words of a text, split at blanks, without the addresses of links."""
    return re.sub(r"\]\([^)]*\)", "]", markdown).split()


def code_lines(source: str) -> list[str]:
    """The lines of code, without blank ones and comments."""
    return [line for line in source.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def _questions(lesson: Lesson) -> int:
    """The questions of the lesson's quiz, as far as it can be read; whether it can is asked elsewhere."""
    try:
        return len(json.loads((lesson.folder / "quiz.json").read_text(encoding="utf-8"))["questions"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def way_on(lesson: Lesson) -> str:
    """The last cell of a lesson, as Markdown: links to the lessons before and after, to the first one and the glossary.

    Empty where the course has no other lesson with a title.
    """
    titles = {each.number: (each, title) for each in find_lessons(root=lesson.root) if (title := title_of(each))}
    numbers = sorted({*titles, lesson.number})
    place = numbers.index(lesson.number)
    ways = []
    if place + 1 < len(numbers):
        ways.append(f"Next: {_link(*titles[numbers[place + 1]])}.")
    if place > 1:
        ways.append(f"Back: {_link(*titles[numbers[place - 1]])}, or the first page, {_link(*titles[numbers[0]])}.")
    elif place == 1:
        ways.append(f"Back: {_link(*titles[numbers[0]])}.")
    if not ways:
        return ""
    return "\n\n".join([f"## {NEXT}", " ".join(ways), "All terms are in the [glossary](glossary.md)."])


def title_of(lesson: Lesson) -> str:
    """Number and title, '03 · Feature extraction', as its source begins; empty where it begins in another way."""
    title = re.match(r"# %% \[markdown\]\n# # (\d\d · .+)", lesson.source.read_text(encoding="utf-8"))
    return title[1].strip() if title else ""


def _link(lesson: Lesson, title: str) -> str:
    return f"[{title}]({lesson.stem}.ipynb)"
