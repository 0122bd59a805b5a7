"""The tasks of this project: what faces are asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.tasks.task import KINDS, Task

AGE_BANDS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")

# FairFace's columns (Kärkkäinen & Joo, WACV 2021): labels as annotators perceived them.
GENDER = Task("gender", "multiclass", ("Male", "Female"))
RACE = Task("race", "multiclass", RACES)
AGE_BAND = Task("age", "multiclass", AGE_BANDS, midpoints=(1, 6, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 75))

# Rendered portraits have a skin tone (Monk scale, 10 steps), never a race; the error is counted in steps.
SKIN_TONE = Task("skin_tone", "multiclass", tuple(str(step) for step in range(1, 11)), midpoints=tuple(range(1, 11)))
EXPRESSION = Task("expression", "multiclass", ("neutral", "smile", "surprise", "frown"))
GLASSES = Task("glasses", "multiclass", ("no", "yes"))


def age_band(years: pd.Series) -> pd.Series:
    """Ages in years to FairFace's nine bands (text); missing stays missing."""
    edges = [-np.inf, 3, 10, 20, 30, 40, 50, 60, 70, np.inf]
    return pd.cut(years, edges, right=False, labels=AGE_BANDS).astype(object)


def age_in_years(kind: str = "expectation", oldest: int = 100, name: str = "age_years") -> Task:
    """Age in years: a class for every year from 0 to `oldest` (older counts as `oldest`), or a regression in decades.

    As an expectation it is DEX with its 101 classes (Rothe et al. 2018).
    """
    if not KINDS[kind].needs_classes:
        return Task(name, kind, scale=10.0)
    years = range(oldest + 1)
    return Task(name, kind, tuple(map(str, years)), tuple(map(float, years)))
