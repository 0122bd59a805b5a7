"""Lesson 12: what is built by hand is what facekit computes, on other rows than the lesson's; its figures and card."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from by_hand import of_lesson
from tiny import COLOUR, faces, features, probe

from facekit.course import lesson
from facekit.errors import LessonError
from facekit.evaluation.groups import GroupCounts
from facekit.tasks import Task
from facekit.training.batches import Batches
from facekit.transfer.fairness import GroupDRO, group_sizes

LESSON = lesson("12")
FIGURES = LESSON.figures
TOWN = Task("town", "multiclass", ("A", "B", "C"))


by_hand = partial(of_lesson, "12")


def test_scores_by_group_by_hand_are_those_of_facekit():
    rng = np.random.default_rng(0)
    town = rng.choice(TOWN.classes, 900, p=(0.8, 0.15, 0.05))
    truth, right = rng.integers(0, 2, 900), rng.random(900) < np.where(town == "A", 0.9, 0.6)
    said = np.where(right, truth, 1 - truth)
    mine = by_hand("by_group").by_group(right.astype(float), town)
    theirs = GroupCounts(COLOUR, ["town"]).add(said, truth, pd.DataFrame({"town": town})).scores(metrics=["accuracy"])
    assert list(mine.index) == list(theirs["town"]) and list(mine["n"]) == list(theirs["n"])
    np.testing.assert_allclose(mine["value"], theirs["value"])
    np.testing.assert_allclose(mine[["low", "high"]], theirs[["low", "high"]], atol=0.03)


def test_group_dro_by_hand_is_that_of_facekit_over_several_steps():
    data = features(60)
    data.labels["town"] = np.random.default_rng(1).choice(TOWN.classes, 60, p=(0.7, 0.2, 0.1))
    batch = next(Batches(data, [COLOUR, TOWN], 60).epoch())
    nets = probe(), probe()
    nets[1].load_state_dict(nets[0].state_dict())
    method, q = GroupDRO([COLOUR], TOWN, group_sizes(data, TOWN), step_size=0.5), torch.ones(3) / 3
    steps = [torch.optim.SGD(net.parameters(), lr=0.5) for net in nets]
    dro_loss = by_hand("dro_loss").dro_loss
    for _ in range(4):
        mine, q = dro_loss(nets[0](batch.inputs)["colour"], batch.targets["colour"], batch.targets["town"], q, 0.5)
        theirs, _ = method.loss(nets[1], batch)
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(q, method.log_weights.exp())
        for loss, step in zip((mine, theirs), steps, strict=True):
            step.zero_grad()
            loss.backward()
            step.step()
    assert q.max() > 0.34, "the weights moved"


def test_right_and_wrong_faces_are_right_and_wrong():
    shown = faces(20)
    labels = COLOUR.encode(shown.labels["colour"])
    said = labels.clone()
    said[:3] = 1 - said[:3]
    fig = FIGURES.right_and_wrong(shown, COLOUR, F.one_hot(said, 2).float())
    captions = [axis.texts[0].get_text().split() for axis in fig.axes if axis.texts]
    assert [caption[1] == caption[3] for caption in captions] == [True] * 6 + [False] * 3


def test_groups_stand_where_their_values_are():
    table = pd.DataFrame({"value": [0.5, 0.9], "low": [0.4, 0.85], "high": [0.7, 0.92]}, ["a_b", "c"])
    axis = FIGURES.groups({"task": {"one": table, "two": table - 0.1}}).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a b", "c"]
    np.testing.assert_allclose(axis.containers[0].lines[0].get_xdata().astype(float), [0.5, 0.9])
    np.testing.assert_allclose(axis.containers[1].lines[0].get_xdata().astype(float), [0.4, 0.8])


def test_a_recorded_classifier_stands_beside_the_one_of_its_name_where_there_is_one():
    table = pd.DataFrame({"value": [0.5, 0.9], "low": [0.4, 0.85], "high": [0.7, 0.92]}, ["A", "B"])
    row = {"task": "x", "by": "race", "metric": "accuracy", "audited": FIGURES.AUDITED, "network": "one", "group": "B"}
    row |= {"low": 0.1, "high": 0.9}
    rows = [row | {"value": 0.3}, row | {"value": 0.5}, row | {"group": "A", "value": 0.8}]
    rows += [row | {"value": 0.0, changed: "other"} for changed in ("task", "by", "metric", "audited", "network")]
    shown, empty = FIGURES.groups({"x": {"one": table}, "y": {"one": table}}, pd.DataFrame(rows)).axes
    np.testing.assert_allclose(shown.containers[1].lines[0].get_xdata().astype(float), [0.8, 0.4])
    assert len(shown.containers) == 2 and len(empty.containers) == 1


def test_an_arrow_leads_from_one_method_to_the_other_and_says_how_far():
    table = pd.DataFrame({"A": [0.5, 0.6], "B": [0.9, 0.8], "C": [0.7, 0.699]}, ["plain", "dro"])
    axis = FIGURES.moved(pd.concat({0: table - 0.1, 1: table + 0.1}), ("plain", "dro")).axes[0]
    assert axis.get_title() == "plain → dro"
    assert [text.get_text() for text in axis.get_yticklabels()] == ["A", "C", "B"]
    assert [text.get_text() for text in axis.texts if text.get_text()] == ["+10", "+0", "-10"]


def test_with_the_right_temperature_the_diagram_comes_to_the_diagonal():
    torch.manual_seed(0)
    outputs = torch.randn(20_000, 2)
    targets = torch.distributions.Categorical(logits=outputs).sample()
    fitted = pd.DataFrame({"scaling": ["none", "one", "own"], "temperature": [1.0, 4.0, 9.0]})
    axis = FIGURES.reliability(4 * outputs, targets, fitted).axes[0]
    raw, mended = (np.abs(line.get_ydata() - line.get_xdata()).max() for line in axis.lines[1:])
    assert mended < 0.05 < raw


def test_a_card_is_what_the_commands_leave_and_nothing_else():
    with pytest.raises(LessonError, match="0 model cards"):
        FIGURES.card(features(30))
    with pytest.raises(LessonError, match="failed"):
        FIGURES.card(features(30), "evaluate nothing faces")
