"""Exercises of lesson 05, define the problem."""

from __future__ import annotations

import numpy as np
import torch

from facekit.course.exercises import as_tensor, as_text, define, require, seen

CODINGS = ("classes", "ordinal", "number", "several tasks")
CASES = {
    "hair": ("classes", "the colours have no order, and a face has one of them"),
    "stars": ("ordinal", "four stars are more than three, but nobody says that the steps are of equal size"),
    "years": ("number", "the label has a unit, and an error of twenty years counts twice as much as one of ten"),
    "worn": ("several tasks", "each of the three can be worn whatever the others are: three yes-no questions"),
}


def _cases(**changed: str) -> dict[str, str]:
    """The right answers, some of them changed."""
    return {case: coding for case, (coding, _) in CASES.items()} | changed


@define(
    "05.1",
    "Which coding?",
    hints=(
        "Ask of each label: can two answers be true at once? Have the answers an order? Has an error a size?",
        "Answers that do not exclude each other are no classes of one task.",
        "An order without a unit is ordinal; with a unit it is a number.",
    ),
    right=lambda: [_cases(), _cases(hair=" Classes")],
    wrong=lambda: [
        (_cases(hair="ordinal"), "hair"),
        (_cases(stars="classes"), "stars"),
        (_cases(years="ordinal"), "years"),
        (_cases(worn="classes"), "worn"),
        (_cases(worn="regression"), "is none of"),
        ({"hair": "classes"}, "no answer for"),
        ("classes", "dictionary"),
    ],
)
def _which_coding(answer):
    require(isinstance(answer, dict), "expected the dictionary with an answer for every case.")
    for case, (coding, _) in CASES.items():
        require(case in answer, f"there is no answer for {case!r}.")
        found = as_text(answer[case]).lower()
        require(found in CODINGS, f"{case}: {found!r} is none of {', '.join(CODINGS)}.")
        require(
            found == coding, f"{case}: not {found}. Do the answers exclude each other, are they ordered, in a unit?"
        )
    return "; ".join(f"{case}: {why}" for case, (_, why) in CASES.items()) + "."


def _median(p):
    return (p.cumsum(1) < 0.5).sum(1)


@define(
    "05.2",
    "The answer with the smallest expected error",
    hints=(
        "Add the probabilities up, from the first class on: `probabilities.cumsum(1)`.",
        "The median is the first class at which the sum has reached one half.",
        "How many classes come before it? Those whose sum is still below one half: count them in each row.",
    ),
    right=lambda: [_median, lambda p: (p.cumsum(1) >= 0.5).int().argmax(1)],
    wrong=lambda: [
        (lambda p: p.argmax(1), "most probable"),
        (lambda p: (p @ torch.arange(5.0)).round().long(), "mean"),
        (lambda p: (p.cumsum(1) < 0.5).sum(1) - 1, "expected"),
        (lambda p: (p.cumsum(0) < 0.5).sum(1), "expected"),
        (lambda p: p.cumsum(1), "shape"),
    ],
)
def _median_band(function):
    p = torch.tensor([[0.3, 0.25, 0.25, 0.1, 0.1], [0.4, 0.05, 0.05, 0.05, 0.45], [0.05, 0.05, 0.1, 0.1, 0.7]])
    wanted = [1, 2, 4]
    found = as_tensor(function(p.clone()), (3,)).tolist()
    require(found != p.argmax(1).tolist(), "these are the most probable classes, the answer for accuracy.")
    mean = (p @ torch.arange(5.0)).round().tolist()
    require(found != mean, "these are the means; half of the probability has to lie on either side.")
    require(found == wanted, f"expected {wanted}, got {found}.")
    return "in the first row class 0 is the most probable one, and yet most of the probability lies above it."


def _differences(above):
    ends = above.new_ones(len(above), 1)
    return torch.cat([ends, above], 1) - torch.cat([above, 0 * ends], 1)


@define(
    "05.3",
    "From levels back to classes",
    hints=(
        "The probability of the second class is that of being above the first, less that of being above the second.",
        "Nothing is left out at the ends: above nothing is everybody (1), above the last class nobody (0).",
        "`torch.cat([ones, above], 1) - torch.cat([above, zeros], 1)` with columns of ones and zeros, (N, 1).",
    ),
    right=lambda: [
        _differences,
        lambda above: -torch.diff(torch.nn.functional.pad(above, (1, 1)) + torch.tensor([1.0] + [0.0] * 4)),
    ],
    wrong=lambda: [
        (lambda above: above / above.sum(1, keepdim=True), "shape"),
        (lambda above: above[:, :-1] - above[:, 1:], "shape"),
        (lambda above: torch.cat([1 - above, above[:, -1:]], 1), "differences"),
        (lambda above: _differences(above).flip(1), "order"),
        (lambda above: torch.cat([above, 0 * above[:, :1]], 1), "add up to"),
    ],
)
def _levels_to_classes(function):
    above = torch.tensor([[0.9, 0.6, 0.1], [0.5, 0.5, 0.0]])
    found = as_tensor(function(above.clone()), (2, 4)).float()
    wanted = _differences(above)
    require(
        not torch.allclose(found, torch.cat([1 - above, above[:, -1:]], 1), atol=1e-6),
        "1 - above is the probability of not being above a class; the classes themselves are differences.",
    )
    require(not torch.allclose(found, wanted.flip(1), atol=1e-6), "the classes are in the wrong order.")
    sums = found.sum(1)
    require(
        torch.allclose(sums, torch.ones(2), atol=1e-5),
        f"the probabilities of a row must add up to 1, not {sums[0].item():.3g}.",
    )
    require(torch.allclose(found, wanted, atol=1e-6), f"expected {wanted.tolist()}, got {found.tolist()}.")
    return "an answer to 'how far up' is a softmax in other clothes, as long as no level contradicts another."


def _split_then_repeat(labels, seed):
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = np.split(order, [len(labels) // 5])
    most = max(np.sum(labels[train] == label) for label in np.unique(labels))
    return np.concatenate([np.resize(train[labels[train] == label], most) for label in np.unique(labels)]), test


def _repeat_then_split(labels, seed):
    most = max(np.sum(labels == label) for label in np.unique(labels))
    rows = np.concatenate([np.resize(np.flatnonzero(labels == label), most) for label in np.unique(labels)])
    rows = np.random.default_rng(seed).permutation(rows)
    return rows[len(rows) // 5 :], rows[: len(rows) // 5]


def _thinned(labels, seed):
    train, test = _split_then_repeat(labels, seed)
    train = np.unique(train)
    least = min(np.sum(labels[train] == label) for label in np.unique(labels))
    return np.concatenate([train[labels[train] == label][:least] for label in np.unique(labels)]), test


def _both_repeated(labels, seed):
    train, test = _split_then_repeat(labels, seed)
    return train, np.concatenate([test, test])


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
        (_both_repeated, "once"),
        (_thinned, "left out"),
        (lambda labels, seed: tuple(map(np.unique, _split_then_repeat(labels, seed))), "equally frequent"),
        (lambda labels, seed: (np.arange(len(labels)), np.arange(0)), "a fifth"),
        (lambda labels, seed: np.arange(len(labels)), "two arrays"),
    ],
)
def _split(function):
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
