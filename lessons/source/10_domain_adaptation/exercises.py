"""Exercises of lesson 10, domain adaptation."""

from __future__ import annotations

import math

import numpy as np

from facekit.course.exercises import as_tensor, define_experiment, define_sorting, define_values

_what_differs = define_sorting(
    "10.1",
    "Would you align?",
    hints=(
        "Alignment makes the target look like the source. Is it only the look that differs?",
        "Where other people or other classes are in the target, alignment lays the wrong ones on each other.",
        "Night and scanner change the look of the same people. School and abroad change who is there.",
    ),
    kinds=("align", "label some"),
    cases={
        "night": ("align", "the same people in another light: only the look differs"),
        "school": ("label some", "other ages are there, and other ages is what alignment cannot see"),
        "scanner": ("align", "the same clinic, another machine: only the look differs"),
        "abroad": ("label some", "other people, other ages and another camera at once"),
    },
    ask="Is it only the look that differs, or who is in the photos, too?",
    others=[{"night": "label some"}, {"school": "align"}, {"abroad": "align"}],
)

_normalised = define_values(
    "10.2",
    "BatchNorm with other statistics",
    hints=(
        "Take the mean away, then divide by the spread.",
        "The spread is the square root of the variance: `np.sqrt(values.var())`.",
    ),
    right=[lambda values, eps: (values - values.mean()) / np.sqrt(values.var() + eps)],
    cases=[(np.array([1.0, 3.0, 5.0, 7.0]), 0.0), (np.array([2.0, 2.0]), 1.0), (np.array([0.0, 10.0, 20.0]), 1e-5)],
    asked="for values 1, 3, 5, 7",
    mistakes=[
        (lambda values, eps: (values - values.mean()) / (values.var() + eps), "divide by the root of the variance."),
        (lambda values, eps: values - values.mean(), "the mean is gone; bring the variance to 1, too."),
        (lambda values, eps: values / np.sqrt(values.var() + eps), "the mean is still there."),
        (lambda values, eps: (values - values.mean()) / (values.std() + eps), "eps belongs under the root."),
    ],
    others=[(lambda values, eps: values[:1], "shape")],
    read=as_tensor,
    praise="the target's values now lie where the next layer expects values to lie.",
)

_closed = define_values(
    "10.3",
    "The share of the gap that is closed",
    hints=(
        "The gap goes from source only to target labels.",
        "How far from source only did the method come, and how far could it have come?",
    ),
    right=[lambda method, source_only, target_labels: (method - source_only) / (target_labels - source_only)],
    cases=[(0.62, 0.58, 0.65), (0.70, 0.75, 0.80), (0.9, 0.6, 0.9)],
    asked="for 0.62 between 0.58 and 0.65",
    mistakes=[
        (lambda m, s, t: m / t, "this compares with the best alone; where did the method begin?"),
        (lambda m, s, t: m - s, "these are points; divide by the whole gap."),
        (lambda m, s, t: (t - m) / (t - s), "this is what is still open."),
        (lambda m, s, t: (m - s) / t, "divide by the gap, not by the best."),
    ],
    others=[(lambda m, s, t: 0.0, "expected 0.5714, got 0")],
    praise="0.57, and −1 for a method that lost as much as there was to win.",
)

_ramp = define_values(
    "10.4",
    "The ramp of the reversed gradient",
    hints=(
        "The share of the ramp is step / steps, and at most 1.",
        "`share = min(step / steps, 1)`, then 2 / (1 + exp(-10 share)) - 1; from the end of the ramp on it is 1.",
    ),
    right=[
        lambda step, steps: 2 / (1 + math.exp(-10 * step / steps)) - 1 if step < steps else 1.0,
        lambda step, steps: 2 / (1 + math.exp(-10 * min(step / steps, 1))) - 1,
    ],
    cases=[(0, 100), (10, 100), (50, 100)],
    asked="for step 10 of 100",
    mistakes=[
        (lambda step, steps: 1 / (1 + math.exp(-10 * step / steps)), "this begins at a half, not at 0."),
        (lambda step, steps: step / steps, "this is a straight line; the ramp is steep first and then flat."),
        (lambda step, steps: 2 / (1 + math.exp(-step / steps)) - 1, "the factor 10 is missing."),
    ],
    others=[(lambda step, steps: -1.0, "expected 0, got -1")],
    praise="nothing at the start, when the embedding is noise and the opponent's gradient with it.",
)

_experiment = define_experiment(
    "10.5",
    "Your own experiment",
    hints=(
        "Begin with one seed and two columns: `source only` and your way.",
        "A function of `seed` that returns a dictionary {name: accuracy} is all that `over_seeds` wants.",
        "`over_seeds(my_function, seeds=range(3))`; the solution asks how many target labels are worth an alignment.",
    ),
    baseline="source only",
)
