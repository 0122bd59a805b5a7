"""`python -m facekit features …`: the statistical model of FaceNet's features: fitting it, and how true it is."""

from __future__ import annotations


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {
        "fit": "facekit.feature_card:fit_command",
        "fidelity": "facekit.feature_card:fidelity_command",
        "datasheet": "facekit.feature_card:datasheet_command",
    }
