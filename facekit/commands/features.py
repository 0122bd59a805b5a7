"""`python -m facekit features …`: the statistical model of FaceNet's features: fitting it, and how true it is."""

from __future__ import annotations


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {
        "fit": "facekit.studies.fidelity:fit",
        "fidelity": "facekit.studies.fidelity:fidelity",
        "datasheet": "facekit.studies.fidelity:datasheet_command",
    }
