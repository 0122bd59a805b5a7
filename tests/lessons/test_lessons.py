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
