"""A place to work: copies of the learner's notebooks, in a folder of their own, that an upgrade of the course respects.

The folder (`work` beside `lessons`, not tracked) holds what a learner opens and what that links to:

    03_feature_extraction.ipynb       the copy; outputs to read, but none of exercises and quizzes
    03_feature_extraction (new).ipynb the lesson of a newer course, where the copy has been worked in
    files/  glossary.md               what the notebooks show and link to
    earlier/                          copies that gave way, with the moment when they did
    .course.json                      what was given, so that it can be told from what was worked in
    .progress.json                    the exercises that were correct (tally.py)

Nothing that a learner wrote is changed or deleted: it stays where it is, or is moved to `earlier` and named.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from facekit.course.folders import Lesson, find_lessons, lessons_root
from facekit.errors import ConfigError, LessonError, OutputError
from facekit.files import alone, atomic_path, pasted_path, read_json, sha256_of_file, told, write_json

STATE, LOCK, EARLIER, FILES = ".course.json", ".course.lock", "earlier", "files"
# Sections whose outputs would say what is asked, once an author has run them.
ASKED = ("Exercises", "Quiz")
LINK = re.compile(r"(\]\(|\b(?:src|href)=\")([^)\s\"]+)")
REMEDY = "name another folder: python -m facekit lab --work FOLDER (make lab WORK=FOLDER)"


def work_folder(named: Path | str | None = None) -> Path:
    """The folder to work in: the named one, else `work` beside the lessons. Raises ConfigError where it cannot be one.

    It neither lies among the lessons nor holds them: those are tracked, and a test compares them with their sources.
    """
    lessons = lessons_root()
    folder = pasted_path(named) if named else lessons.parent / "work"
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a link that leads nowhere" if folder.is_symlink() else "a file"
        raise ConfigError(f"{folder} is {what}, not a folder to work in; move it away, or {REMEDY}.")
    inside, course = folder.resolve(), lessons.resolve()
    if inside.is_relative_to(course) or course.is_relative_to(inside):
        raise ConfigError(f"{folder} is the course's own folder, which stays as it is; {REMEDY}.")
    return folder


def found_work() -> Path | None:
    """The folder to work in that this process runs in: the working folder or one above it; None elsewhere."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / STATE).is_file()), None)


def open_work(folder: Path) -> list[str]:
    """Makes or renews the copies in the folder; returns what a learner should know of it, a sentence each.

    A copy that nobody worked in is replaced by the course's lesson of today. One that was worked in stays, and the new
    one is laid beside it. Raises OutputError where the folder cannot be written.
    """
    with _at_work(folder) as (given, said):
        offered = _offered(find_lessons())
        for name in [name for name in given if re.sub(r" \(new( \d+)?\)(?=\.\w+$)", "", name) not in offered]:
            path, was = folder / name, given.pop(name)
            if _untouched(path, was):
                said.append(f"{name} is no longer part of the course; it is kept as {set_aside(path, folder)}.")
        for name, content in offered.items():
            said += _give(folder, given, name, content)
        return said


def reset(number: str, folder: Path) -> list[str]:
    """Moves the copies of a lesson to `earlier` and lays a new one in their place; returns what became of each.

    Raises LessonError where there is no such lesson, OutputError where the folder cannot be written.
    """
    [lesson] = find_lessons([number])
    with _at_work(folder) as (given, said):
        for path in sorted(folder.glob(f"{lesson.stem}*.ipynb")):
            if re.fullmatch(rf"{lesson.stem}( \(new( \d+)?\))?", path.stem):
                said.append(f"{path.name} is kept as {set_aside(path, folder)}.")
                given.pop(path.name, None)
        for name, content in _offered([lesson]).items():
            said += _give(folder, given, name, content)
        return [*said, f"{lesson.learner.name} is new."]


def left_last(folder: Path) -> str:
    """The name of the notebook that was worked in last, else of the first lesson."""
    given = _given(folder, [])
    lessons = [path for path in folder.glob("*.ipynb") if not path.name.startswith(".")]
    touched = [path for path in lessons if given.get(path.name, {}).get("sha256") != sha256_of_file(path)]
    return max(touched, key=lambda path: path.stat().st_mtime).name if touched else find_lessons()[0].learner.name


# --- what the course offers -----------------------------------------------------------------------------------------


