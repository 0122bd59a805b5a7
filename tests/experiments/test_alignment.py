"""Crops that are not what the network knows: no change changes nothing, and what is counted is what is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekit.data.align import Framing, cut_faces
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError
from facekit.experiments.crops import CHANGES, disturb
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.show import plots
from facekit.tasks import GENDER, RACE


@pytest.fixture(scope="module")
def portraits() -> FaceSet:
    return render_portraits(6, seed=11, size=96, per_person=1, workers=1)


@pytest.fixture(scope="module")
def backbone() -> FaceNetMini:
    return FaceNetMini.from_pretrained()


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(None, Heads(512, (RACE, GENDER))).eval()


@pytest.fixture(scope="module")
def result(portraits, backbone, classifier):
    return disturb(portraits, backbone, classifier)


def test_every_change_is_measured_and_none_of_it_changes_nothing(result):
    found = result.rows.groupby("change", sort=False)["amount"].unique().map(list).to_dict()
    assert found == {change: list(map(float, amounts)) for change, amounts in CHANGES.items()}
    means = result.means()
    assert list(means.index) == list(CHANGES) and np.allclose(means[0], 1, atol=1e-5)
    assert (means[3] < means[1]).all() and (means[3] < 0.95).all()
    same = result.rows[result.rows["metric"] == "same"].set_index(["change", "amount", "task"])["value"]
    assert same["turn", 0.0, "race"] == same["pixels", 96.0, "gender"] == 1
    assert same.between(0, 1).all()


def test_numbers_are_those_of_the_crops(result, portraits, backbone, classifier):
    crops, rows = cut_faces(list(portraits.images), [Framing(), Framing(turn=20)], backbone.image_size)
    labels = portraits.labels.iloc[rows]
    straight, turned = (embed(backbone, FaceSet(part, labels), cache=False).features for part in crops)
    value = result.rows.set_index(["change", "amount", "task", "metric"])["value"]
    assert value["turn", 20.0, "faces", "cosine"] == pytest.approx((straight * turned).sum(1).mean(), abs=1e-5)
    assert result.cosines["turn"][2] == pytest.approx((straight[0] * turned[0]).sum(), abs=1e-5)
    answers = [classifier(torch.from_numpy(part))["gender"].argmax(1) for part in (straight, turned)]
    assert value["turn", 20.0, "gender", "same"] == pytest.approx((answers[0] == answers[1]).double().mean())
    right = (answers[1] == GENDER.encode(labels["gender"])).double().mean()
    assert value["turn", 20.0, "gender", "accuracy"] == pytest.approx(right)
    assert "race" not in portraits.labels and ("turn", 20.0, "race", "accuracy") not in value.index
    assert (result.crops["turn"][2] == crops[1, 0]).all() and set(result.rows["n"]) == {len(rows)}


def test_pictures(result):
    assert len(result.figure().axes) == len(CHANGES)
    assert len(result.examples().axes) == sum(map(len, CHANGES.values()))
    assert plots.png(result.figure()).startswith(b"\x89PNG")


@pytest.mark.parametrize("changes", [{"colour": (0, 1)}, {"turn": (10, 20)}, {"wider": ()}])
def test_changes_that_cannot_be_made(changes, portraits, backbone, classifier):
    with pytest.raises(ConfigError, match="none of it first"):
        disturb(portraits, backbone, classifier, changes)


def test_without_a_face_there_is_nothing_to_measure(portraits, backbone, classifier):
    blank = FaceSet(np.zeros((2, 3, 96, 96), np.uint8), portraits.labels[:2])
    with pytest.raises(DataError, match="no face"):
        disturb(blank, backbone, classifier)
