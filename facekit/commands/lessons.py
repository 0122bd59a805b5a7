"""`python -m facekit lessons …`: making the notebooks from their sources, and checking them."""

from __future__ import annotations

import re


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {
        "build": "facekit.lessons.build:build_command",
        "check": "facekit.lessons.build:check_command",
        "rules": "facekit.lessons.skeleton:rules_command",
        "run": "facekit.lessons.build:run_command",
        "table": "facekit.lessons.build:table_command",
    }


def prepare(arguments: list[str]) -> list[str]:
    """`build 03 04` as the parser wants it: it takes a list of any length only as an option."""
    return [part for text in arguments for part in (("--numbers+", text) if re.fullmatch(r"\d\d?", text) else (text,))]
