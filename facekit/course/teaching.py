"""What fits into half a day or a day with a class: which parts of which lessons, with their minutes by the one rule.

lessons/TEACHING.md has both plans as tables, made from what is said here and from the lessons' sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facekit.course.folders import find_lessons, lessons_root
from facekit.course.frame import COMPUTING, minutes_of_source, rounded, title_of
from facekit.errors import LessonError

PAGE = "TEACHING.md"


@dataclass(frozen=True)
class Stop:
    """A lesson in a plan. without: sections that are run and not read. exercises: those done in the room."""

    lesson: str
    without: tuple[str, ...] = ()
    exercises: tuple[str, ...] = ()


@dataclass(frozen=True)
class Break:
    """Minutes without a lesson, and what for."""

    minutes: int
    what: str


Plan = Sequence[Stop | Break]
HALF_DAY: Plan = (
    Break(10, "Arrive: every machine shows lesson 00, and its first cell says OK"),
    Stop("00", ("Look at the result", "What goes wrong", "Quiz"), ("00.2",)),
    Stop("01", ("What goes wrong", "Quiz"), ("01.1",)),
    Break(15, "Pause"),
    Stop("03", ("What goes wrong",), ("03.3",)),
    Stop("12", ("Build it", "Run it", "What goes wrong", "Quiz")),
    Break(10, "What next: the flow chart of lesson 02, with one case of the class"),
)
FULL_DAY: Plan = (
    *HALF_DAY[:-2],
    Break(60, "Lunch"),
    Stop("04", ("What goes wrong", "Quiz"), ("04.1",)),
    Stop("05", ("Build it", "What goes wrong", "Quiz"), ("05.1",)),
    Break(15, "Pause"),
    Stop("06", ("What goes wrong",), ("06.1",)),
    *HALF_DAY[-2:],
)
PLANS = {"half day": HALF_DAY, "full day": FULL_DAY}


def plan_table(plan: Plan, root: Path | None = None) -> str:
    """The plan as a Markdown table; raises LessonError for a lesson, section or exercise that there is not."""
    rows = ["| from | minutes | what | run, but left for home | exercises in the room |", "|---|---|---|---|---|"]
    clock = 0
    for stop in plan:
        if isinstance(stop, Break):
            spent, cells = stop.minutes, (stop.what, "", "")
        else:
            spent, cells = _lesson(stop, root)
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
                f"lesson {stop.lesson} has no {missing[0]!r}, which the plan in facekit/course/teaching.py names; "
                "change the plan."
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
    for name, plan in PLANS.items():
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
    from facekit.files import atomic_path

    path = (root or lessons_root()) / PAGE
    if not path.is_file():
        return None
    text = with_plans(path.read_text(encoding="utf-8"), root)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
