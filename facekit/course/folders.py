"""Where a lesson lies: its folder `lessons/source/NN_slug/`, and the two notebooks that are made from it.

    lesson.py     what the author edits: the source of both notebooks
    exercises.py  the exercises that check themselves
    quiz.json     the quiz
    figure.svg    the drawn figure
    figures.py    plots and widgets of this lesson alone (may be missing)

Nothing of it is imported by name: `lesson("03").figures` loads the file, from the folder that belongs to the notebook.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from facekit.errors import LessonError

LESSONS = Path(__file__).resolve().parents[2] / "lessons"  # of the checkout that this package lies in


@dataclass(frozen=True)
class Lesson:
    """A lesson's folder and notebooks; `root` is the folder `lessons`, `stem` is NN_slug."""

    root: Path
    stem: str

    @property
    def number(self) -> str:
        """'03' of 03_feature_extraction."""
        return self.stem[:2]

    @property
    def folder(self) -> Path:
        """All that belongs to this lesson and to no other."""
        return self.root / "source" / self.stem

    @property
    def source(self) -> Path:
        """The script that the author edits."""
        return self.folder / "lesson.py"

    @property
    def learner(self) -> Path:
        """The notebook that the learner opens."""
        return self.root / f"{self.stem}.ipynb"

    @property
    def solutions(self) -> Path:
        """The same notebook with solutions."""
        return self.root / "solutions" / f"{self.stem}.ipynb"

    @property
    def figures(self) -> ModuleType:
        """The module figures.py: the lesson's own plots and widgets."""
        return self.load("figures")

    def load(self, name: str) -> ModuleType:
        """A module of the lesson's folder, loaded once; raises LessonError where there is none."""
        path = self.folder / f"{name}.py"
        if not path.is_file():
            raise LessonError(f"lesson {self.number} has no {path.name}; it would be source/{self.stem}/{path.name}.")
        return _load(path.resolve())


@cache
def _load(path: Path) -> ModuleType:
    """The module in a file, under a name made of its whole path, so that equal names of two lessons do not clash."""
    name = re.sub(r"\W", "_", str(path.with_suffix("")))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # the file is there, and its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up while they are made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def lesson(number: str) -> Lesson:
    """The lesson with this number ('03'): of the course that the working folder lies in, else of the package's own.

    So a notebook finds its lesson from `lessons`, from `lessons/solutions`, and as a copy anywhere in the course.
    Raises LessonError where there is no such lesson.
    """
    here = Path.cwd()
    known: dict[str, Lesson] = {}
    for root in (LESSONS, *(folder / "lessons" for folder in (*reversed(here.parents), here))):
        if (root / "source").is_dir():
            known |= {each.number: each for each in find_lessons(root=root)}
    if number not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "put the notebook into the folder of the course"
        raise LessonError(f"no lesson {number!r} in lessons/source of {here} or of a folder above it; {there}.")
    return known[number]


def lessons_root() -> Path:
    """The folder `lessons` beside the package, else in the working folder; raises LessonError where there is none."""
    for folder in (LESSONS, Path.cwd() / "lessons"):
        if (folder / "source").is_dir():
            return folder
    raise LessonError("no folder `lessons` with their sources here; run this in a checkout of the course.")


def find_lessons(numbers: Sequence[int | str] | None = None, root: Path | None = None) -> list[Lesson]:
    """The lessons that have a source, or those with the given numbers; raises LessonError for an unknown number.

    A folder whose name begins with `_`, such as `_template`, is no lesson.
    """
    root = root or lessons_root()
    stems = sorted(path.parent.name for path in root.glob("source/[!_]*/lesson.py"))
    for stem in stems:
        if not re.fullmatch(r"\d\d_[a-z0-9_]+", stem):
            raise LessonError(f"source {stem}: a lesson's folder is named NN_slug, as in 03_feature_extraction.")
    lessons = {stem[:2]: Lesson(root, stem) for stem in stems}
    if len(lessons) < len(stems):
        raise LessonError(f"two sources in {root / 'source'} have the same number; give one of them another.")
    if numbers is None:
        return list(lessons.values())
    wanted = [str(number).zfill(2) for number in numbers]
    for number in wanted:
        if number not in lessons:
            raise LessonError(f"no source for lesson {number}; there are {', '.join(lessons) or 'none'}.")
    return [lessons[number] for number in wanted]
