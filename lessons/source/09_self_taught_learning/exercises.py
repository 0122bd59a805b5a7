"""Exercises of lesson 09, self-taught learning."""

from __future__ import annotations

import math

import numpy as np
import torch

from facekit.course.exercises import as_tensor, define_experiment, define_sorting, define_values

_which_kind = define_sorting(
    "09.1",
    "Which kind of transfer?",
    hints=(
        "Ask first: which set has labels, and is it the same kind of photo?",
        "Two sets of the same classes, one of them without labels: is it the same kind of photo, or another?",
        "Where the first network learnt from labels of another question, that is supervised transfer.",
    ),
    kinds=("self-taught", "semi-supervised", "supervised transfer", "domain adaptation"),
    cases={
        "cats": ("self-taught", "the photos of the web have no labels and need not show cats"),
        "clinic": ("semi-supervised", "one set of one kind, of which a part has labels"),
        "names": ("supervised transfer", "the first network learnt from labels, of another question"),
        "sketch": ("domain adaptation", "the same classes, another kind of picture, no label in the target"),
    },
    ask="Which set has labels, and does the other one hold the same kind of photo and the same classes?",
    others=[{"cats": "semi-supervised"}, {"clinic": "self-taught"}, {"sketch": "self-taught"}],
)

_triangle = define_values(
    "09.2",
    "The triangle",
    hints=("Nearer than on average: the mean distance minus each distance.", "`.clamp(min=0)` sets the rest to 0."),
    right=[lambda d: (d.mean() - d).clamp(min=0)],
    cases=[(torch.tensor([5.0, 1.0, 3.0]),), (torch.tensor([2.0, 2.0]),), (torch.tensor([0.0, 8.0, 1.0, 3.0]),)],
    asked="for distances 5, 1, 3",
    mistakes=[
        (lambda d: d.mean() - d, "what is farther than the mean must become 0."),
        (lambda d: (d - d.mean()).clamp(min=0), "this keeps the far centroids; keep the near ones."),
        (
            lambda d: d.clamp(min=0),
            "a distance is large where a centroid is far; a code is large where it is near.",
        ),
        (lambda d: (d == d.min()).float(), "this says only which is nearest; the triangle says how near."),
    ],
    others=[(lambda d: d[:1], "shape")],
    read=as_tensor,
    praise="about half of the numbers are 0, and those that are left say how near.",
)

_collapsed = define_values(
    "09.3",
    "The loss that says nothing",
    hints=(
        "Every view looks for its partner among all others. How many are there, if the batch has 2n views?",
        "With all of them alike each has the probability 1 / (2n − 1). The loss is minus its logarithm.",
    ),
    right=[lambda n: math.log(2 * n - 1)],
    cases=[(64,), (2,), (4096,)],
    asked="for 64 photos",
    mistakes=[
        (lambda n: math.log(2 * n), "a view does not have to find itself."),
        (lambda n: math.log(n), "two views of every photo are in the batch."),
        (lambda n: math.log(n - 1), "two views of every photo are in the batch."),
        (lambda n: 0.0, "0 would be sure of the partner; here every view is as good a guess."),
        (lambda n: -math.log(2 * n - 1), "the sign: a loss is minus the logarithm of a probability."),
    ],
    others=[(lambda n: 1.0, "expected 4.844")],
    praise="4.84 for 64 photos. A loss that stays there has learnt nothing.",
)


def _surest(answers: np.ndarray, k: int) -> np.ndarray:
    said = answers.argmax(1)
    rows = [np.flatnonzero(said == c) for c in range(answers.shape[1])]
    return np.sort(np.concatenate([r[np.argsort(-answers[r, c], kind="stable")[:k]] for c, r in enumerate(rows)]))


_ANSWERS = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.95, 0.05]])
_surest_rows = define_values(
    "09.4",
    "The surest answers, fairly",
    hints=(
        "`answers.argmax(1)` is what each row answers; go through the classes one by one.",
        "Among the rows of a class, `np.argsort(-answers[rows, c])[:k]` are the surest.",
        "A class that no row answers gives no row.",
    ),
    right=[_surest],
    cases=[(_ANSWERS, 1), (_ANSWERS, 2), (np.array([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.5, 0.3]]), 1)],
    asked="for five rows and k = 1",
    mistakes=[
        (
            lambda a, k: np.sort(np.argsort(-a.max(1), kind="stable")[: k * a.shape[1]]),
            "one class took all places.",
        ),
        (lambda a, k: np.flatnonzero(a.max(1) > 0.75), "a threshold lets one class take over; take k of each class."),
        (lambda a, k: np.sort(np.argsort(-a, 0, kind="stable")[:k].ravel()), "take only rows that answer the class."),
    ],
    others=[(lambda a, k: np.arange(len(a)), "shape")],
    read=as_tensor,
    praise="each class gets its own teachers, the rare one as well.",
)

_experiment = define_experiment(
    "09.5",
    "Your own experiment",
    hints=(
        "Begin with one seed and two columns: `pixels` and your way.",
        "`coded['pixels']` holds pool and test as pixels; `patch_codes(many, k=…, side=…)` makes other codes.",
        "A function of `seed` that returns {name: accuracy} is all that `over_seeds` wants.",
    ),
    baseline="pixels",
)
