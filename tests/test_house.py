"""Where things live: what belongs to one lesson lies in its folder, and the package knows no lesson by number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("show", "course", "experiments", "evaluation")  # where a lesson's furniture would gather
# Names that one lesson uses today and that are nobody's furniture.
GENERAL = {
    "OwnPhoto": "a trained classifier on a photo of one's own: of the course, not of the lesson that shows it first",
    "confusion_matrix": "a metric",
    "calibration_by_group": "a score by group, beside the others of its module",
    "traded": "what thresholds give, beside the function that fits them",
    "forgetting": "what a tuned network has lost: studies measure parts of it",
    "bench_sharing": "a benchmark, which `python -m benchmarks` finds by its path",
}


def identifiers(tree: ast.AST) -> set[str]:
    """Names, attributes and imported names that occur in code."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name.split(".")[-1])
    return found


def parsed(*folders: str) -> dict[Path, ast.Module]:
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def used_by_one_lesson(package: dict[Path, ast.Module], lessons: dict[str, set[str]]) -> dict[str, str]:
    """Public functions and classes of PARTS that one lesson mentions and no other code of the package, to its number.

    package: modules by path. lessons: by number, the identifiers of a lesson's own code.
    """
    used = {path: identifiers(tree) for path, tree in package.items()}
    found = {}
    for path, tree in package.items():
        relative = path.relative_to(ROOT).with_suffix("").parts
        if relative[:1] != ("facekit",) or relative[1] not in PARTS:
            continue
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            own = set().union(*(identifiers(other) for other in tree.body if other is not node))
            if node.name in own or any(node.name in names for other, names in used.items() if other != path):
                continue
            mentions = [number for number, names in lessons.items() if node.name in names]
            if len(mentions) == 1:
                found[node.name] = mentions[0]
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    lessons: dict[str, set[str]] = {}
    for path, tree in parsed("lessons/source").items():
        lessons.setdefault(path.parent.name[:2], set()).update(identifiers(tree))
    lessons.pop("_t")  # the template is no lesson
    return used_by_one_lesson(parsed("facekit", "benchmarks"), lessons)


def test_what_one_lesson_uses_lies_in_its_folder(found):
    misplaced = {name: number for name, number in found.items() if name not in GENERAL}
    assert not misplaced, f"belongs to its lesson's figures.py or exercises.py: {misplaced}"


def test_no_exception_outlives_its_reason(found):
    assert set(GENERAL) <= set(found), "used elsewhere by now: take it off the list"


def test_the_law_sees_an_offence_and_nothing_else():
    text = "def one(): one()\ndef two(): helper()\ndef helper(): ...\ndef _own(): ...\nclass Three: ..."
    package = {ROOT / "facekit" / "show" / "x.py": ast.parse(text)}
    assert used_by_one_lesson(package, {"01": {"one", "two", "helper", "_own"}, "02": {"two", "Three"}}) == {
        "one": "01",
        "Three": "02",
    }
    package[ROOT / "facekit" / "cli.py"] = ast.parse("from facekit.show.x import Three\nx.one()")
    assert used_by_one_lesson(package, {"01": {"one"}, "02": {"Three"}}) == {}


def test_a_file_with_a_lessons_number_lies_in_that_lessons_folder():
    stems = [path.parent.name for path in (ROOT / "lessons" / "source").glob("[0-9]*/lesson.py")]
    homes = {f"lessons/source/{stem}/" for stem in stems}
    homes |= {f"lessons/{folder}{stem}.ipynb" for stem in stems for folder in ("", "solutions/")}
    homes |= {f"tests/lessons/test_{stem}.py" for stem in stems}
    numbered = re.compile(rf"(?:^|[_/])(?:{'|'.join(stem[:2] for stem in stems)})(?:[_.]|$)")
    astray = []
    for folder in ("facekit", "lessons", "tests", "datasets", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and numbered.search(name) and "." not in name.split("/")[-2][:1]:
                astray += [] if name.startswith(tuple(homes)) else [name]
    astray = [name for name in astray if "__pycache__" not in name]
    assert not astray, f"carries a lesson's number outside of its folder: {astray}"
