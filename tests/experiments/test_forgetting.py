"""What is kept and lost by fine-tuning: laws of the four numbers that do not depend on any training."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
import torch.nn.functional as F

from facekit.errors import DataError
from facekit.experiments.forgetting import forgetting

TRAIN, TEST = tiny.faces(60, seed=1), tiny.faces(40, seed=2)


class Turned(tiny.TinyNet):
    """TinyNet with its embeddings turned: nothing is lost, and nothing is where it was."""

    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]

    def forward(self, images):
        return F.normalize(super().forward(images) @ self.turn)


class Constant(tiny.TinyNet):
    """One embedding for all: everything is forgotten."""

    def forward(self, images):
        return F.normalize(torch.ones(len(images), 6))


def network(kind=tiny.TinyNet):
    torch.manual_seed(0)
    return kind()


@pytest.fixture(scope="module")
def table():
    networks = {"unchanged": network(), "turned": network(Turned), "constant": network(Constant)}
    return forgetting(network(), networks, TRAIN, TEST, tiny.COLOUR)


def test_an_unchanged_network_has_lost_nothing(table):
    found = table.loc["unchanged"]
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["new probe"] == found["old probe"] > 0.7


def test_turned_embeddings_keep_all_but_their_place(table):
    turned, unchanged = table.loc["turned"], table.loc["unchanged"]
    assert turned["recognition"] == pytest.approx(unchanged["recognition"], abs=1 / 40)
    assert turned["new probe"] == pytest.approx(unchanged["new probe"], abs=1 / 40)
    assert turned["cosine"] < 0.9


def test_one_embedding_for_all_recognises_and_tells_nothing(table):
    most = (TRAIN.labels["colour"].mode()[0] == TEST.labels["colour"]).mean()
    assert table.loc["constant", "recognition"] == pytest.approx(1 / 40)
    assert table.loc["constant", "new probe"] == pytest.approx(most)


def test_the_networks_are_left_as_they_were():
    before, after = network().train(), network(Turned).train()
    states = copy.deepcopy([before.state_dict(), after.state_dict()])
    forgetting(before, {"after": after}, TRAIN, TEST, tiny.COLOUR)
    for net, state in zip((before, after), states, strict=True):
        assert net.training
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_one_photo_cannot_be_recognised_among_others():
    with pytest.raises(DataError, match="at least two"):
        forgetting(network(), {"before": network()}, TRAIN, TEST.select([0]), tiny.COLOUR)
