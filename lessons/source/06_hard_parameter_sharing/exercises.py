"""Exercises of lesson 06, hard parameter sharing."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from facekit.course.exercises import as_tensor, as_whole_number, define, require


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


@define(
    "06.2",
    "What does sharing save?",
    hints=(
        "A shared layer exists once. A layer that is not shared exists once for each task.",
        "`layers[:shared]` are the shared ones, `layers[shared:]` the others; there is a head for each task.",
        "The heads are never shared: add up what they have.",
    ),
    right=lambda: [
        _count,
        lambda layers, heads, shared: (
            sum(size * (1 if i < shared else len(heads)) for i, size in enumerate(layers)) + sum(heads)
        ),
    ],
    wrong=lambda: [
        (lambda layers, heads, shared: sum(layers) + sum(heads), "for each task"),
        (lambda layers, heads, shared: len(heads) * sum(layers) + sum(heads), "only once"),
        (lambda layers, heads, shared: _count(layers, heads, len(layers) - shared), "other way round"),
        (lambda layers, heads, shared: _count(layers, heads, shared) - sum(heads), "heads"),
        (lambda layers, heads, shared: 12, "expected"),
    ],
)
def _parameters(function):
    layers, heads = [100, 20, 5], [7, 2, 9]
    asked = "for layers [100, 20, 5], heads [7, 2, 9]"
    value = as_whole_number(function(layers, heads, 1))
    wanted = _count(layers, heads, 1)
    require(value != 143, f"{asked}, shared=1: a layer that is not shared exists once for each task.")
    require(value != 393, f"{asked}, shared=1: the first layer is shared and exists only once.")
    require(value != wanted - sum(heads), f"{asked}, shared=1: the heads have parameters, too.")
    flipped = _count(layers, heads, 2)
    require(value != flipped, f"{asked}, shared=1: it is the other way round; the first layer is shared, not the last.")
    require(value == wanted, f"{asked}, shared=1 expected {wanted}, got {value}.")
    for shared in (0, 3):
        value, wanted = as_whole_number(function(layers, heads, shared)), _count(layers, heads, shared)
        require(value == wanted, f"{asked}, shared={shared} expected {wanted}, got {value}.")
    return "100 once, 20 and 5 three times, and the heads: 193 in place of the 393 of three networks."


def _project(a, b):
    dot = a @ b
    return a - dot / (b @ b) * b if dot < 0 else a


@define(
    "06.3",
    "Out of each other's way",
    hints=(
        "Two gradients are in conflict when their dot product is below 0. If it is not, `a` stays as it is.",
        "The part of `a` along `b` is `(a @ b) / (b @ b) * b`.",
        "Take that part away from `a`: what is left is perpendicular to `b`.",
    ),
    right=lambda: [_project, lambda a, b: a - (a @ b).clamp_max(0) / (b @ b) * b],
    wrong=lambda: [
        (lambda a, b: a - (a @ b) / (b @ b) * b, "do not conflict"),
        (lambda a, b: a, "still goes against"),
        (lambda a, b: a - (a @ b) * b if a @ b < 0 else a, "length"),
        (lambda a, b: b - (a @ b) / (a @ a) * a if a @ b < 0 else a, "projected `b`"),
        (lambda a, b: a + (a @ b) / (b @ b) * b if a @ b < 0 else a, "sign"),
        (lambda a, b: a * 0 if a @ b < 0 else a, "expected"),
    ],
)
def _projection(function):
    a, b = torch.tensor([-2.0, 1.0, 3.0]), torch.tensor([4.0, 0.0, 0.0])
    found = as_tensor(function(a, b), (3,))
    require(not torch.allclose(found, a), "the result still goes against `b`: their dot product is below 0.")
    require(not torch.allclose(found, a - (a @ b) * b), "`b` need not have length 1; divide by its squared length.")
    other = b - (a @ b) / (a @ a) * a
    require(not torch.allclose(found, other, atol=1e-5), "you projected `b`; the function returns what is left of `a`.")
    require(not torch.allclose(found, a + (a @ b) / (b @ b) * b), "mind the sign: take the part along `b` away.")
    wanted = _project(a, b)
    require(torch.allclose(found, wanted, atol=1e-5), f"for (-2, 1, 3) and (4, 0, 0) expected {wanted.tolist()}.")
    a, b = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])
    found = as_tensor(function(a, b), (2,))
    require(torch.allclose(found, a), "gradients that do not conflict stay as they are: here the dot product is 1.")
    return "what is left of `a` is perpendicular to `b`: a small step along it leaves the other task's loss as it is."
