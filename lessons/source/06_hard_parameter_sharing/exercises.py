"""Exercises of lesson 06, hard parameter sharing."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from facekit.course.exercises import as_tensor, as_whole_number, define, define_experiment, define_values, require


def _masked(outputs, targets):
    total = F.cross_entropy(outputs, targets, ignore_index=-1, reduction="sum")
    return total / (targets != -1).sum().clamp_min(1)


def _chosen_rows(outputs, targets):
    known = targets != -1
    return F.cross_entropy(outputs[known], targets[known]) if known.any() else outputs.sum() * 0


@define(
    "06.1",
    "A label that is missing",
    hints=(
        "`F.cross_entropy(outputs, targets, ignore_index=-1)` leaves the missing ones out. What is the mean of none?",
        'With `reduction="sum"` the missing labels add nothing, and you divide by the number of known ones yourself.',
        "`(targets != -1).sum()` is that number; `.clamp_min(1)` keeps it from being 0.",
    ),
    right=lambda: [_masked, _chosen_rows],
    wrong=lambda: [
        (lambda outputs, targets: F.cross_entropy(outputs, targets, ignore_index=-1), "0 / 0"),
        (lambda outputs, targets: F.cross_entropy(outputs, targets.clamp_min(0)), "first class"),
        (lambda outputs, targets: _masked(outputs, targets) * (targets != -1).double().mean(), "all rows"),
        (lambda outputs, targets: F.cross_entropy(outputs, targets, ignore_index=-1, reduction="sum"), "sum"),
        (lambda outputs, targets: _masked(outputs, targets).detach(), "gradient"),
        (lambda outputs, targets: torch.zeros((), requires_grad=True), "expected"),
    ],
)
def _masked_loss(function):
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, -1, 1, -1])
    found = function(outputs, targets)
    value = as_tensor(found, ()).double()
    none = as_tensor(function(outputs, torch.full((4,), -1)), ()).double()
    require(not none.isnan(), "without a known label it is 0 / 0, and one such batch makes all weights NaN.")
    wanted = _masked(outputs, targets).detach()
    first = F.cross_entropy(outputs, targets.clamp_min(0)).detach()
    require(not torch.isclose(value, first), "here a missing label counts as the first class.")
    require(not torch.isclose(value, wanted / 2), "you divided by all rows; missing labels must not shrink the loss.")
    require(not torch.isclose(value, 2 * wanted), "this is the sum; the loss must not grow with the number of labels.")
    require(torch.isclose(value, wanted), f"for labels [0, -1, 1, -1] expected {wanted:.4f}, got {value:.4f}.")
    require(none == 0, f"without a known label expected 0, got {none:.4f}.")
    require(found.requires_grad, "the loss has no gradient; do not detach it or turn it into a number.")
    (slope,) = torch.autograd.grad(found, outputs)
    require(bool((slope[targets == -1] == 0).all()), "a face without a label moves the weights; it must not.")
    return "the mean over the known labels, and 0 where none is known: such a batch asks nothing of this task."


def _count(layers, heads, shared):
    return sum(layers[:shared]) + len(heads) * sum(layers[shared:]) + sum(heads)


_parameters = define_values(
    "06.2",
    "What does sharing save?",
    hints=(
        "A shared layer exists once. A layer that is not shared exists once for each task.",
        "`layers[:shared]` are the shared ones, `layers[shared:]` the others; there is a head for each task.",
        "The heads are never shared: add up what they have.",
    ),
    right=[_count, lambda a, heads, k: sum(n * (1 if i < k else len(heads)) for i, n in enumerate(a)) + sum(heads)],
    cases=[([100, 20, 5], [7, 2, 9], shared) for shared in (1, 0, 3)],
    asked="for layers [100, 20, 5], heads [7, 2, 9], shared=1:",
    mistakes=[
        (lambda a, heads, k: sum(a) + sum(heads), "a layer that is not shared exists once for each task."),
        (lambda a, heads, k: len(heads) * sum(a) + sum(heads), "the first layer is shared and exists only once."),
        (lambda a, heads, k: _count(a, heads, k) - sum(heads), "the heads have parameters, too."),
        (
            lambda a, heads, k: _count(a, heads, len(a) - k),
            "it is the other way round; the first layer is shared, not the last.",
        ),
    ],
    others=[(lambda a, heads, k: 12, "expected 193, got 12")],
    praise="100 once, 20 and 5 three times, and the heads: 193 in place of the 393 of three networks.",
    read=as_whole_number,
)


def _project(a, b):
    dot = a @ b
    return a - dot / (b @ b) * b if dot < 0 else a


_projection = define_values(
    "06.3",
    "Out of each other's way",
    hints=(
        "Two gradients are in conflict when their dot product is below 0. If it is not, `a` stays as it is.",
        "The part of `a` along `b` is `(a @ b) / (b @ b) * b`.",
        "Take that part away from `a`: what is left is perpendicular to `b`.",
    ),
    right=[_project, lambda a, b: a - (a @ b).clamp_max(0) / (b @ b) * b],
    cases=[
        (torch.tensor([-2.0, 1.0, 3.0]), torch.tensor([4.0, 0.0, 0.0])),
        (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])),
    ],
    mistakes=[
        (lambda a, b: a, "the result still goes against `b`: their dot product is below 0."),
        (lambda a, b: a - (a @ b) * b if a @ b < 0 else a, "`b` need not have length 1; divide by its squared length."),
        (
            lambda a, b: b - (a @ b) / (a @ a) * a if a @ b < 0 else a,
            "you projected `b`; the function returns what is left of `a`.",
        ),
        (lambda a, b: a + (a @ b) / (b @ b) * b if a @ b < 0 else a, "mind the sign: take the part along `b` away."),
        (
            lambda a, b: a - (a @ b) / (b @ b) * b,
            "gradients that do not conflict stay as they are: here the dot product is 1.",
        ),
    ],
    asked="for (-2, 1, 3) and (4, 0, 0)",
    others=[(lambda a, b: a * 0 if a @ b < 0 else a, "expected [0.0, 1.0, 3.0]")],
    praise="what is left of `a` is perpendicular to `b`: a small step along it leaves the other task's loss as it is.",
    read=as_tensor,
)

_experiment = define_experiment(
    "06.4",
    "Your own experiment",
    hints=(
        "Begin with one seed and two columns: `its own` and your way.",
        "A function of `seed` that returns a dictionary {name: accuracy} is all that `over_seeds` wants.",
        "`learn(tasks, rows, seed)` trains, `right(net, task, known)` scores; the solution takes 200 portraits.",
    ),
    baseline="its own",
)
