"""Exercises of lesson 12, fairness audit."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.course.exercises import as_tensor, define_experiment, define_sorting, define_values

_TABLE = pd.DataFrame({"n": [400, 350, 12, 90], "value": [0.9, 0.84, 0.5, 0.87]}, list("ABCD"))
_OTHER = pd.DataFrame({"n": [30, 29, 100], "value": [0.7, 1.0, 0.75]}, list("ABC"))


def _gap(table: pd.DataFrame) -> float:
    values = table.loc[table["n"] >= 30, "value"]
    return values.max() - values.min()


_gap_between = define_values(
    "12.1",
    "The gap that may be told",
    hints=(
        'Leave out the small groups first: `table[table["n"] >= 30]`.',
        "Of the values that are left, the largest less the smallest.",
    ),
    right=[_gap],
    cases=[(_TABLE,), (_OTHER,)],
    asked="for groups of 400, 350, 12 and 90 faces",
    mistakes=[
        (lambda t: t["value"].max() - t["value"].min(), "the group of 12 faces is in it; its value means nothing."),
        (lambda t: t.loc[t["n"] >= 30, "value"].min(), "this is the worst group, not the gap."),
        (lambda t: _gap(t[t["n"] > 30]), "a group of exactly 30 faces counts."),
        (lambda t: t.loc[t["n"] >= 30, "value"].std(), "this is a standard deviation."),
        (lambda t: -_gap(t), "a gap is 0 or more: the largest less the smallest."),
    ],
    others=[(lambda t: 0.0, "expected 0.06, got 0")],
    praise="0.06: the group of 12 faces at 0.5 says nothing yet, and would have made it 0.4.",
)


def _step(q: np.ndarray, losses: np.ndarray, step: float) -> np.ndarray:
    grown = q * np.exp(step * losses)
    return grown / grown.sum()


_one_step = define_values(
    "12.2",
    "One step of the groups' weights",
    hints=("Multiply each q by exp(step · loss of its group).", "Then divide by the sum."),
    right=[_step],
    cases=[
        (np.array([0.5, 0.5]), np.array([0.2, 1.2]), 1.0),
        (np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.5, 0.5]), 0.1),
        (np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.9, 2.0]), 0.0),
    ],
    asked="for q = 0.5, 0.5, losses 0.2, 1.2 and step 1",
    mistakes=[
        (lambda q, loss, step: q * np.exp(step * loss), "these do not sum to 1."),
        (lambda q, loss, step: _step(q, -loss, step), "the group with the lower loss gains; it must lose."),
        (lambda q, loss, step: q * loss / (q * loss).sum(), "exp is missing; a loss of 0 would end a group for good."),
        (lambda q, loss, step: _step(np.ones_like(q), loss, step), "the old q is forgotten: multiply it."),
        (lambda q, loss, step: q, "nothing changed."),
    ],
    others=[(lambda q, loss, step: q[:1], "shape")],
    read=as_tensor,
    praise="0.27 and 0.73: after one large step the harder group has nearly three quarters of the weight.",
)

_where = define_sorting(
    "12.3",
    "What to do?",
    hints=(
        "First: may it be built at all? Could people be asked, can they refuse, is the answer in a face?",
        "Then: is it the data, or is it only how sure the answers are?",
        "A group that is missing from the data is found by collecting, before training.",
    ),
    kinds=("before training", "after training", "not at all"),
    cases={
        "door": ("before training", "the harm is made by the data, so mend the data"),
        "sure": ("after training", "a temperature changes how sure, and no answer"),
        "hiring": ("not at all", "a face does not hold it, and nobody who wants the job can refuse"),
        "crowd": ("not at all", "people are sorted by race, were not asked and cannot object"),
    },
    ask="May it be built? If so, what makes the harm: the data, or how sure the answers are?",
    others=[{"door": "after training"}, {"sure": "before training"}, {"hiring": "before training"}],
)

_experiment = define_experiment(
    "12.4",
    "Your own experiment",
    hints=(
        "A function of `seed` that returns {name: accuracy of the worst group}; begin with one seed.",
        "`balanced` is the baseline: `linear_probe(rows, [gender], 300, balanced_weights(rows, race))`.",
        "`over_seeds(my_function, seeds=range(3))`; the solution tries a larger step of group DRO.",
    ),
    baseline="balanced",
)
