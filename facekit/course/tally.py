"""Which exercises were correct, kept beside the learner's copies on this machine and nowhere else.

`exercise("03.1").check(…)` notes a correct answer in the folder that the notebook lies in, if that is one to work in
(workspace.py). Elsewhere (the lessons as they are stored, solutions, tests) nothing is written. An exercise that was
correct once stays so.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from facekit.course.folders import Lesson, find_lessons
from facekit.course.frame import title_of
from facekit.course.workspace import LOCK, found_work, set_aside, work_folder
from facekit.errors import DataError
from facekit.files import alone, read_json, told, write_json

FILE = ".progress.json"
CHECKED = re.compile(r"^exercise\(\"(\d\d\.\d+)\"\)\.check\(", re.MULTILINE)
BAR = 10  # characters of a full bar


def note(number: str) -> str:
    """Notes that an exercise was correct; returns what the learner should know, mostly nothing."""
    folder = found_work()
    if folder is None:
        return ""
    try:
        with alone(folder / LOCK, wait=True):
            correct, said = read(folder)
            if number not in correct:
                write_json(folder / FILE, {"correct": sorted({*correct, number})})
            return said
    except OSError as error:
        return f"(That it was correct could not be noted: {told(error, folder / FILE)}.)"


def read(folder: Path) -> tuple[set[str], str]:
    """The numbers of the exercises that were correct, and what is to be said of a file that was damaged.

    That one is moved to the folder `earlier` and named.
    """
    try:
        noted = read_json(folder / FILE, DataError, "", {"correct": list})["correct"]
        if all(isinstance(number, str) for number in noted):
            return set(noted), ""
    except FileNotFoundError:
        return set(), ""
    except DataError:
        pass
    aside = set_aside(folder / FILE, folder)
    return set(), f"(What was noted of your progress was damaged. It is kept as {aside}, and begins anew.)"


def counts(folder: Path) -> tuple[list[tuple[Lesson, int, int]], str]:
    """Each lesson with how many of its exercises were correct, of how many; and what is to be said of the file."""
    correct, said = read(folder)
    asked = [(each, set(CHECKED.findall(each.source.read_text(encoding="utf-8")))) for each in find_lessons()]
    return [(each, len(numbers & correct), len(numbers)) for each, numbers in asked], said


def progress() -> None:
    """Shows which exercises were correct, lesson by lesson: a table with links, in the folder to work in."""
    from facekit.show.plots import publish  # it needs torch, the command does not

    folder = found_work()
    if folder is None:
        text = "Your progress is shown here when the lesson is opened with: make lab (python -m facekit lab)"
        publish({"text/plain": text, "text/html": f"<p>{text}</p>"})
        return
    rows, said = counts(folder)
    cells = [
        f'<tr><th scope="row"><a href="{lesson.learner.name}">{escape(title_of(lesson))}</a></th>'
        f'<td>{done} of {asked}</td><td aria-hidden="true">{bar(done, asked)}</td></tr>'
        for lesson, done, asked in rows
    ]
    warning = f"<p>{escape(said)}</p>" if said else ""
    head = "<caption>Exercises that were correct; kept on this computer alone</caption>"
    publish({"text/plain": table(rows, said), "text/html": f"{warning}<table>{head}{''.join(cells)}</table>"})


def bar(done: int, asked: int) -> str:
    """A bar of fixed width; full and empty only where that is so."""
    full = min(max(round(BAR * done / max(asked, 1)), done > 0), BAR - (done < asked))
    return "█" * full + "░" * (BAR - full)


def table(rows: list[tuple[Lesson, int, int]], said: str = "") -> str:
    """The same as text, a line for each lesson."""
    width = max(len(title_of(lesson)) for lesson, _, _ in rows)
    lines = [f"{title_of(lesson):<{width}}  {bar(done, asked)}  {done} of {asked}" for lesson, done, asked in rows]
    return "\n".join([*filter(None, [said]), "Exercises that were correct:", *lines])


def progress_command(work: Path | None = None) -> int:
    """Prints which exercises were correct, lesson by lesson.

    Args:
        work: the folder that you work in; `work` beside the lessons by default.

    Examples:
        python -m facekit lessons progress
    """
    print(table(*counts(work_folder(work))))
    return 0
