"""The plot of lesson 04: every stage and epoch of a plan."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from facekit.course import lesson
from facekit.models.staged import Staged
from facekit.training.plans import Phase, Plan

FIGURES = lesson("04").figures


def test_a_plan_is_drawn_epoch_by_epoch():
    phases = (Phase("probe", 2, {"heads": 1e-2}), Phase("all", 1, {"stem": 1e-5, "heads": 1e-3}))
    axis = FIGURES.plan_rates(Plan("two", phases).table(Stages()), "two").axes[0]
    shades = axis.images[0].get_array().filled(np.nan)
    assert np.allclose(shades, [[np.nan, np.nan, -5], [-2, -2, -3]], equal_nan=True)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["stem", "heads"]
    texts = ["frozen", "frozen", "1e-05", "1e-02", "1e-02", "1e-03"]
    assert [text.get_text() for text in axis.texts] == texts


class Stages(Staged):
    """Two stages without a parameter."""

    stages: ClassVar[dict] = {"stem": [], "heads": []}