def _offered(lessons: list[Lesson]) -> dict[str, bytes]:
    """The files for these lessons, by name in the folder: notebooks, and what they show and link to."""
    files: dict[str, bytes] = {}
    for lesson in lessons:
        if not lesson.learner.is_file():
            raise LessonError(f"{lesson.learner.name} is missing; build it: python -m facekit lessons build")
        notebook, linked = learners_copy(json.loads(lesson.learner.read_text(encoding="utf-8")), lesson)
        files |= {name: path.read_bytes() for name, path in linked.items()}
        files[lesson.learner.name] = (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def learners_copy(notebook: dict, lesson: Lesson) -> tuple[dict, dict[str, Path]]:
    """A lesson's notebook as a learner begins it, and the files that it links to, by their names in the folder.

    Outputs stay, to be read before anything runs, but for those of exercises and quizzes, and of what differs for each
    learner; no cell looks as if it had been run here.
    """
    linked: dict[str, Path] = {}

    def moved(match: re.Match) -> str:
        target, hash_, anchor = match[2].partition("#")
        path = lesson.root / target
        if re.match(r"[a-z]+:|/", target) or path.suffix == ".ipynb" or not path.is_file():
            return match[0]
        if path.parent == lesson.root:
            name = path.name
        elif path.resolve().is_relative_to(lesson.folder.resolve()):
            name = f"{FILES}/{lesson.number}_{path.name}"
        else:
            name = f"{FILES}/{path.name}"
        linked[name] = path
        return match[1] + name + hash_ + anchor

    section = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            if heading := re.match(r"## +(.+)", source):
                section = heading[1].strip()
            cell["source"] = LINK.sub(moved, source).splitlines(keepends=True)
            continue
        if section in ASKED or "exercise" in cell["metadata"].get("tags", []) or "progress(" in source:
            cell["outputs"] = []
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = None
        cell["execution_count"] = None
    return notebook, linked


# --- what is in the folder ------------------------------------------------------------------------------------------


@contextmanager
def _at_work(folder: Path) -> Iterator[tuple[dict[str, dict[str, str]], list[str]]]:
    """Yields what was given, which is written back at the end, and the list of what is to be said; one at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / LOCK, wait=True):
            said: list[str] = []
            given = _given(folder, said)
            before = json.dumps(given)
            try:
                yield given, said
            finally:  # also of what was given before something failed
                if json.dumps(given) != before or not (folder / STATE).is_file():
                    write_json(folder / STATE, given)
    except OSError as error:
        raise OutputError(f"{told(error, folder)}; the lessons cannot be laid there: {REMEDY}.") from error


def _given(folder: Path, said: list[str]) -> dict[str, dict[str, str]]:
    """What was given, by name: the `sha256` of the file, and `cells`, that of what a learner may change.

    A file that cannot be read is moved aside and named; then nothing counts as given, so that nothing is replaced.
    """
    try:
        given = read_json(folder / STATE, LessonError, "", {})
        if all(isinstance(each, dict) and {"sha256", "cells"} <= each.keys() for each in given.values()):
            return given
    except FileNotFoundError:
        return {}
    except LessonError:
        pass
    aside = set_aside(folder / STATE, folder)
    said.append(f"{STATE} was damaged and is kept as {aside}; what differs from its lesson counts as worked in.")
    return {}


def _give(folder: Path, given: dict[str, dict[str, str]], name: str, content: bytes) -> Iterator[str]:
    """Puts a file of the course into the folder; yields what a learner should know."""
    wanted, path = {"sha256": hashlib.sha256(content).hexdigest(), "cells": _cells(content)}, folder / name
    same_lesson = re.compile(re.escape(path.stem) + r"( \(new( \d+)?\))?" + re.escape(path.suffix))
    there = [each for each in path.parent.glob("*") if same_lesson.fullmatch(each.name)]
    for each in there:
        key = each.relative_to(folder).as_posix()
        if given.get(key) == wanted or (key not in given and _is(each, wanted["cells"])):
            given[key] = wanted  # it is there already, worked in or not; or it is, and what was given is not known
            return
    new = path

    def free(place: Path) -> bool:
        return not os.path.lexists(place) or _untouched(place, given.get(place.relative_to(folder).as_posix()))

    if not free(path):
        beside = (path.with_stem(f"{path.stem} (new{f' {n}' if n > 1 else ''})") for n in range(1, 1000))
        new = next(filter(free, beside))
        yield (
            f"{name} stays as you left it; the course has a newer one, {new.name}."
            + (f" To go on with that: python -m facekit lessons reset {name[:2]}." if path.suffix == ".ipynb" else "")
        )
    key = new.relative_to(folder).as_posix()
    if new.is_file() and sha256_of_file(new) != given[key]["sha256"]:
        yield f"{key} was run, with nothing written into it, and is renewed; it is kept as {set_aside(new, folder)}."
    with atomic_path(new) as temporary:
        temporary.write_bytes(content)
    given[key] = wanted


def _untouched(path: Path, given: Mapping[str, str] | None) -> bool:
    """Whether a file holds what was given, apart from outputs; a link or a file not given is the learner's."""
    return given is not None and _is(path, given["cells"])


def _is(path: Path, cells: str) -> bool:
    return path.is_file() and not path.is_symlink() and _cells(path.read_bytes()) == cells


def _cells(content: bytes) -> str:
    """SHA-256 of what a learner writes in a notebook, its cells without outputs; of another file, of all of it."""
    try:
        cells = json.loads(content)["cells"]
        content = json.dumps([(cell["cell_type"], "".join(cell["source"])) for cell in cells]).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return hashlib.sha256(content).hexdigest()


def set_aside(path: Path, folder: Path) -> str:
    """Moves a file to the folder `earlier` of the folder to work in, under a name with the moment; returns the name."""
    moment = datetime.now().strftime("%Y-%m-%d %H.%M.%S")
    (folder / EARLIER).mkdir(exist_ok=True)
    stem = path.stem.lstrip(".")
    names = (f"{EARLIER}/{stem} {moment}{f' {n}' if n > 1 else ''}{path.suffix}" for n in range(1, 1000))
    name = next(name for name in names if not os.path.lexists(folder / name))
    path.rename(folder / name)
    return name


def reset_command(numbers: list[str] | None = None, work: Path | None = None) -> int:
    """Begins lessons anew: what you have done in them is moved to the folder `earlier`, and named.

    Args:
        numbers: the lessons, such as 03.
        work: the folder that you work in; `work` beside the lessons by default.

    Examples:
        python -m facekit lessons reset 03
    """
    if not numbers:
        raise ConfigError("name the lessons to begin anew, as in: python -m facekit lessons reset 03.")
    folder = work_folder(work)
    find_lessons(numbers)  # all of them are known before the first is moved
    for number in numbers:
        print(*reset(number, folder), sep="\n")
    return 0
