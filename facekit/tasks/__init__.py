"""What is predicted: tasks, the kinds in which they are asked (one file each), and those of faces.

Loads no torch: what only reads or draws labels does not wait for it.
"""

from __future__ import annotations

from facekit.tasks.faces import (
    AGE_BAND,
    AGE_BANDS,
    EXPRESSION,
    GENDER,
    GLASSES,
    RACE,
    RACES,
    SKIN_TONE,
    age_band,
    age_in_years,
)
from facekit.tasks.task import KINDS, MISSING, Joint, Task, encode_all, nearest_class

__all__ = [
    "AGE_BAND",
    "AGE_BANDS",
    "EXPRESSION",
    "GENDER",
    "GLASSES",
    "KINDS",
    "MISSING",
    "RACE",
    "RACES",
    "SKIN_TONE",
    "Joint",
    "Task",
    "age_band",
    "age_in_years",
    "encode_all",
    "nearest_class",
]
