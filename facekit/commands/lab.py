"""`python -m facekit lab`: the lessons in JupyterLab."""

from __future__ import annotations

from facekit.course.doctor import lab

__all__ = ["lab"]
