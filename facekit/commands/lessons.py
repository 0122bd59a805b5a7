"""`python -m facekit lessons …`: making the notebooks from their sources, and checking them."""

from __future__ import annotations


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {
        "build": "facekit.lessons.build:build_command",
        "check": "facekit.lessons.build:check_command",
        "rules": "facekit.lessons.skeleton:rules_command",
        "run": "facekit.lessons.build:run_command",
        "table": "facekit.lessons.build:table_command",
    }
