"""Exercises of lesson 05, define the problem."""

from __future__ import annotations

import numpy as np
import torch

from facekit.course.exercises import as_tensor, define, define_experiment, define_sorting, define_values, require, seen

_which_coding = define_sorting(
    "05.1",
    "Which coding?",
    hints=(
        "Ask of each label: can two answers be true at once? Have the answers an order? Has an error a size?",
        "Answers that do not exclude each other are no classes of one task.",
        "An order without a unit is ordinal; with a unit it is a number.",
    ),
    kinds=("classes", "ordinal", "number", "several tasks"),
    cases={
        "hair": ("classes", "the colours have no order, and a face has one of them"),
        "stars": (
            ("ordinal", "classes"),
            "four stars are more than three, but nobody says that the steps are of equal size: classes first, as the "
            "lesson advises, with ordinal as their rival",
        ),
        "years": ("number", "the label has a unit, and an error of twenty years counts twice as much as one of ten"),
        "worn": ("several tasks", "each of the three can be worn whatever the others are: three yes-no questions"),
    },
    ask="Do the answers exclude each other, are they ordered, in a unit?",
    others=[{"hair": "ordinal"}, {"stars": "number"}, {"years": "ordinal"}, {"worn": "classes"}],
)


def _median(p):
    return (p.cumsum(1) < 0.5).sum(1)


_median_band = define_values(
    "05.2",
    "The answer with the smallest expected error",
    hints=(
        "Add the probabilities up, from the first class on: `probabilities.cumsum(1)`.",
        "The median is the first class at which the sum has reached one half.",
        "How many classes come before it? Those whose sum is still below one half: count them in each row.",
    ),
    right=[_median, lambda p: (p.cumsum(1) >= 0.5).int().argmax(1)],
    cases=[(torch.tensor([[0.3, 0.25, 0.25, 0.1, 0.1], [0.4, 0.05, 0.05, 0.05, 0.45], [0.05, 0.05, 0.1, 0.1, 0.7]]),)],
    mistakes=[
        (lambda p: p.argmax(1), "these are the most probable classes, the answer for accuracy."),
        (
            lambda p: (p @ torch.arange(5.0)).round().long(),
            "these are the means; half of the probability has to lie on either side.",
        ),
    ],
    others=[
        (lambda p: (p.cumsum(1) < 0.5).sum(1) - 1, "expected [1, 2, 4]"),
        (lambda p: (p.cumsum(0) < 0.5).sum(1), "expected [1, 2, 4]"),
        (lambda p: p.cumsum(1), "shape"),
    ],
    praise="in the first row class 0 is the most probable one, and yet most of the probability lies above it.",
    read=as_tensor,
)


def _differences(above):
    ends = above.new_ones(len(above), 1)
    return torch.cat([ends, above], 1) - torch.cat([above, 0 * ends], 1)


_levels_to_classes = define_values(
    "05.3",
    "From levels back to classes",
    hints=(
        "The probability of the second class is that of being above the first, less that of being above the second.",
        "Nothing is left out at the ends: above nothing is everybody (1), above the last class nobody (0).",
        "`torch.cat([ones, above], 1) - torch.cat([above, zeros], 1)` with columns of ones and zeros, (N, 1).",
    ),
    right=[
        _differences,
        lambda above: -torch.diff(torch.nn.functional.pad(above, (1, 1)) + torch.tensor([1.0] + [0.0] * 4)),
    ],
    cases=[(torch.tensor([[0.9, 0.6, 0.1], [0.5, 0.5, 0.0]]),)],
    mistakes=[
        (
            lambda above: torch.cat([1 - above, above[:, -1:]], 1),
            "1 - above is the probability of not being above a class; the classes themselves are differences.",
        ),
        (lambda above: _differences(above).flip(1), "the classes are in the wrong order."),
        (lambda above: torch.cat([above, 0 * above[:, :1]], 1), "the probabilities of a row must add up to 1."),
    ],
    others=[
        (lambda above: above / above.sum(1, keepdim=True), "shape"),
        (lambda above: above[:, :-1] - above[:, 1:], "shape"),
    ],
    praise="an answer to 'how far up' is a softmax in other clothes, as long as no level contradicts another.",
    read=as_tensor,
)


