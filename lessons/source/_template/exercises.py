"""Exercises of this lesson: each checks an answer, and a test tries its right and its wrong answers."""

from __future__ import annotations

from facekit.course.exercises import as_number, define, require


@define(
    "99.1",
    "The mean of three numbers",
    hints=("Add them up first.", "Then divide by how many there are."),
    right=lambda: [3, 3.0],
    wrong=lambda: [(9, "the sum"), (2, "the median"), ("three", "expected a number"), (4, "other")],
)
def _mean_of_three(answer):
    value = as_number(answer)
    require(value != 9, "this is the sum; divide it by the count.")
    require(value != 2, "this is the median.")
    require(abs(value - 3) < 1e-9, "the mean is some other number.")
    return "the sum is 9, the count is 3."


def _median(numbers):
    return sorted(numbers)[len(numbers) // 2]


@define(
    "99.2",
    "A function for the mean",
    hints=("`sum` and `len` are enough.",),
    right=lambda: [lambda numbers: sum(numbers) / len(numbers)],
    wrong=lambda: [(sum, "sum"), (_median, "median"), (lambda numbers: 1 / 0, "ZeroDivisionError")],
)
def _mean_function(mean):
    require(mean([1, 2, 6]) != 9, "mean([1, 2, 6]) gave 9, the sum.")
    require(mean([1, 2, 6]) != 2, "mean([1, 2, 6]) gave 2, the median.")
    require(mean([1, 2, 6]) == 3, "mean([1, 2, 6]) should be 3.")
