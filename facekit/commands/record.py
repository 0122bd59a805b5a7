"""`python -m facekit record …`: measuring again what lessons show as recorded on real photos."""

from __future__ import annotations

from facekit import studies


def subcommands() -> dict[str, str]:
    """Every study by its name, the model card of facenet-mini, and `show`."""
    return studies.commands() | {"card": "facekit.studies.mini:write_card", "show": "facekit.studies.runner:show"}
