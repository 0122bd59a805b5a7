"""Exercises of lesson 03, feature extraction."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from facekit.course.exercises import as_number, as_tensor, as_whole_number, define, require


@define(
    "03.1",
    "Cosine",
    hints=(
        "The dot product of two vectors of length 1 is the cosine between them.",
        "`F.normalize(a, dim=1)` brings every row to length 1.",
        "`x @ y.T` is every dot product of a row of `x` with a row of `y` at once.",
    ),
    right=lambda: [
        lambda a, b: F.normalize(a, dim=1) @ F.normalize(b, dim=1).T,
        lambda a, b: F.cosine_similarity(a[:, None], b[None], dim=2),
    ],
    wrong=lambda: [
        (lambda a, b: a @ b.T, "length"),
        (lambda a, b: F.normalize(a) @ F.normalize(b), "shape"),
        (lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T, "columns"),
        (lambda a, b: F.cosine_similarity(a, b[: len(a)]), "every pair"),
    ],
)
def _cosine(function):
    a = torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    b = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 1.0], [-1.0, -1.0, 0.0]])
    found = function(a, b)
    require(isinstance(found, torch.Tensor), f"expected a tensor (2, 4), got {type(found).__name__}.")
    require(found.shape == (2, 4), f"for (2, 3) and (4, 3) expected every pair, (2, 4), got {tuple(found.shape)}.")
    wanted = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    require(not torch.allclose(found, a @ b.T), "these are dot products; divide by the length of both vectors.")
    columns = F.normalize(a, dim=0) @ F.normalize(b, dim=0).T
    require(not torch.allclose(found, columns), "the columns have length 1 here; it should be the rows (dim=1).")
    require(torch.allclose(found, wanted, atol=1e-6), f"expected {wanted.tolist()}, got {found.tolist()}.")
    return "parallel vectors give 1, perpendicular ones 0, opposite ones -1."


@define(
    "03.2",
    "How much is learnt?",
    hints=(
        "A linear layer has one weight for every pair of an input and an output.",
        "The inputs are the 512 numbers of the embedding, the outputs one score for each of the 7 classes.",
        "Each output has a bias besides.",
    ),
    right=lambda: [3591],
    wrong=lambda: [(512 * 7, "bias"), (512, "each class"), (512 * 7 + 512, "outputs"), (12, "other")],
)
def _numbers_learnt(answer):
    value = as_whole_number(answer)
    require(value != 512 * 7, "these are the weights; each class has a bias, too.")
    require(value != 512, "that would be one class; each class has its own weights.")
    require(value != 512 * 7 + 512, "there is one bias for each of the 7 outputs, not for each input.")
    require(value == 512 * 7 + 7, "the count is some other number.")
    return "512 × 7 weights and 7 biases; the frozen network behind them has millions that do not move."


def _plain_accuracy(counts):
    return counts.diagonal().sum() / counts.sum()


@define(
    "03.3",
    "Balanced accuracy from a confusion matrix",
    hints=(
        "First the accuracy within each row: the share of its photos that are on the diagonal.",
        "`counts.diagonal()` are the correct ones; `counts.sum(1)` is how many there are of each label.",
        "Divide only where the total is above 0, then take the mean.",
    ),
    right=lambda: [
        lambda c: (c.diagonal()[c.sum(1) > 0] / c.sum(1)[c.sum(1) > 0]).mean(),
        lambda c: sum(float(r[i] / r.sum()) for i, r in enumerate(c) if r.sum() > 0) / int((c.sum(1) > 0).sum()),
    ],
    wrong=lambda: [
        (_plain_accuracy, "ordinary accuracy"),
        (lambda c: (c.diagonal() / c.sum(1)).mean(), "no photos"),
        (lambda c: (c.diagonal() / c.sum(0)).mean(), "columns"),
    ],
)
def _balanced(function):
    counts = torch.tensor([[90.0, 10.0], [5.0, 5.0]])
    value = float(as_tensor(torch.as_tensor(function(counts))))
    require(abs(value - float(_plain_accuracy(counts))) > 1e-6, "this is ordinary accuracy: 95 of 110.")
    by_column = float((counts.diagonal() / counts.sum(0)).mean())
    require(abs(value - by_column) > 1e-6, "you divided by the columns, the predictions; the rows are the labels.")
    require(abs(value - 0.7) < 1e-6, f"for [[90, 10], [5, 5]] expected the mean of 0.9 and 0.5, got {value:.3f}.")
    gap = torch.tensor([[8.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 6.0]])
    value = float(torch.as_tensor(function(gap)))
    require(value == value, "a class with no photos makes 0 / 0; leave such rows out.")
    require(abs(value - 0.7) < 1e-6, f"with an empty class expected the mean over the other two, 0.7, got {value:.3f}.")
    return "90 % and 50 % make 70 %, however many photos each class has."


@define(
    "03.4",
    "What a doubling of the labels brings",
    hints=(
        "How many doublings lead from 100 labels to 200? From 100 to 400? The logarithm to base 2 counts them.",
        "`math.log2(n2 / n1)` is the number of doublings from n1 to n2; it need not be a whole number.",
        "Divide the gain in accuracy by the number of doublings.",
    ),
    right=lambda: [
        lambda n1, a1, n2, a2: (a2 - a1) / math.log2(n2 / n1),
        lambda n1, a1, n2, a2: (a2 - a1) * math.log(2) / (math.log(n2) - math.log(n1)),
    ],
    wrong=lambda: [
        (lambda n1, a1, n2, a2: a2 - a1, "whole gain"),
        (lambda n1, a1, n2, a2: (a2 - a1) / (n2 - n1), "for each label"),
        (lambda n1, a1, n2, a2: (a2 - a1) / (n2 / n1), "divided by 4"),
        (lambda n1, a1, n2, a2: (a2 - a1) / math.log(n2 / n1), "natural logarithm"),
        (lambda n1, a1, n2, a2: (a2 - a1) / math.log10(n2 / n1), "base 10"),
        (lambda n1, a1, n2, a2: 0.05, "a step of one doubling"),
    ],
)
def _gain_per_doubling(function):
    value = as_number(function(500, 0.5, 2000, 0.6))
    asked = "for 0.5 at 500 labels and 0.6 at 2,000"
    require(abs(value - 0.1) > 1e-6, f"{asked} this is the whole gain; there are two doublings on the way.")
    require(abs(value - 0.1 / 1500) > 1e-9, f"{asked} this is the gain for each label, on average.")
    require(abs(value - 0.1 / 4) > 1e-6, f"{asked} you divided by 4; four times as many are two doublings.")
    require(abs(value - 0.1 / math.log(4)) > 1e-6, "this uses the natural logarithm; base 2 counts doublings.")
    require(abs(value - 0.1 / math.log10(4)) > 1e-6, "this uses the logarithm to base 10; base 2 counts doublings.")
    require(abs(value - 0.05) < 1e-6, f"{asked} expected 0.05, got {value:.4g}.")
    value = as_number(function(100, 0.4, 200, 0.48))
    require(abs(value - 0.08) < 1e-6, f"for 0.40 at 100 and 0.48 at 200, a step of one doubling, got {value:.4g}.")
    return "two doublings lead from 500 to 2,000 labels, so that a gain of 0.1 is 0.05 for each."
