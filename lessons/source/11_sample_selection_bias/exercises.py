"""Exercises of lesson 11, sample selection bias."""

from __future__ import annotations

import numpy as np

from facekit.course.exercises import as_tensor, define_experiment, define_sorting, define_values

_which_shift = define_sorting(
    "11.1",
    "Which shift is it?",
    hints=(
        "What decided who was collected: how a face looks, or which class it belongs to?",
        "Rashes look the same in winter; there are more of them. That is a matter of classes.",
        "A young face means the same everywhere; there are more of them. That is a matter of inputs.",
    ),
    kinds=("selection bias", "label shift"),
    cases={
        "winter": ("label shift", "the same rashes, three times as many"),
        "app": ("selection bias", "age decides who is there, and it is not what is asked"),
        "exam": ("label shift", "what is asked is what differs in number"),
        "newspaper": ("selection bias", "the office decides who is there, and it is not what is asked"),
    },
    ask="Is it the asked class that differs in number, or something else about the faces?",
    others=[{"winter": "selection bias"}, {"app": "label shift"}, {"newspaper": "label shift"}],
)


def _bayes(p: float, s: float) -> float:
    return p * s / (p * s + (1 - p) * (1 - s))


_corrected = define_values(
    "11.2",
    "One answer, corrected",
    hints=(
        "Old share of women 0.5, new share s: multiply p by s / 0.5.",
        "Do the same with 1 - p and 1 - s, then divide by the sum of both.",
        "`woman, man = p * s / 0.5, (1 - p) * (1 - s) / 0.5`, and then `woman / (woman + man)`",
    ),
    right=[_bayes],
    cases=[(0.6, 0.9), (0.3, 0.1), (0.5, 0.7)],
    asked="for p = 0.6 and s = 0.9",
    mistakes=[
        (lambda p, s: p * s / 0.5, "this is not brought back to the sum 1: 'man' has to be corrected, too."),
        (lambda p, s: p * s, "this is not brought back to the sum 1."),
        (lambda p, s: p, "this is the answer as it was."),
        (lambda p, s: s, "this is the share; the face does not count in it."),
        (lambda p, s: (p + s) / 2, "a mean of both is not Bayes' rule."),
    ],
    others=[(lambda p, s: 0.0, "expected 0.931, got 0")],
    praise="0.6 becomes 0.93: where nine in ten are women, a slight 'woman' is nearly sure.",
)

_flattened = define_values(
    "11.3",
    "Flattened weights",
    hints=("`weights ** a` is the power.", "Then divide by the mean, so that the mean becomes 1."),
    right=[lambda w, a: w**a / (w**a).mean()],
    cases=[(np.array([1.0, 4.0, 9.0]), 0.5), (np.array([1.0, 4.0]), 0.0), (np.array([2.0, 6.0]), 1.0)],
    asked="for weights 1, 4, 9 and a = 0.5",
    mistakes=[
        (lambda w, a: w**a, "the power is there; bring the mean to 1."),
        (lambda w, a: w**a / (w**a).sum(), "this brings the sum to 1, not the mean."),
        (lambda w, a: w * a, "this is a times the weights, not their power."),
        (lambda w, a: (w / w.mean()) ** a, "bring the mean to 1 after the power, not before."),
    ],
    others=[(lambda w, a: w[:1], "shape")],
    read=as_tensor,
    praise="1, 4, 9 become 0.5, 1, 1.5.",
)

_to_collect = define_values(
    "11.4",
    "How many rows must be collected?",
    hints=(
        "Of one row, the chance to survive is its weight divided by the largest weight.",
        "On average that is the mean weight by the largest. How many rows give n survivors?",
    ),
    right=[lambda w, n: n * w.max() / w.mean()],
    cases=[(np.array([1.0, 1.0, 1.0, 5.0]), 1000), (np.array([2.0, 2.0]), 10)],
    asked="for weights 1, 1, 1, 5 and 1,000 rows",
    mistakes=[
        (lambda w, n: n * w.mean() / w.max(), "this is upside down: fewer rows than are wanted."),
        (lambda w, n: n * w.max(), "the weights' unit must not matter; divide by their mean."),
        (lambda w, n: n, "every row would have to survive."),
        (lambda w, n: n * w.sum() / w.max(), "this is upside down, and a sum."),
    ],
    others=[(lambda w, n: 0.0, "expected 2500, got 0")],
    praise="2,500 rows for 1,000: of the three light rows only one in five survives.",
)

_experiment = define_experiment(
    "11.5",
    "Your own experiment",
    hints=(
        "Begin with one seed and two columns: `equal` and your way.",
        "A function of `seed` that returns a dictionary {name: accuracy} is all that `over_seeds` wants.",
        "`over_seeds(my_function, seeds=range(3))`; the solution tries another power of the weights.",
    ),
    baseline="equal",
)
