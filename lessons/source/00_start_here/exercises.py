"""Exercises of lesson 00, start here."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from facekit.course.exercises import (
    NotAttempted,
    as_number,
    as_tensor,
    define,
    define_experiment,
    define_values,
    is_stub,
    kind_of,
    require,
)


def _pixels(found):
    require(isinstance(found, torch.Tensor), f"expected a tensor, got {kind_of(found)}.")
    require(found.dtype == torch.uint8, f"expected uint8 as it came, got {found.dtype}; scaling is the network's work.")
    return found


_to_channels_first = define_values(
    "00.1",
    "From Keras's order to PyTorch's",
    hints=(
        "`torch.from_numpy` keeps shape and dtype.",
        "`permute` names the old axes in their new order; the channels are axis 3.",
    ),
    right=[
        lambda images: torch.from_numpy(images).permute(0, 3, 1, 2),
        lambda images: torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
        lambda images: torch.as_tensor(images).movedim(-1, 1).contiguous(),
    ],
    cases=[(np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3),)],
    asked="for 2 pictures of height 4 and width 5",
    mistakes=[
        (torch.from_numpy, "the channels are still last."),
        (
            lambda images: torch.from_numpy(images).reshape(2, 3, 4, 5),
            "the shape is right, but reshape keeps the order of the numbers and mixes pixels and channels.",
        ),
    ],
    others=[
        (lambda images: torch.from_numpy(images).permute(0, 3, 2, 1), "shape"),
        (lambda images: torch.from_numpy(images).permute(3, 0, 1, 2), "shape"),
        (lambda images: torch.from_numpy(images).permute(0, 3, 1, 2).flip(3), "not where they belong"),
        (lambda images: torch.from_numpy(images).permute(0, 3, 1, 2) / 255, "uint8"),
        (lambda images: images.transpose(0, 3, 1, 2), "tensor"),
    ],
    otherwise="the shape is right, but the pixels are not where they belong.",
    praise="the same pixels; only the order of the axes is another.",
    read=_pixels,
)


def _training(*order, outputs=lambda found: found, result=torch.Tensor.item):
    """A training step that does after the loss what `order` says; `outputs` and `result` for mistakes with these."""

    def step(model, optimiser, x, y):
        loss = F.cross_entropy(outputs(model(x)), y)
        for name in order:
            {"zero": optimiser.zero_grad, "backward": loss.backward, "step": optimiser.step}[name]()
        return result(loss)

    return step


def _after_two(step, what):
    """`weights` after two steps from the same start, or the `loss` that the second step returned.

    The first step finds gradients of something else, so that emptying them at its end is too late.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x, y = nn.Linear(4, 3).double(), torch.randn(8, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model(x).square().sum().backward()
    step(model, optimiser, x, y)
    loss = step(model, optimiser, x, y)
    if what == "weights":
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    require(
        not isinstance(loss, torch.Tensor),
        "the loss is returned as a tensor, which keeps all that it was computed from in memory; return loss.item().",
    )
    return torch.tensor(as_number(loss, "the loss as a number"))


_PLAIN = ("zero", "backward", "step")
_training_step = define_values(
    "00.2",
    "One training step",
    hints=(
        "Five lines: outputs, loss, and three calls that the figure of this lesson names.",
        "The gradients of the step before must be gone before `backward` adds the new ones.",
        "`loss.item()` is the loss as an ordinary number.",
    ),
    right=[_training(*_PLAIN), _training(*_PLAIN, result=lambda loss: loss.detach().numpy().item())],
    cases=[("weights",), ("loss",)],
    mistakes=[
        (_training("zero", "backward"), "nothing moved: the weights are what they were before the step."),
        (
            _training(*_PLAIN, outputs=lambda found: found.softmax(1)),
            "cross_entropy does the softmax; leave yours out.",
        ),
        (
            _training("backward", "step", "zero"),
            "zero_grad comes after the step: what stood in the gradients before your step was still in it.",
        ),
        (_training("backward", "step"), "the gradients of the step before are still in."),
    ],
    others=[
        (_training("backward", "zero", "step"), "nothing moved"),
        (_training(*_PLAIN, result=lambda loss: loss), "item"),
    ],
    otherwise="the weights or the loss after two steps are not those of two plain steps.",
    praise="forward, loss, zero_grad, backward, step.",
    run=_after_two,
    read=as_tensor,
)


def _freeze(module):
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.eval()


def _moved(freeze):
    """Whether a step of training moves a frozen body's weights, its statistics, and the head behind it: three bools."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, head = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()), nn.Linear(6, 2)
        x, y = torch.randn(16, 4) + 3, torch.tensor([0, 1] * 8)
    model = nn.Sequential(body, head).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze(body)
    require(
        not hasattr(body, "trainable"), "a module has no switch `trainable`; you made an attribute that nobody reads."
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(x), y)
    if loss.requires_grad:
        loss.backward()
        optimiser.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    weights = {name for name, _ in body.named_parameters(prefix="0")}
    statistics = {name for name, _ in body.named_buffers(prefix="0")}
    return torch.tensor([bool(moved & weights), bool(moved & statistics), bool(moved - weights - statistics)])


_freezing = define_values(
    "00.3",
    "Frozen means frozen",
    hints=(
        "Keras does two things when you set `trainable = False`; in PyTorch each is a call of its own.",
        "`parameter.requires_grad_(False)` for the weights, `module.eval()` for the statistics of BatchNorm.",
    ),
    right=[_freeze, lambda module: module.requires_grad_(False).eval()],
    mistakes=[
        (lambda module: module.eval(), "its weights still learn."),
        (lambda module: module.train(), "its weights still learn."),
        (
            lambda module: module.requires_grad_(False),
            "its weights rest, but the statistics of its BatchNorm moved when a batch went through.",
        ),
    ],
    others=[(lambda module: setattr(module, "trainable", False), "attribute")],
    otherwise="the layer behind it should still learn.",
    praise="one step of training moved the layer behind it and nothing in it.",
    run=_moved,
    read=as_tensor,
    in_place=True,
)


class _Numbers(Dataset):
    """Four photos (3, 2, 2) whose pixels are all different, with targets 4 to 7."""

    def __len__(self):
        return 4

    def __getitem__(self, row):
        if not 0 <= row < 4:
            raise IndexError(row)
        return torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2) + 12 * row, torch.tensor(4 + row)


def _doubled(
    n_rows=lambda n: 2 * n, source=lambda row, n: row % n, mirrored=lambda row, n: row >= n, axis=-1, target=0
):
    """The class of exercise 00.4, right, or wrong in one respect."""

    class Doubled(Dataset):
        def __init__(self, data):
            self.data = data

        def __len__(self):
            return n_rows(len(self.data))

        def __getitem__(self, row):
            n = len(self.data)
            photo, label = self.data[source(row, n)]
            return (photo.flip(axis) if mirrored(row, n) else photo), label + target

    return Doubled


def _without_len():
    return type("Doubled", (Dataset,), {"__init__": lambda self, data: None, "__getitem__": lambda self, row: row})


@define(
    "00.4",
    "A Dataset of your own",
    hints=(
        "`len(self.data)` is n; yours is twice as long.",
        "Row n + i shows what row i shows: `row % n` gives i for both.",
        "`photo, target = self.data[row % n]`; return it as it is if `row < n`, mirrored otherwise.",
    ),
    right=lambda: [_doubled(), _doubled(source=lambda row, n: row if row < n else row - n)],
    wrong=lambda: [
        (_doubled(n_rows=lambda n: n), "8 rows, found 4"),
        (_doubled(mirrored=lambda row, n: False), "row 4 is not mirrored"),
        (_doubled(mirrored=lambda row, n: row > n), "row 4 is not mirrored"),
        (_doubled(mirrored=lambda row, n: True), "row 0 should be as it is"),
        (_doubled(axis=-2), "upside down"),
        (_doubled(axis=-3), "colours"),
        (_doubled(source=lambda row, n: row // 2), "row 1 shows another face"),
        (_doubled(target=1), "target of row 0"),
        (_doubled(source=lambda row, n: row), "IndexError"),
        (_doubled()(_Numbers()), "class itself"),
        (_without_len(), "len"),
        (8, "expected the class"),
    ],
)
def _a_dataset(answer):
    require(not isinstance(answer, Dataset), "this is one Dataset; the check needs the class itself: Doubled.")
    require(isinstance(answer, type), f"expected the class Doubled, not {kind_of(answer)}.")
    if any(is_stub(vars(answer).get(name)) for name in ("__len__", "__getitem__")):
        raise NotAttempted
    given = _Numbers()
    doubled = answer(given)
    require(hasattr(doubled, "__len__"), "len(…) of it is not there; write `__len__`.")
    require(len(doubled) == 8, f"of 4 faces: expected 8 rows, found {len(doubled)}.")
    for row in range(8):
        try:
            found = doubled[row]
        except Exception as error:
            require(False, f"row {row} raised {type(error).__name__}: {error}.")
        require(isinstance(found, tuple | list) and len(found) == 2, f"row {row}: expected photo and target.")
        photo, (plain, target) = as_tensor(found[0], (3, 2, 2)), given[row % 4]
        wanted = plain.flip(-1) if row >= 4 else plain
        if not torch.equal(photo, wanted):
            require(not torch.equal(photo, plain), f"row {row} is not mirrored.")
            require(not torch.equal(photo, plain.flip(-1)), f"row {row} should be as it is, and is mirrored.")
            require(not torch.equal(photo, plain.flip(-2)), f"row {row} is upside down; mirror left and right.")
            require(not torch.equal(photo, plain.flip(-3)), f"row {row}: the colours are exchanged; the width is last.")
            require(False, f"row {row} shows another face, or other pixels.")
        require(int(found[1]) == int(target), f"the target of row {row} is not that of its face.")
    return "a DataLoader takes it like any other Dataset."


_experiment = define_experiment(
    "00.5",
    "Your own experiment",
    hints=(
        "Begin with one seed: a function of `seed` that makes, trains and scores two networks.",
        'It returns a dictionary: {"as it was": …, "my way": …}; `over_seeds(my_function, seeds=range(3))`.',
        "The solution trains on `Doubled(train)` for half the epochs.",
    ),
    baseline="as it was",
)
