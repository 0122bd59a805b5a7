"""What all networks with stages have in common: exactly the named ones are frozen, whoever asks, and stay so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from backbones import noise
from hypothesis import given
from hypothesis import strategies as st
from test_adapters import TEXTS, THINGS
from tiny import COLOUR, SIDE, SIZE, ChainNet, TinyNet, classifier
from torch import nn

from facekit.errors import ConfigError
from facekit.models.adapters import DomainNet
from facekit.models.embedding import state_hash
from facekit.models.heads import parameter_counts
from facekit.models.multitask import CrossStitch, SharedNet, mlp, stack_of
from facekit.models.staged import Staged

NETWORKS: dict[str, Callable[[], Staged]] = {
    "backbone": TinyNet,
    "classifier": classifier,
    "network a task": lambda: SharedNet(stack_of(ChainNet()), (COLOUR, SIDE), "stem"),
    "cross-stitch": lambda: CrossStitch(mlp(6, (5, 4), dropout=0.5), (COLOUR, SIDE)),
    "domains": lambda: DomainNet(ChainNet(), [THINGS, TEXTS]),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_parameter_is_in_exactly_one_stage(kind):
    net = NETWORKS[kind]()
    owned = [p for stage in net.stages for p in net.stage_parameters(stage)]
    assert len(owned) == len({id(p) for p in owned}) and {id(p) for p in owned} == {id(p) for p in net.parameters()}
    assert parameter_counts(net)["parameters"].sum() == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
@given(data=st.data())
def test_exactly_the_named_stages_are_frozen_and_the_mode_of_the_others_stays(kind, data):
    net = NETWORKS[kind]()
    net.train(data.draw(st.booleans()))
    mode = net.training
    for _ in range(2):
        names = data.draw(st.sets(st.sampled_from(list(net.stages))))
        net.freeze(sorted(names))
        assert net.frozen == names and net.training == mode
        for flag in (mode, True, False):
            net.train(flag)
            for stage, modules in net.stages.items():
                assert all(p.requires_grad == (stage not in names) for p in net.stage_parameters(stage))
                inner = [one for module in modules for one in module.modules()]
                assert all(one.training == (flag and stage not in names) for one in inner)
        net.train(mode)
    net.freeze()
    assert net.frozen == set(net.stages) and not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_unknown_stage_is_refused_and_nothing_is_changed(kind):
    net = NETWORKS[kind]()
    net.freeze(list(net.stages)[:1])
    with pytest.raises(ConfigError, match=r"no stage \['top'\]; its stages are .*" + list(net.stages)[-1]):
        net.freeze(["top"])
    assert net.frozen == set(list(net.stages)[:1])


def test_a_part_that_is_frozen_by_itself_is_frozen_for_the_whole():
    model = classifier()
    model.freeze(["heads"])
    model.backbone.freeze(["stem"])
    assert model.frozen == {"stem", "heads"}
    model.freeze(["block"])
    assert model.backbone.frozen == {"block"}
    model.backbone.freeze([])
    model.train()
    assert model.frozen == frozenset() and all(module.training for module in model.modules())


def test_what_is_frozen_does_not_change_in_a_step():
    for make in (TinyNet, classifier):
        net = make()
        net.freeze(["stem"])
        net.train()
        before = state_hash(net.stages["stem"][0])
        optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
        out = net(noise(4, SIZE))
        (out if isinstance(out, torch.Tensor) else out["colour"]).square().sum().backward()
        optimiser.step()
        assert state_hash(net.stages["stem"][0]) == before


def test_a_network_says_what_its_stages_are():
    class Bare(Staged):
        """Without stages."""

    with pytest.raises(NotImplementedError):
        Bare().freeze()
    assert isinstance(Bare(), nn.Module)
