"""facekit: transfer learning on faces, the package behind the course."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LATER = {"load": "facekit.answers.model"}  # found when it is asked for: importing facekit alone loads nothing


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
