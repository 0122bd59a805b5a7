"""Exercises of lesson 03, feature extraction."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from facekit.course.exercises import as_tensor, define_experiment, define_values

_cosine = define_values(
    "03.1",
    "Cosine",
    hints=(
        "The dot product of two vectors of length 1 is the cosine between them.",
        "`F.normalize(a, dim=1)` brings every row to length 1.",
        "`x @ y.T` is every dot product of a row of `x` with a row of `y` at once.",
    ),
    right=[
        lambda a, b: F.normalize(a, dim=1) @ F.normalize(b, dim=1).T,
        lambda a, b: F.cosine_similarity(a[:, None], b[None], dim=2),
    ],
    cases=[
        (
            torch.tensor([[3, 0, 0], [1, 1, 0]], dtype=torch.float64),
            torch.tensor([[2, 0, 0], [0, 5, 0], [0, 0, 1], [-1, -1, 0]], dtype=torch.float64),
        )
    ],
    mistakes=[
        (lambda a, b: a @ b.T, "these are dot products; divide by the length of both vectors."),
        (
            lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T,
            "the columns have length 1 here; it should be the rows (dim=1).",
        ),
        (lambda a, b: F.cosine_similarity(a, b[: len(a)]), "for (2, 3) and (4, 3) expected every pair, (2, 4)."),
    ],
    others=[(lambda a, b: F.normalize(a) @ F.normalize(b), "shape")],
    praise="parallel vectors give 1, perpendicular ones 0, opposite ones -1.",
    read=as_tensor,
)


_balanced = define_values(
    "03.2",
    "Balanced accuracy from a confusion matrix",
    hints=(
        "First the accuracy within each row: the share of its photos that are on the diagonal.",
        "`counts.diagonal()` are the correct ones; `counts.sum(1)` is how many there are of each label.",
        "Divide only where the total is above 0, then take the mean.",
    ),
    right=[
        lambda c: (c.diagonal()[c.sum(1) > 0] / c.sum(1)[c.sum(1) > 0]).mean(),
        lambda c: sum(float(r[i] / r.sum()) for i, r in enumerate(c) if r.sum() > 0) / int((c.sum(1) > 0).sum()),
    ],
    cases=[
        (torch.tensor([[90.0, 10.0], [5.0, 5.0]]),),
        (torch.tensor([[8.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 6.0]]),),
    ],
    asked="for [[90, 10], [5, 5]]",
    mistakes=[
        (lambda c: c.diagonal().sum() / c.sum(), "this is ordinary accuracy: 95 of 110."),
        (lambda c: (c.diagonal() / c.sum(0)).mean(), "you divided by the columns, the predictions; labels are rows."),
        (lambda c: (c.diagonal() / c.sum(1)).mean(), "a class with no photos makes 0 / 0; leave such rows out."),
    ],
    praise="90 % and 50 % make 70 %, however many photos each class has.",
)


_gain_per_doubling = define_values(
    "03.3",
    "What a doubling of the labels brings",
    hints=(
        "How many doublings lead from 100 labels to 200? From 100 to 400? The logarithm to base 2 counts them.",
        "`np.log2(n2 / n1)` is the number of doublings from n1 to n2; it need not be a whole number.",
        "Divide the gain in accuracy by the number of doublings.",
    ),
    right=[
        lambda n1, a1, n2, a2: (a2 - a1) / math.log2(n2 / n1),
        lambda n1, a1, n2, a2: (a2 - a1) * math.log(2) / (math.log(n2) - math.log(n1)),
    ],
    cases=[(500, 0.5, 2000, 0.6), (100, 0.4, 200, 0.48)],
    asked="for 0.5 at 500 labels and 0.6 at 2,000",
    mistakes=[
        (lambda n1, a1, n2, a2: a2 - a1, "this is the whole gain; there are two doublings on the way."),
        (lambda n1, a1, n2, a2: (a2 - a1) / (n2 - n1), "this is the gain for each label, on average."),
        (lambda n1, a1, n2, a2: (a2 - a1) / (n2 / n1), "you divided by 4; four times as many are two doublings."),
        (lambda n1, a1, n2, a2: (a2 - a1) / math.log(n2 / n1), "natural logarithm; base 2 counts doublings."),
        (lambda n1, a1, n2, a2: (a2 - a1) / math.log10(n2 / n1), "logarithm to base 10; base 2 counts doublings."),
    ],
    others=[(lambda n1, a1, n2, a2: 0.05, "for 100, 0.4, 200, 0.48 expected 0.08")],
    praise="two doublings lead from 500 to 2,000 labels, so that a gain of 0.1 is 0.05 for each.",
)


_experiment = define_experiment(
    "03.4",
    "Your own experiment",
    hints=(
        "Begin with one seed and two columns: `embedding` and your way. `from_few` above is nearly what you need.",
        "Score on `data.split('validation')`, and return a dictionary {name: accuracy}.",
        "`over_seeds(my_function, seeds=range(3))`; the solution puts pixels and embedding side by side.",
    ),
    baseline="embedding",
)
