"""The lessons that exist: executed, within the rules, those of their sources, and listed in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from facekit.course import build, rules
from facekit.course.folders import find_lessons

ROOT = Path(__file__).resolve().parents[2]
LESSONS = find_lessons()
NOTEBOOKS = [path for lesson in LESSONS for path in (lesson.learner, lesson.solutions)]


def name(path: Path) -> str:
    return path.relative_to(ROOT / "lessons").as_posix()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_rules(path):
    assert path.is_file(), f"build it: python -m facekit lessons build {path.stem[:2]}"
    found = rules.problems(path)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_the_notebooks_are_those_of_the_source(lesson):
    build.check_lessons([lesson.number])


def test_no_notebook_without_source():
    stored = {path.stem for folder in ("", "solutions") for path in (ROOT / "lessons" / folder).glob("*.ipynb")}
    assert stored <= {lesson.stem for lesson in LESSONS}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "lessons" / "source").glob("*/*.svg")), ids=lambda path: path.parent.name
)
def test_drawn_figures_are_small_titled_and_need_nothing_else(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) <= 60_000 and "<title" in text and "viewBox" in text
    assert not re.search(r"<script|<foreignObject|\bon\w+=|@import|(?:href|src)=\"(?!#)", text)


def test_the_readme_lists_the_lessons():
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md to compare with")
    text = readme.read_text(encoding="utf-8")
    assert build.with_table(text, build.readme_table()) == text, "python -m facekit lessons table --write true"


# Lesson 02 sorts what later lessons build, and says what it borrows from 03.
BORROWED = {("02", "03")}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_what_a_lesson_needs_comes_before_it(lesson):
    cells = rules.section(build.read_notebook(lesson.learner), "What you need")
    needed = re.findall(r"\((\d\d)_\w+\.ipynb", "\n".join(cell.source for cell in cells))
    later = [number for number in needed if number >= lesson.number and (lesson.number, number) not in BORROWED]
    assert not later, f"lesson {lesson.number} needs {later}, which come after it"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_what_quizzes_guides_and_checks_name_exists(lesson):
    """Texts outside the notebook's Markdown: lessons, exercises and files of lessons that they speak of."""
    numbers = {each.number for each in LESSONS}
    for path in sorted(lesson.folder.glob("*.*")):
        text = path.read_text(encoding="utf-8") if path.suffix in (".json", ".py", ".svg") else ""
        assert {number for number in re.findall(r"\b[Ll]essons? (\d\d)\b", text)} <= numbers, path
        for name in re.findall(r"\b(\d\d_\w+)\.ipynb", text):
            assert (ROOT / "lessons" / f"{name}.ipynb").is_file(), f"{path}: {name}"


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("lessons/*.md")]),
    ids=lambda path: path.name,
)
def test_links_of_pages_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target
