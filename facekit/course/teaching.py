"""What fits into half a day or a day with a class: which parts of which lessons, with their minutes by the one rule.

lessons/TEACHING.md has the plans as tables, made from lessons/teaching.json and from the lessons' sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facekit.course.folders import find_lessons, lessons_root
from facekit.course.frame import COMPUTING, minutes_of_source, rounded, title_of
from facekit.errors import LessonError
from facekit.files import atomic_path, read_json

PAGE, PLANS = "TEACHING.md", "teaching.json"


@dataclass(frozen=True)
class Stop:
    """A part of a plan: a lesson, or some minutes for `what`.

    without: its sections that are run and not read. exercises: those done in the room, by number.
    """

    lesson: str = ""
    without: Sequence[str] = ()
    exercises: Sequence[str] = ()
    minutes: int = 0
    what: str = ""


def plans(root: Path | None = None) -> dict[str, list[Stop]]:
    """The plans of lessons/teaching.json by name; raises LessonError where that is none."""
    path = (root or lessons_root()) / PLANS
    try:
        found = {name: [Stop(**each) for each in plan] for name, plan in read_json(path, LessonError, "", {}).items()}
    except (FileNotFoundError, TypeError, AttributeError) as error:
        raise LessonError(
            f"{path.name}: lists of objects with lesson, without and exercises, or minutes and what: {error}"
        ) from error
    return found


def plan_table(plan: Sequence[Stop], root: Path | None = None) -> str:
    """The plan as a Markdown table; raises LessonError for a lesson, section or exercise that there is not."""
    rows = ["| from | minutes | what | run, but left for home | exercises in the room |", "|---|---|---|---|---|"]
    clock = 0
    for stop in plan:
        spent, cells = _lesson(stop, root) if stop.lesson else (stop.minutes, (stop.what, "", ""))
        rows.append(f"| {clock // 60}:{clock % 60:02} | {spent} | {' | '.join(cells)} |")
        clock += spent
    return "\n".join([*rows, f"| {clock // 60}:{clock % 60:02} | | The end | | |"]) + "\n"


def _lesson(stop: Stop, root: Path | None) -> tuple[int, tuple[str, str, str]]:
    [lesson] = find_lessons([stop.lesson], root)
    parts = minutes_of_source(lesson)
    sections = {section for section, _ in parts}
    numbers = {title.partition(" ")[0].zfill(4): title for section, title in parts if section == "Exercises"}
    for wanted, known in ((stop.without, sections), (stop.exercises, numbers)):
        if missing := [each for each in wanted if each not in known]:
            raise LessonError(
                f"lesson {stop.lesson} has no {missing[0]!r}, which the plan in lessons/{PLANS} names; change the plan."
            )
    chosen = {numbers[number] for number in stop.exercises}
    minutes = COMPUTING + sum(
        value
        for (section, title), value in parts.items()
        if (title in chosen if section == "Exercises" else section not in stop.without)
    )
    link = f"[{title_of(lesson)}]({lesson.stem}.ipynb)"
    return rounded(minutes), (link, ", ".join(stop.without), ", ".join(stop.exercises))


def with_plans(text: str, root: Path | None = None) -> str:
    """The page's text with both plans between their markers; raises LessonError when these are missing."""
    for name, plan in plans(root).items():
        text = between(text, name, plan_table(plan, root), PAGE)
    return text


def between(text: str, name: str, table: str, file: str) -> str:
    """A page's text with a table between its markers; raises LessonError when they are missing."""
    begin, end = text.find(f"<!-- {name} -->"), text.find(f"<!-- /{name} -->")
    if begin < 0 or end < begin:
        raise LessonError(f"{file} needs the lines <!-- {name} --> and <!-- /{name} -->, in this order.")
    return f"{text[:begin]}<!-- {name} -->\n{table}{text[end:]}"


def write_plans(root: Path | None = None) -> Path | None:
    """Writes the plans into TEACHING.md among the lessons; returns its path, None where there is no such page."""
    path = (root or lessons_root()) / PAGE
    if not path.is_file():
        return None
    text = with_plans(path.read_text(encoding="utf-8"), root)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