def _equal(rows, labels, size=max):
    """The rows of each class, repeated or cut to the `size` (max or min) of the classes."""
    parts = [rows[labels[rows] == label] for label in np.unique(labels)]
    return np.concatenate([np.resize(part, size(map(len, parts))) for part in parts])


def _split(labels, seed):
    return np.split(np.random.default_rng(seed).permutation(len(labels)), [len(labels) // 5])


def _split_then_repeat(labels, seed, size=max):
    test, train = _split(labels, seed)
    return _equal(train, labels, size), test


def _repeat_then_split(labels, seed):
    rows = np.random.default_rng(seed).permutation(_equal(np.arange(len(labels)), labels))
    return rows[len(rows) // 5 :], rows[: len(rows) // 5]


@define(
    "05.4",
    "Split, then repeat",
    hints=(
        "First shuffle the numbers of all rows and cut off a fifth for the test; nothing of it may come back.",
        "In what is left find the rows of each class, and how many the largest class has.",
        "`np.resize(rows, most)` repeats an array of rows until it is `most` long; put those of all classes together.",
    ),
    right=lambda: [_split_then_repeat],
    wrong=lambda: [
        (_repeat_then_split, "on both sides"),
        (lambda labels, seed: (_split(labels, seed)[1], np.tile(_split(labels, seed)[0], 2)), "once"),
        (lambda labels, seed: _split_then_repeat(labels, seed, min), "left out"),
        (lambda labels, seed: _split(labels, seed)[::-1], "equally frequent"),
        (lambda labels, seed: (np.arange(len(labels)), np.arange(0)), "a fifth"),
        (lambda labels, seed: np.arange(len(labels)), "two arrays"),
    ],
)
def _split_and_repeated(function):
    labels = np.repeat(["a", "b", "c"], [70, 20, 10])
    found = function(labels.copy(), 3)
    require(isinstance(found, tuple | list) and len(found) == 2, f"expected two arrays of rows, not {seen(found)}.")
    train, test = (np.asarray(rows) for rows in found)
    whole = all(rows.ndim == 1 and rows.dtype.kind in "iu" for rows in (train, test))
    require(whole, "expected two arrays of row numbers: those to learn from, those of the test.")
    rows = np.concatenate([train, test])
    require(len(rows) and rows.min() >= 0 and rows.max() < len(labels), "some of these are no rows of the table.")
    shared = np.intersect1d(train, test)
    require(not len(shared), f"{len(shared)} rows are on both sides; split before anything is repeated.")
    require(len(np.unique(test)) == len(test), "a row of the test counts once; only the training rows are repeated.")
    require(len(test) == 20, f"the test should have a fifth of the 100 rows, not {len(test)}.")
    missing = len(labels) - len(np.unique(rows))
    require(not missing, f"{missing} rows are left out; repeat the rare classes rather than thin out the frequent one.")
    counts = [int(np.sum(labels[train] == label)) for label in np.unique(labels)]
    require(len(set(counts)) == 1, f"the classes should be equally frequent in training; they have {counts} rows.")
    again = np.asarray(function(labels.copy(), 4)[1])
    require(set(again.tolist()) != set(test.tolist()), "another seed should give another test.")
    return "the test is as it was found, and no copy of it has been learnt from."


_own_problem = define_experiment(
    "05.5",
    "A problem of your own",
    hints=(
        'Begin with the label: `rows.labels["age"].isin([...])` says of each face whether it is in one of these bands.',
        "A `Task` with two classes and a column of that name in the labels is all that `linear_probe` wants.",
        "A function of `seed` that returns {name: score} goes into `over_seeds(function, seeds=range(3))`.",
    ),
    baseline="baseline",
)
