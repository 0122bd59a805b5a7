"""Exercises of lesson 00, start here."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from facekit.course.exercises import define, kind_of, require


@define(
    "00.1",
    "From Keras's order to PyTorch's",
    hints=(
        "`torch.from_numpy` keeps shape and dtype.",
        "`permute` names the old axes in their new order; the channels are axis 3.",
    ),
    right=lambda: [
        lambda images: torch.from_numpy(images).permute(0, 3, 1, 2),
        lambda images: torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        lambda images: torch.as_tensor(images).movedim(-1, 1).contiguous(),
    ],
    wrong=lambda: [
        (lambda images: torch.from_numpy(images).reshape(len(images), 3, images.shape[1], images.shape[2]), "mixes"),
        (lambda images: torch.from_numpy(images), "last"),
        (lambda images: torch.from_numpy(images).permute(0, 3, 2, 1), "shape"),
        (lambda images: torch.from_numpy(images).permute(3, 0, 1, 2), "shape"),
        (lambda images: torch.from_numpy(images).permute(0, 3, 1, 2) / 255, "uint8"),
        (lambda images: images.transpose(0, 3, 1, 2), "tensor"),
    ],
)
def _to_channels_first(function):
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    found = function(images.copy())
    require(isinstance(found, torch.Tensor), f"expected a tensor, got {kind_of(found)}.")
    require(found.shape != images.shape, "the channels are still last.")
    require(
        tuple(found.shape) == (2, 3, 4, 5),
        f"for 2 pictures of height 4 and width 5 expected shape (2, 3, 4, 5), got {tuple(found.shape)}.",
    )
    require(found.dtype == torch.uint8, f"expected uint8 as it came, got {found.dtype}; scaling is the network's work.")
    wanted = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    reshaped = torch.from_numpy(images).reshape(2, 3, 4, 5)
    require(not torch.equal(found, reshaped), "reshape keeps the order of the numbers and mixes pixels and channels.")
    require(torch.equal(found, wanted), "the shape is right, but the pixels are not where they belong.")
    return "the same pixels; only the order of the axes is another."


def _training(*order, outputs=lambda found: found, result=torch.Tensor.item):
    """A training step that does after the loss what `order` says; `outputs` and `result` for mistakes with these."""

    def step(model, optimiser, x, y):
        loss = F.cross_entropy(outputs(model(x)), y)
        for name in order:
            {"zero": optimiser.zero_grad, "backward": loss.backward, "step": optimiser.step}[name]()
        return result(loss)

    return step


_PLAIN = ("zero", "backward", "step")
_step, _no_zero = _training(*_PLAIN), _training("backward", "step")
_softmax = _training(*_PLAIN, outputs=lambda found: found.softmax(1))


@define(
    "00.2",
    "One training step",
    hints=(
        "Five lines: outputs, loss, and three calls that the figure of this lesson names.",
        "The gradients of the step before must be gone before `backward` adds the new ones.",
        "`loss.item()` is the loss as an ordinary number.",
    ),
    right=lambda: [_step, _training(*_PLAIN, result=lambda loss: loss.detach().numpy().item())],
    wrong=lambda: [
        (_no_zero, "step before"),
        (_training("backward", "zero", "step"), "nothing moved"),
        (_training("zero", "backward"), "nothing moved"),
        (_softmax, "softmax"),
        (_training(*_PLAIN, result=lambda loss: loss), "item"),
    ],
)
def _training_step(function):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        x, y = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    plain = _after_two(_step, model, x, y)
    found = _after_two(function, model, x, y)
    start = model.state_dict()
    require(not _same(found[0], start), "nothing moved: the weights are what they were before the step.")
    require(
        not _same(found[0], _after_two(_softmax, model, x, y)[0]), "cross_entropy does the softmax; leave yours out."
    )
    require(not _same(found[0], _after_two(_no_zero, model, x, y)[0]), "the gradients of the step before are still in.")
    require(_same(found[0], plain[0]), "the weights after two steps are not those of two plain steps.")
    loss = found[1]
    require(
        not isinstance(loss, torch.Tensor),
        "the loss is returned as a tensor, which keeps all that it was computed from in memory; return loss.item().",
    )
    require(isinstance(loss, float) and abs(loss - plain[1]) < 1e-6, f"expected the loss {plain[1]:.4f} as a number.")
    return "forward, loss, zero_grad, backward, step."


def _after_two(function, model, x, y):
    """Weights after two steps from the same start, and what the second step returned."""
    model = copy.deepcopy(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    function(model, optimiser, x, y)
    loss = function(model, optimiser, x, y)
    return copy.deepcopy(model.state_dict()), loss


def _same(one, other) -> bool:
    return all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def _freeze(module):
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.eval()


@define(
    "00.3",
    "Frozen means frozen",
    hints=(
        "Keras does two things when you set `trainable = False`; in PyTorch each is a call of its own.",
        "`parameter.requires_grad_(False)` for the weights, `module.eval()` for the statistics of BatchNorm.",
    ),
    right=lambda: [_freeze, lambda module: module.requires_grad_(False).eval()],
    wrong=lambda: [
        (lambda module: module.requires_grad_(False), "statistics"),
        (lambda module: module.eval(), "weights"),
        (lambda module: setattr(module, "trainable", False), "attribute"),
    ],
    in_place=True,
)
def _freezing(function):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, head = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()), nn.Linear(6, 2)
        x, y = torch.randn(16, 4) + 3, torch.tensor([0, 1] * 8)
    model = nn.Sequential(body, head).train()
    before = copy.deepcopy(model.state_dict())
    function(body)
    require(
        not hasattr(body, "trainable"), "a module has no switch `trainable`; you made an attribute that nobody reads."
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(x), y)
    if loss.requires_grad:
        loss.backward()
        optimiser.step()
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in moved if name.startswith("0.")}
    require(not any("running" not in name and "batches" not in name for name in frozen), "its weights still learn.")
    require(not frozen, "its weights rest, but the statistics of its BatchNorm moved when a batch went through.")
    require(any(name.startswith("1.") for name in moved), "the layer behind it should still learn.")
    return "one step of training moved the layer behind it and nothing in it."
