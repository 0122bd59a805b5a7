"""`python -m facekit lessons …`: making, checking and resetting notebooks, and progress."""

from __future__ import annotations

import re


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {
        "build": "facekit.course.build:build_command",
        "check": "facekit.course.build:check_command",
        "glossary": "facekit.course.terms:glossary_command",
        "progress": "facekit.course.tally:progress_command",
        "reset": "facekit.course.workspace:reset_command",
        "rules": "facekit.course.rules:rules_command",
        "run": "facekit.course.build:run_command",
        "table": "facekit.course.build:table_command",
    }


def prepare(arguments: list[str]) -> list[str]:
    """`build 03 04` as the parser wants it: it takes a list of any length only as an option."""
    return [part for text in arguments for part in (("--numbers+", text) if re.fullmatch(r"\d\d?", text) else (text,))]
