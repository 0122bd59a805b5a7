"""The gate says what fails, and notices a number of type errors that grew as well as one that could be lowered."""

from __future__ import annotations

import tomllib
from pathlib import Path

import gate
import yaml

ROOT = Path(__file__).resolve().parents[1]

OUTPUT = """facekit/show/plots.py:3: error: Value of type "object" is not indexable  [index]
facekit/show/plots.py:9: error: Need type annotation for "a"  [var-annotated]
facekit/show/plots.py:9: note: See the manual
facekit\\data\\sets.py:4: error: Missing return statement  [return]
facekit/records.py:1: error: Name "x" is not defined  [name-defined]
"""


def test_errors_are_counted_by_part_and_notes_are_not():
    assert gate.errors_by_part(OUTPUT) == {"show": 2, "data": 1, "records": 1}
    assert not gate.errors_by_part("")


def test_no_more_and_no_fewer_errors_than_allowed():
    assert not gate.complaints({"show": 2}, {"show": 2})
    assert gate.complaints({"show": 3}, {"show": 2}) == ["show: 3 errors, 2 are allowed"]
    assert gate.complaints({"records": 1}, {}) == ["records: 1 errors, 0 are allowed"]
    [lower] = gate.complaints({"show": 1}, {"show": 2})
    assert "set it to 1" in lower
    [gone] = gate.complaints({}, {"show": 2})
    assert "delete its line" in gone


def test_the_typed_parts_are_allowed_none_whatever_the_table_says():
    assert gate.complaints({"data": 1}, {"data": 5})
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert not set(allowed.get("facekit", {}).get("type-errors", {})) & set(gate.TYPED)


def test_an_unknown_step_is_named(capsys):
    assert gate.main(["typos"]) == 2
    assert "typos" in capsys.readouterr().out


def test_the_hooks_are_the_steps_of_the_gate():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local", "the tools of the environment: the same versions, and no network"
    assert [hook["entry"].split()[-2:] for hook in repository["hooks"]] == [
        ["tests/gate.py", step] for step in gate.STEPS
    ]
