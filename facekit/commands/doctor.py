"""`python -m facekit doctor`: what works on this machine, and the line to type for what does not."""

from __future__ import annotations

from facekit.course.doctor import doctor

__all__ = ["doctor"]
