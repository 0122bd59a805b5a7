"""The recorded networks to start from: every way once a task, n and seed, scored on what nothing learnt from."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from test_studies import reference
from tiny import COLOUR, faces, features
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from facekit.commands.cli import main
from facekit.errors import DataError
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.records import recorded
from facekit.studies import networks
from facekit.studies.networks import Target, measure, measure_cost, real_targets, untrained

assert reference  # the fixture of toy photos
WAYS = ("facenet-mini", "facenet-mini, untrained", "pixels")


@pytest.fixture
def small(monkeypatch) -> None:
    """One network with weights, two targets of few pictures, few labels."""
    monkeypatch.setattr(networks, "FORMS", {"facenet-mini": FaceNetMini})
    monkeypatch.setattr(networks, "UNTRAINED", {"facenet-mini": FaceNetMini})
    monkeypatch.setattr(networks, "IN_OTHER_RECORDS", ())
    targets = (
        Target("faces", (COLOUR,), faces(40), {"held out": faces(20, 1), "official": faces(12, 2)}),
        Target("things", (COLOUR,), faces(24, 3), {"test": faces(12, 4)}),
    )
    monkeypatch.setattr(networks, "real_targets", lambda: targets)


def test_networks_are_recorded_whole(reference, small):
    assert main(["record", "networks", "--labels", "[15,30]", "--seeds", "[0,3]"]) == 0
    rows = recorded("networks_real", reference).rows
    found = rows[rows["metric"] == "accuracy"]
    places = sorted(zip(found["target"], found["network"], found["n"], found["seed"], found["tested"], strict=True))
    parts = [("faces", n, part) for n in (15, 30) for part in ("held out", "official")]
    parts += [("things", n, "test") for n in (15, 24)]  # there are 24 labels, no 30
    assert places == sorted((t, way, n, seed, part) for way in WAYS for seed in (0, 3) for t, n, part in parts)
    cheap = rows[rows["tested"] == ""]
    assert set(cheap["metric"]) == {"logme", "logme_bias", "h_score", "guess"}
    assert len(cheap) == 4 * len(WAYS) * 2 * 4 and cheap["value"].notna().all()
    told = recorded("networks_real", reference).about["data"]
    assert "faces 40 to draw from and 20 held out, 12 official" in told
    costs = recorded("networks_cost", reference).rows
    assert list(costs["network"]) == ["facenet-mini"]


def test_test_labels_change_the_accuracy_and_no_score_and_no_choice():
    pool, test = features(40), features(30, seed=1)
    lied = features(30, seed=1)
    lied.labels["colour"] = np.roll(lied.labels["colour"], 1)
    one, other = (measure(pool, {"test": each}, COLOUR, 20, 0).drop(columns="seconds") for each in (test, lied))
    differs = one["tested"] == "test"
    pd.testing.assert_frame_equal(one[~differs], other[~differs])
    assert not one[differs]["value"].equals(other[differs]["value"])
    assert (one[differs]["low"] <= one[differs]["value"]).all() and (
        one[differs]["value"] <= one[differs]["high"]
    ).all()


def test_an_untrained_network_has_random_weights_and_statistics_of_its_pictures():
    pictures = faces(64)
    network = untrained(FaceNetMini, pictures)
    torch.manual_seed(0)
    fresh = FaceNetMini()
    assert not network.training
    for (name, value), (_, before) in zip(network.state_dict().items(), fresh.state_dict().items(), strict=True):
        assert torch.equal(value, before) == ("running" not in name and "num_batches" not in name), name
    first = network.stem[0].conv(network.prepare(torch.from_numpy(pictures.resized(96).images)))
    np.testing.assert_allclose(network.stem[0].bn.running_mean, first.mean((0, 2, 3)).detach(), atol=1e-4)
    dropped = untrained(FaceNet, pictures.select(range(2)))
    assert not any(part.training for part in dropped.modules() if isinstance(part, nn.Dropout | _BatchNorm))


def test_the_costs_are_those_of_the_networks(monkeypatch):
    monkeypatch.setattr(networks, "FORMS", {"facenet-mini": FaceNetMini})
    (row,) = measure_cost(batch=4, rounds=1).to_dict("records")
    parameters = sum(each.numel() for each in FaceNetMini().parameters())
    assert row["parameters"] == parameters and row["megabytes"] == pytest.approx(4e-6 * parameters)
    assert (row["side"], row["embedding"]) == (96, 512) and min(row["fp32"], row["bf16"]) > 0
    assert "CC BY 4.0" in row["terms"] and "facekit" in row["source"]


def test_nothing_is_learnt_from_what_is_tested(monkeypatch):
    data = faces(60)
    data.labels["split"] = np.repeat(["train", "validation", "test"], 20)
    data.images[:, 0, 0, 0] = range(60)
    data.manifest["classes"] = {"object": ["a", "b"], "diagnosis": ["a", "b"]}
    data = type(data)(data.images, data.labels.assign(object="a", diagnosis="b"), data.manifest)
    monkeypatch.setattr(networks, "fairface", lambda: data)
    monkeypatch.setattr(networks, "photos", lambda name: data)
    monkeypatch.setattr(networks, "N_TEST", 10)
    monkeypatch.setattr(networks, "N_POOL", 25)
    for target in real_targets():
        parts = [set(each.images[:, 0, 0, 0].tolist()) for each in (target.pool, *target.tests.values())]
        assert all(not one & other for one, other in itertools.combinations(parts, 2))
        assert parts[-1] == set(range(40, 60)) and parts[0] <= set(range(40))
    assert [len(each) for each in (real_targets()[0].pool, *real_targets()[0].tests.values())] == [25, 10, 20]


def test_parts_of_all_embeddings_are_those_of_the_parts(monkeypatch):
    data = faces(30)
    monkeypatch.setattr(networks, "fairface", lambda: data)
    part = data.select([4, 2, 7])
    part = type(data)(part.images, part.labels.assign(row=[4, 2, 7]))
    network = FaceNetMini.from_pretrained()
    found = networks.of_all(network)(part)
    np.testing.assert_allclose(found.features, embed(network, part).features, atol=1e-5)
    assert list(found.labels["colour"]) == list(part.labels["colour"])


def test_too_few_labels_are_refused():
    with pytest.raises(DataError, match="at least 5"):
        measure(features(40), {"test": features(10)}, COLOUR, 4, 0)
