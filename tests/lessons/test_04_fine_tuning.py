"""Lesson 04: its loop by hand is that of facekit, and what its plots draw is what was given."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from by_hand import of_lesson
from tiny import COLOUR, ChainNet, faces

from facekit.course import lesson
from facekit.models.heads import Classifier, Heads
from facekit.models.staged import Staged
from facekit.training.batches import Batches
from facekit.training.loop import TrainConfig, fit
from facekit.training.methods import Supervised
from facekit.training.plans import Phase, Plan

FIGURES = lesson("04").figures


def test_the_loop_by_hand_ends_in_the_weights_of_facekit():
    data = faces(20)
    torch.manual_seed(0)
    model = Classifier(ChainNet(), Heads(ChainNet.embedding_dim, [COLOUR]))
    by_hand, theirs = model, copy.deepcopy(model)
    rates = {list(model.stages)[-2]: 1e-3, "heads": 1e-2}
    epochs = iter([[(b.inputs, b.targets["colour"]) for b in part] for part in in_the_order_of_fit(data, 5, 3)])

    class Loader:
        def __iter__(self):
            return iter(next(epochs))

    losses = of_lesson("04", "train", gender=COLOUR, course=OnCpu).train(by_hand, Loader(), rates, 3)
    plan = Plan("two rates", (Phase("two rates", 3, rates, warmup=0, schedule="constant"),))
    result = fit(
        theirs, Supervised([COLOUR]), data, None, plan, TrainConfig(batch_size=5, weight_decay=0, device="cpu")
    )
    np.testing.assert_allclose(np.reshape(losses, (3, -1)).mean(1), result.history["train_loss"], rtol=1e-4)
    for mine, other in zip(by_hand.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other)


def in_the_order_of_fit(data, batch_size, epochs):
    batches = Batches(data, [COLOUR], batch_size)
    return [list(batches.epoch(each)) for each in range(epochs)]


class OnCpu:
    """The only thing that the loop asks of the course."""

    device = "cpu"


def test_a_plan_is_drawn_epoch_by_epoch():
    phases = (Phase("probe", 2, {"heads": 1e-2}), Phase("all", 1, {"stem": 1e-5, "heads": 1e-3}))
    axis = FIGURES.plan_rates(Plan("two", phases).table(Stages()), "two").axes[0]
    shades = axis.images[0].get_array().filled(np.nan)
    assert np.allclose(shades, [[np.nan, np.nan, -5], [-2, -2, -3]], equal_nan=True)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["stem", "heads"]
    texts = ["frozen", "frozen", "1e-05", "1e-02", "1e-02", "1e-03"]
    assert [text.get_text() for text in axis.texts] == texts


def test_losses_of_steps_are_drawn_as_means_of_epochs():
    axis = FIGURES.losses({"by hand": [4.0, 2.0, 1.0, 1.0], "facekit": [3.0, 1.0]}, epochs=2, guess=0.7).axes[0]
    by_hand, facekit = ([*each.lines[0].get_ydata()] for each in axis.containers)
    assert by_hand == facekit == [3.0, 1.0]


class Stages(Staged):
    """Two stages without a parameter."""

    stages: ClassVar[dict] = {"stem": [], "heads": []}
