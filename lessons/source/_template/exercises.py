"""Exercises of this lesson: each checks an answer, and a test tries its right and its wrong answers."""

from __future__ import annotations

import statistics

from facekit.course.exercises import define, define_values, require

_mean_of_three = define_values(
    "99.1",
    "The mean of three numbers",
    hints=("Add them up first.", "Then divide by how many there are."),
    right=[3, 3.0],
    mistakes=[(9, "this is the sum; divide it by the count."), (2, "this is the median.")],
    others=[("three", "expected a number"), (4, "other")],
    otherwise="the mean is some other number.",
    praise="the sum is 9, the count is 3.",
)


@define(
    "99.2",
    "A function for the mean",
    hints=("`sum` and `len` are enough.",),
    right=lambda: [lambda numbers: sum(numbers) / len(numbers)],
    wrong=lambda: [(sum, "sum"), (statistics.median, "median"), (lambda numbers: 1 / 0, "ZeroDivisionError")],
)
def _mean_function(mean):
    require(mean([1, 2, 6]) != 9, "mean([1, 2, 6]) gave 9, the sum.")
    require(mean([1, 2, 6]) != 2, "mean([1, 2, 6]) gave 2, the median.")
    require(mean([1, 2, 6]) == 3, "mean([1, 2, 6]) should be 3.")
