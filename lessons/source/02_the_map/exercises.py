"""Exercises of lesson 02, the map."""

from __future__ import annotations

import numpy as np

from facekit.course.exercises import define_experiment, define_sorting, define_values

_which_kind = define_sorting(
    "02.1",
    "Which kind is it?",
    hints=(
        "Ask first where the labels are: in the source, in the target, in both?",
        "Labels in both: several tasks. Only in the target: features are learnt without labels first.",
        "Only in the source: is the target another kind of picture, or the same kind with other shares of people?",
    ),
    kinds=("multi-task", "self-taught", "domain adaptation", "sample selection"),
    cases={
        "age": ("multi-task", "both have labels, and they ask different things of the same kind of faces"),
        "sketch": (
            "domain adaptation",
            "the task is the same, the drawings have no labels, and they are another kind of input",
        ),
        "archive": ("self-taught", "the archive has no labels, the few that there are belong to the target"),
        "survey": (
            "sample selection",
            "the task and the kind of photo are the same; only who was photographed differs",
        ),
    },
    ask="Where are the labels, and what differs?",
    others=[{"sketch": "sample selection"}, {"survey": "domain adaptation"}, {"archive": "multi-task"}],
)


_weight = define_values(
    "02.2",
    "From a probability to a weight",
    hints=(
        "With as many source as target rows, a face with p = 0.5 is as frequent in one as in the other: weight 1.",
        "The odds p / (1 - p) say how many target rows there are for each source row that looks like this.",
        "Twice as many target rows double the odds, and no face is more frequent: take n_target / n_source out again.",
    ),
    right=[lambda p, s, t: p / (1 - p) * s / t, lambda p, s, t: (p / t) / ((1 - p) / s)],
    cases=[(0.75, 1000, 2000), (0.2, 500, 500)],
    asked="for p = 0.75, 1,000 source and 2,000 target rows",
    mistakes=[
        (lambda p, s, t: p, "this is the probability itself; a ratio of densities needs the odds."),
        (lambda p, s, t: p / (1 - p), "these are the odds; the number of rows has to be taken out of them."),
        (lambda p, s, t: p / (1 - p) * t / s, "the rows are the other way round."),
        (lambda p, s, t: (1 - p) / p * t / s, "this is the ratio upside down: source over target."),
    ],
    others=[(lambda p, s, t: 1.0, "expected 1.5, got 1")],
    praise="odds of 3 from twice as many target rows: such a face is 1.5 times as frequent in the target.",
)


_effective = define_values(
    "02.3",
    "How many rows are left?",
    hints=(
        "A row with weight 0 is no row; ten rows of equal weight are ten, whatever the weight.",
        "Divide the square of the sum by the sum of the squares.",
        "`weights.sum() ** 2 / (weights ** 2).sum()`",
    ),
    right=[
        lambda w: w.sum() ** 2 / (w**2).sum(),
        lambda w: 1 / np.square(w / w.sum()).sum(),
        lambda w: len(w) * w.mean() ** 2 / (w**2).mean(),
    ],
    cases=[(np.array([3.0, 1.0, 0.0, 0.0]),), (np.array([1.0, 1.0, 1.0, 1e-6]),), (np.full(10, 0.2),)],
    asked="for weights 3, 1, 0, 0",
    mistakes=[
        (lambda w: w.sum(), "this is the sum of the weights; twice the weights would be twice the rows."),
        (lambda w: (w**2).sum() / w.sum() ** 2, "this is upside down: a share between 0 and 1."),
        (lambda w: w.sum() / (w**2).sum(), "this changes with the unit of the weights; square the sum."),
        (lambda w: (w > 0).sum(), "this is a count; a weight of a millionth does not count as a row of its own."),
    ],
    others=[(lambda w: 5.0, "expected 1.6, got 5")],
    praise="3 and 1 are worth 1.6 equal rows: most of what is learnt comes from one of them.",
)


_experiment = define_experiment(
    "02.4",
    "Your own experiment",
    hints=(
        "Begin with one seed: a function of `seed` that draws `few_labels` and gives two accuracies.",
        'It returns {"baseline": …, "my way": …}; `over_seeds(my_function, seeds=range(3))`.',
        "The solution takes 500 labels in place of 50 for the components.",
    ),
    baseline="baseline",
)
