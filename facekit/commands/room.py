"""`python -m facekit room`: once with a network, what machines of a room then install without one."""

from __future__ import annotations

from facekit.course.room import room

__all__ = ["room"]
