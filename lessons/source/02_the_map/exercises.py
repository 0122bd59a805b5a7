"""Exercises of lesson 02, the map."""

from __future__ import annotations

import numpy as np

from facekit.course.exercises import as_number, as_text, define, require

KINDS = ("multi-task", "self-taught", "domain adaptation", "sample selection")
CASES = {
    "age": ("multi-task", "both have labels, and they ask different things of the same kind of faces"),
    "sketch": (
        "domain adaptation",
        "the task is the same, the drawings have no labels, and they are another kind of input",
    ),
    "archive": ("self-taught", "the archive has no labels, the few that there are belong to the target"),
    "survey": ("sample selection", "the task and the kind of photo are the same; only who was photographed differs"),
}


def _cases(**changed: str) -> dict[str, str]:
    """The right answers, some of them changed."""
    return {case: kind for case, (kind, _) in CASES.items()} | changed


@define(
    "02.1",
    "Which kind is it?",
    hints=(
        "Ask first where the labels are: in the source, in the target, in both?",
        "Labels in both: several tasks. Only in the target: features are learnt without labels first.",
        "Only in the source: is the target another kind of picture, or the same kind with other shares of people?",
    ),
    right=lambda: [_cases(), _cases(age="Multi-Task ")],
    wrong=lambda: [
        (_cases(sketch="sample selection"), "sketch"),
        (_cases(survey="domain adaptation"), "survey"),
        (_cases(archive="multi-task"), "archive"),
        (_cases(age="transfer"), "is none of"),
        ({"age": "multi-task"}, "no answer for"),
        (["multi-task"], "dictionary"),
    ],
)
def _which_kind(answer):
    require(isinstance(answer, dict), "expected the dictionary with an answer for every case.")
    for case, (kind, _) in CASES.items():
        require(case in answer, f"there is no answer for {case!r}.")
        found = as_text(answer[case]).lower()
        require(found in KINDS, f"{case}: {found!r} is none of {', '.join(KINDS)}.")
        require(found == kind, f"{case}: not {found}. Where are the labels, and what differs?")
    return "; ".join(f"{case}: {why}" for case, (_, why) in CASES.items()) + "."


@define(
    "02.2",
    "From a probability to a weight",
    hints=(
        "With as many source as target rows, a face with p = 0.5 is as frequent in one as in the other: weight 1.",
        "The odds p / (1 - p) say how many target rows there are for each source row that looks like this.",
        "Twice as many target rows double the odds, and no face is more frequent: take n_target / n_source out again.",
    ),
    right=lambda: [
        lambda p, n_source, n_target: p / (1 - p) * n_source / n_target,
        lambda p, n_source, n_target: (p / n_target) / ((1 - p) / n_source),
    ],
    wrong=lambda: [
        (lambda p, n_source, n_target: p / (1 - p), "number of rows"),
        (lambda p, n_source, n_target: p / (1 - p) * n_target / n_source, "other way round"),
        (lambda p, n_source, n_target: (1 - p) / p * n_target / n_source, "upside down"),
        (lambda p, n_source, n_target: p, "probability"),
        (lambda p, n_source, n_target: 1.0, "expected"),
    ],
)
def _weight(function):
    asked = "for p = 0.75, 1,000 source and 2,000 target rows"
    value = as_number(function(0.75, 1000, 2000))
    require(abs(value - 0.75) > 1e-9, f"{asked} this is the probability itself; a ratio of densities needs the odds.")
    require(abs(value - 3) > 1e-9, f"{asked} these are the odds; the number of rows has to be taken out of them.")
    require(abs(value - 6) > 1e-9, f"{asked} the numbers of rows are the other way round.")
    require(abs(value - 2 / 3) > 1e-9, f"{asked} this is the ratio upside down: source over target.")
    require(abs(value - 1.5) < 1e-9, f"{asked} expected 1.5, got {value:.4g}.")
    value = as_number(function(0.2, 500, 500))
    require(abs(value - 0.25) < 1e-9, f"for p = 0.2 and 500 rows of each expected 0.25, got {value:.4g}.")
    return "odds of 3 from twice as many target rows: such a face is 1.5 times as frequent in the target."


@define(
    "02.3",
    "How many rows are left?",
    hints=(
        "A row with weight 0 is no row; ten rows of equal weight are ten, whatever the weight.",
        "Divide the square of the sum by the sum of the squares.",
        "`weights.sum() ** 2 / (weights ** 2).sum()`",
    ),
    right=lambda: [
        lambda w: w.sum() ** 2 / (w**2).sum(),
        lambda w: 1 / np.square(w / w.sum()).sum(),
        lambda w: len(w) * w.mean() ** 2 / (w**2).mean(),
    ],
    wrong=lambda: [
        (lambda w: w.sum(), "sum of the weights"),
        (lambda w: (w > 0).sum(), "count"),
        (lambda w: w.sum() / (w**2).sum(), "unit"),
        (lambda w: (w**2).sum() / w.sum() ** 2, "upside down"),
        (lambda w: 2.0, "expected"),
    ],
)
def _effective(function):
    weights = np.array([3.0, 1.0, 0.0, 0.0])
    value = as_number(function(weights))
    asked = "for weights 3, 1, 0, 0"
    require(
        abs(value - 4) > 1e-9, f"{asked} this is the sum of the weights; twice the weights would be twice the rows."
    )
    require(abs(value - 0.625) > 1e-9, f"{asked} this is upside down: a share between 0 and 1.")
    require(abs(value - 0.4) > 1e-9, f"{asked} this changes with the unit of the weights; square the sum.")
    counted = as_number(function(np.array([1.0, 1.0, 1.0, 1e-6])))
    require(abs(counted - 4) > 1e-9, "a weight of a millionth does not count as a row of its own.")
    require(abs(value - 1.6) < 1e-9, f"{asked} expected 1.6, got {value:.4g}.")
    value = as_number(function(np.full(10, 0.2)))
    require(abs(value - 10) < 1e-9, f"for ten equal weights expected 10, got {value:.4g}.")
    return "3 and 1 are worth 1.6 equal rows: most of what is learnt comes from one of them."
