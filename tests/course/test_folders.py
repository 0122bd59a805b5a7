"""A lesson's folder is found by number from wherever the notebook lies, and what is in it is loaded by file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from facekit.course import folders, lesson
from facekit.errors import LessonError


@pytest.fixture
def course(tmp_path):
    """A course of one lesson, 97_own, with a figures.py."""
    made = folders.Lesson(tmp_path / "course" / "lessons", "97_own")
    made.folder.mkdir(parents=True)
    made.source.touch()
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
    text += "@dataclass\nclass Kept:\n    count: int = 0\n\nKEPT = Kept()\n"
    (made.folder / "figures.py").write_text(text, encoding="utf-8")
    return made


@pytest.mark.parametrize("place", ["lessons", "lessons/solutions", "lessons/source/97_own", "runs/mine", "."])
def test_a_notebook_anywhere_in_the_course_finds_its_lesson(course, monkeypatch, place):
    folder = course.root.parent / place
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    assert lesson("97") == course
    assert lesson("97").figures is lesson("97").figures and lesson("97").figures.KEPT.count == 0


def test_elsewhere_it_is_the_course_that_the_package_lies_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lesson("03").root == folders.LESSONS and lesson("03").figures.confusion


def test_what_is_not_there_is_named(course, tmp_path, monkeypatch):
    with pytest.raises(LessonError, match="no lesson '77'.*there are 00, 01"):
        lesson("77")
    with pytest.raises(LessonError, match="lesson 97 has no exercises.py; it would be source/97_own/exercises.py"):
        course.load("exercises")
    monkeypatch.setattr(folders, "LESSONS", tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LessonError, match="put the notebook into the folder of the course"):
        lesson("03")
    with pytest.raises(LessonError, match="in a checkout of the course"):
        folders.find_lessons()


def test_figures_of_two_lessons_do_not_meet(course, tmp_path):
    other = folders.Lesson(tmp_path / "other", "97_own")
    other.folder.mkdir(parents=True)
    (other.folder / "figures.py").write_text("KEPT = 1", encoding="utf-8")
    assert other.figures.KEPT == 1 and course.figures.KEPT != 1


def test_a_module_that_fails_is_tried_again(course):
    path = course.folder / "exercises.py"
    path.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        course.load("exercises")
    path.write_text("x = 1", encoding="utf-8")
    assert course.load("exercises").x == 1


def test_the_course_and_a_lessons_place_load_nothing_heavy():
    code = "import sys; from facekit.course import lesson; lesson('03'); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
