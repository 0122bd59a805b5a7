"""Hard sharing, soft sharing and cross-stitch: both ends of the dial, gradients, splits, missing labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from backbones import noise, stage_hashes, train_step
from tiny import COLOUR, LEVEL, SIDE, ChainNet, TinyNet, faces, features
from torch import nn

from facekit.errors import ConfigError, TrainingError
from facekit.experiments import compare_sharing, sharing_methods
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import state_hash
from facekit.models.heads import Classifier, Heads, parameter_counts
from facekit.models.multitask import (
    CrossStitch,
    SharedNet,
    distance,
    mlp,
    relative_distances,
    shared_parameters,
    sharing_costs,
    stack_of,
)
from facekit.tasks import AGE_BAND, GENDER, Joint
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.sharing import Marginals, SoftSharing, train_shared

TASKS = (COLOUR, SIDE, LEVEL)
CONFIG = TrainConfig(batch_size=8, weight_decay=0.1)


def stack(seed: int = 0, hidden=(5, 4), **more):
    torch.manual_seed(seed)
    return mlp(6, hidden, **more)


def chain(seed: int = 0):
    torch.manual_seed(seed)
    return stack_of(ChainNet())


def net(kind=SharedNet, shared=0, tasks=TASKS, seed: int = 0, of=None, **more):
    made = of or stack(seed)
    torch.manual_seed(seed + 1)
    return kind(made, tasks, shared, **more)


def everything(model, epochs: int = 3, lr: float = 0.02):
    return plan("everything", list(model.stages), epochs, lr)


def batch_of(data, tasks=TASKS, size: int = 12):
    return next(Batches(data, tasks, size).epoch())


def partly_labelled(data):
    """Every third row lacks one of the labels; the tasks take turns."""
    columns = {}
    for i, task in enumerate(TASKS):
        values = data.labels[task.name].astype(object)
        values[np.arange(len(data)) % 3 == i] = None
        columns[task.name] = values
    return replace(data, labels=data.labels.assign(**columns))


# --- stacks and splits


@pytest.mark.parametrize("backbone", [FaceNetMini, FaceNet])
def test_all_stages_shared_is_the_classifier_bit_for_bit(backbone):
    torch.manual_seed(0)
    network = backbone().eval()
    shared = SharedNet(stack_of(network), (GENDER, AGE_BAND)).eval()
    twin = Classifier(network, Heads(512, (GENDER, AGE_BAND))).eval()
    for name in ("gender", "age"):
        twin.heads.layers[name][-1].load_state_dict(shared.outputs[name].state_dict())
    images = noise(2, 96)
    found, expected = shared(images), twin(images)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(shared.stages) == list(twin.stages)
    assert parameter_counts(shared)["parameters"].tolist() == parameter_counts(twin)["parameters"].tolist()


def test_a_stack_copies_the_backbone_and_leaves_it_as_it_was():
    torch.manual_seed(0)
    network = ChainNet().train()
    network.freeze(["stem"])
    before = state_hash(network)
    model = SharedNet(stack_of(network), TASKS, 0)
    train_step(model, noise(4, 16))
    assert state_hash(network) == before and network.training and network.frozen == {"stem"}
    assert all(p.requires_grad for p in model.parameters())


def test_a_backbone_that_is_no_sequence_is_refused():
    with pytest.raises(ConfigError, match="not the sequence of its stages"):
        stack_of(TinyNetWithShortcut())


class TinyNetWithShortcut(ChainNet):
    """Not what its stages say: the embedding also sees the mean of the photo."""

    name = "shortcut"

    def forward(self, images):
        x = self.prepare(images)
        return nn.functional.normalize(super().forward(images) + x.mean((1, 2, 3))[:, None])


@pytest.mark.parametrize("make", [stack, chain])
@pytest.mark.parametrize("shared", [0, 1, 2, None])
def test_the_split_decides_who_uses_what(make, shared):
    of = make()
    model = net(shared=shared, of=of)
    names = list(of.stages)
    n = len(names) if shared is None else shared
    assert model.shared == tuple(names[:n]) and model.private == tuple(names[n:])
    assert list(model.stages) == [*names, "heads"]
    inputs = noise(6, 16) if make is chain else torch.from_numpy(features(6).features)
    model(inputs)["side"].sum().backward()
    for other in (COLOUR, LEVEL):
        assert all(p.grad is None for p in model.towers[other.name].parameters())
    used = [*model.trunk.parameters(), *model.towers["side"].parameters()]
    assert all(p.grad is not None for p in used)
    assert sum(p.numel() for p in used) == sum(p.numel() for stage in of.stages.values() for p in stage.parameters())


def test_a_split_can_be_named():
    assert net(shared="layer_1").shared == ("layer_1",)
    assert net(shared="layer_2").private == ()


@pytest.mark.parametrize("shared", [0, 1, None])
def test_at_the_start_all_splits_compute_the_same(shared):
    # Copies have the stack's weights, so that only the training tells the splits apart.
    inputs = torch.from_numpy(features(6).features)
    one, other = net(shared=shared), net(shared=2)
    for task in TASKS:
        assert torch.equal(one(inputs)[task.name], other(inputs)[task.name])


def test_every_parameter_is_in_exactly_one_stage():
    for model in (net(), net(shared=1), net(CrossStitch), net(of=chain(), shared=1)):
        listed = [id(p) for modules in model.stages.values() for module in modules for p in module.parameters()]
        assert sorted(listed) == sorted(id(p) for p in model.parameters()) and len(set(listed)) == len(listed)


def test_costs_count_what_is_shared_and_what_is_not():
    one = sum(p.numel() for stage in stack().stages.values() for p in stage.parameters())  # 6·5+5 + 5·4+4 = 59
    heads = {"colour": 10, "side": 10, "level": 5}
    assert sharing_costs(net(shared=None)).to_dict() == {"shared": one, **heads, "all": one + 25}
    soft = sharing_costs(net()).to_dict()
    assert soft == {"shared": 0, **{name: one + n for name, n in heads.items()}, "all": 3 * one + 25}
    assert sharing_costs(net(CrossStitch))["shared"] == 2 * 9
    assert all(sharing_costs(model)["all"] == sum(p.numel() for p in model.parameters()) for model in (net(shared=1),))


@pytest.mark.parametrize("shared", [0, 1, None])
def test_frozen_stages_do_not_change_whoever_uses_them(shared):
    model = net(shared=shared, of=chain())
    model.freeze(["stem", "embedding"])
    before = stage_hashes(model)
    train_step(model, noise(6, 16))
    after = stage_hashes(model)
    assert {name for name in before if before[name] != after[name]} == {"block", "heads"}
    model.freeze([])
    train_step(model, noise(6, 16))
    assert all(value != after[name] for name, value in stage_hashes(model).items())


def test_one_photo_alone_is_refused_in_training_as_by_the_backbone():
    model = net(of=chain()).train()
    with pytest.raises(TrainingError, match="batch of one photo"):
        model(noise(1, 16))
    model.freeze(["stem", "block", "embedding"])
    assert model(noise(1, 16))["side"].shape == (1, 2)
    with pytest.raises(ConfigError, match="uint8"):
        model(torch.rand(2, 3, 16, 16))


# --- training


@pytest.mark.parametrize("shared", [0, 1, None])
def test_partial_labels_a_task_learns_from_its_own_rows_only(shared):
    data = partly_labelled(features(30))
    model = net(shared=shared)
    outputs, targets = model(torch.from_numpy(data.features)), data.targets(TASKS)
    Supervised(TASKS).loss(model, batch_of(data, size=30))[0].backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for i, task in enumerate(TASKS):
        rows = np.arange(30) % 3 != i
        part = model(torch.from_numpy(data.features[rows]))[task.name]
        task.loss(part, targets[task.name][torch.from_numpy(rows)]).backward()
    for ours, theirs in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad)
    assert all(output.isfinite().all() for output in outputs.values())


@pytest.mark.parametrize("make", [stack, chain])
def test_strength_0_is_independent_training_bit_for_bit(make):
    data = partly_labelled(features(40) if make is stack else faces(24))
    together = net(of=make())
    alone = {task.name: copy.deepcopy(together) for task in TASKS}
    fit(together, SoftSharing(TASKS, 0.0), data, None, everything(together), CONFIG)
    for task in TASKS:
        single = SharedNet(make(), [task], 0)
        single.towers[task.name].load_state_dict(alone[task.name].towers[task.name].state_dict())
        single.outputs[task.name].load_state_dict(alone[task.name].outputs[task.name].state_dict())
        start = state_hash(single)
        fit(single, Supervised([task]), data, None, everything(single), CONFIG)
        assert state_hash(single) != start
        assert state_hash(single.towers[task.name]) == state_hash(together.towers[task.name])
        assert state_hash(single.outputs[task.name]) == state_hash(together.outputs[task.name])


def test_the_stronger_the_closer_up_to_one_network():
    found = {}
    for strength in (0.0, 0.1, 1.0, 100.0):
        model = net()
        fit(model, SoftSharing(TASKS, strength), features(40), None, everything(model, epochs=40), CONFIG)
        found[strength] = relative_distances(model)
    table = pd.DataFrame(found)
    assert (table.diff(axis=1).iloc[:, 1:] < 0).all(axis=None), table
    assert (table[0.0] > 0.2).all() and (table[100.0] < 2e-3).all(), table


def test_a_large_enough_strength_predicts_as_hard_sharing_does():
    # One network in both cases; AdamW does not mind that the one follows the mean of the gradients, the other the sum.
    # A strength far beyond that would fill AdamW's second moments and slow the learning (see SoftSharing).
    data, outputs = features(60), {}
    for name, (shared, method) in {
        "soft": (0, SoftSharing(TASKS, 0.3)),
        "hard": (None, Supervised(TASKS)),
        "independent": (0, Supervised(TASKS)),
    }.items():
        model = net(shared=shared)
        fit(model, method, data, None, everything(model, epochs=100, lr=0.003), TrainConfig(batch_size=20))
        outputs[name] = torch.cat(list(predict(model, data).values()), 1)
    far = (outputs["independent"] - outputs["hard"]).square().mean()
    assert (outputs["soft"] - outputs["hard"]).square().mean() < far / 8


def test_strength_by_stage_binds_only_that_stage():
    model = net()
    fit(model, SoftSharing(TASKS, {"layer_1": 100.0}), features(40), None, everything(model, epochs=20), CONFIG)
    found = relative_distances(model)
    assert found["layer_1"] < 5e-3 < 0.1 < found["layer_2"]


def test_the_penalty_is_frozen_with_its_stage():
    model = net()
    with torch.no_grad():
        model.towers["side"]["layer_1"][0].weight.add_(1)
    model.freeze(["layer_1"])
    before = state_hash(model.towers)
    SoftSharing(TASKS, {"layer_1": 5.0}).loss(model, batch_of(features(12)))[0].backward()
    assert state_hash(model.towers) == before
    assert all(p.grad is None for tower in model.towers.values() for p in tower["layer_1"].parameters())


def scattered(tasks=TASKS, of=None):
    model = net(tasks=tasks, of=of).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype))
    return model


@pytest.mark.parametrize("make", [stack, chain])
def test_gradient_of_the_penalty_is_2_lambda_a_minus_b_by_finite_differences(make):
    strength = 0.7
    model = scattered((COLOUR, SIDE), make())
    distance(model, strength).backward()
    for name in model.private:
        one, other = (list(model.towers[task][name].parameters()) for task in ("colour", "side"))
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a.grad, 2 * strength * (a - b).detach())
            torch.testing.assert_close(b.grad, -a.grad)
            with torch.no_grad():
                flat, kept = a.view(-1), a.view(-1)[0].item()
                flat[0] = kept + 1e-5
                above = distance(model, strength).item()
                flat[0] = kept - 1e-5
                below = distance(model, strength).item()
                flat[0] = kept
            assert a.grad.view(-1)[0].item() == pytest.approx((above - below) / 2e-5, rel=1e-5, abs=1e-7)
    assert all(p.grad is None for p in model.outputs.parameters())


def test_the_sum_over_pairs_is_the_number_of_tasks_times_the_distances_to_the_mean():
    model = scattered()
    total = 0.0
    for parts in zip(*(tower.parameters() for tower in model.towers.values()), strict=True):
        stacked = torch.stack(parts)
        total += 3 * (stacked - stacked.mean(0)).square().sum().item()
    assert distance(model).item() == pytest.approx(total)


def test_the_penalty_counts_each_stage_with_its_strength():
    model = scattered()
    one, other = (distance(model, {name: 1.0}).item() for name in model.private)
    assert distance(model, {"layer_1": 2.0, "layer_2": 0.5}).item() == pytest.approx(2 * one + 0.5 * other)
    assert distance(net()).item() == 0  # equal copies
    assert distance(net(shared=None)).item() == 0  # no copies at all


def test_soft_sharing_logs_its_penalty_and_adds_it():
    model = scattered().float()
    batch = batch_of(features(12))
    total, logs = SoftSharing(TASKS, 0.3).loss(model, batch)
    plain, _ = Supervised(TASKS).loss(model, batch)
    assert set(logs) == {"colour", "side", "level", "penalty"} and not logs["penalty"].requires_grad
    torch.testing.assert_close(total, plain + logs["penalty"])
    torch.testing.assert_close(logs["penalty"], distance(model, 0.3))


def test_relative_distance_of_equal_opposite_and_unrelated_layers():
    model = net(tasks=(COLOUR, SIDE), of=mlp(6, (4000,)))
    assert relative_distances(model)["layer_1"] == 0
    layers = [model.towers[task]["layer_1"] for task in ("colour", "side")]
    with torch.no_grad():
        for one, other in zip(*(layer.parameters() for layer in layers), strict=True):
            other.copy_(torch.randn_like(other) * one.std())
    assert relative_distances(model)["layer_1"] == pytest.approx(1, abs=0.1)
    with torch.no_grad():
        for one, other in zip(*(layer.parameters() for layer in layers), strict=True):
            other.copy_(-one)
    assert relative_distances(model)["layer_1"] == pytest.approx(2**0.5)


# --- cross-stitch


@pytest.mark.parametrize("make", [stack, chain])
def test_cross_stitch_at_identity_is_independent_networks(make):
    inputs = noise(6, 16) if make is chain else torch.from_numpy(features(6).features)
    stitched, plain = scattered(of=make()).float(), net(CrossStitch, of=make(), mix=0.0)
    plain.load_state_dict(stitched.state_dict(), strict=False)
    for mode in (True, False):
        found, expected = plain.train(mode)(inputs), stitched.train(mode)(inputs)
        assert all(torch.equal(found[task.name], expected[task.name]) for task in TASKS)


def test_cross_stitch_mixes_the_activations_of_a_stage():
    model = net(CrossStitch, tasks=(COLOUR, SIDE), mix=0.2)
    with torch.no_grad():
        model.alphas["layer_1"].copy_(torch.tensor([0.7, 0.3, -0.2, 1.1]))
    x = torch.from_numpy(features(4).features)
    scaled = x * 6**0.5
    a, b = (model.towers[task]["layer_1"](scaled) for task in ("colour", "side"))
    a, b = 0.7 * a + 0.3 * b, -0.2 * a + 1.1 * b
    a, b = (model.towers[task]["layer_2"](v) for task, v in (("colour", a), ("side", b)))
    a, b = 0.8 * a + 0.2 * b, 0.2 * a + 0.8 * b
    found = model(x)
    torch.testing.assert_close(found["colour"], model.outputs["colour"](a))
    torch.testing.assert_close(found["side"], model.outputs["side"](b))
    np.testing.assert_allclose(model.alpha("layer_1"), [[0.7, 0.3], [-0.2, 1.1]], rtol=1e-6)
    assert model.alpha("layer_1").index.tolist() == ["colour", "side"]


def test_alphas_start_near_identity_learn_and_do_not_decay():
    model = net(CrossStitch)
    np.testing.assert_allclose(model.alpha("layer_2"), np.full((3, 3), 0.05) + 0.85 * np.eye(3), rtol=1e-5)
    assert "stitches" in model.stages
    train_shared(model, Supervised(TASKS), features(40), steps=40, seed=0, batch_size=8)
    assert np.abs(model.alpha("layer_1") - (np.full((3, 3), 0.05) + 0.85 * np.eye(3))).to_numpy().max() > 0.01
    still = net(CrossStitch)
    still.freeze(["layer_1", "layer_2", "heads"])
    silent = replace(features(16), inputs=np.zeros((16, 6), np.float32))  # zero activations: α gets no gradient
    with torch.no_grad():
        for p in still.towers.parameters():
            p.zero_()
    train_shared(still, Supervised(TASKS), silent, steps=20, seed=0, weight_decay=0.5)
    np.testing.assert_allclose(still.alpha("layer_2"), np.full((3, 3), 0.05) + 0.85 * np.eye(3), rtol=1e-5)


def test_only_the_named_stages_are_stitched():
    assert list(net(CrossStitch, stitched=["layer_2"]).alphas) == ["layer_2"]
    assert list(net(CrossStitch, shared=1).alphas) == ["layer_2"]


# --- the rest


def test_shared_parameters_are_those_of_the_trunk():
    model = net(shared=1)
    assert {id(p) for p in shared_parameters(model)} == {id(p) for p in model.trunk.parameters()}
    whole = Classifier(TinyNet(), Heads(6, TASKS))
    assert {id(p) for p in shared_parameters(whole)} == {id(p) for p in whole.backbone.parameters()}
    assert {id(p) for p in shared_parameters(whole, ["stem"])} == {id(p) for p in whole.backbone.stem.parameters()}
    for bad in (net(shared=0), Classifier(None, Heads(6, TASKS))):
        with pytest.raises(ConfigError, match="share no trainable"):
            shared_parameters(bad)
    with pytest.raises(ConfigError, match="do not share a stage"):
        shared_parameters(model, ["layer_2"])


def test_marginals_turn_a_joint_head_into_the_parts():
    joint = Joint((COLOUR, SIDE))
    data = features(200)
    data = replace(data, labels=joint.add_to(data.labels))
    torch.manual_seed(0)
    model = SharedNet(mlp(6, (32,)), [joint.task])
    train_shared(model, Supervised([joint.task]), data, steps=200, seed=0, lr=0.01, weight_decay=0.0)
    outputs = predict(Marginals(model, joint), data)
    assert list(outputs) == ["colour", "side"]
    for task in (COLOUR, SIDE):
        assert (task.predict(outputs[task.name]) == task.encode(data.labels[task.name])).float().mean() > 0.9


def test_the_same_budget_whatever_the_number_of_rows():
    for n in (10, 100):
        model = net()
        before = state_hash(model)
        train_shared(model, Supervised(TASKS), features(n), steps=5, seed=0)
        assert state_hash(model) != before and not model.training


def test_sharing_is_compared_on_the_same_rows_at_the_same_budget():
    tasks = (COLOUR, SIDE)
    methods = sharing_methods((8,), 0.0, strengths=(0.0, 0.3), steps=20, joint=True)
    assert list(methods) == ["single", "hard", "soft 0", "soft 0.3", "cross-stitch", "joint classes"]
    table = compare_sharing(features(60), features(50, seed=1), tasks, [20, 40, 1000], [0, 1], methods)
    assert list(table) == ["method", "n", "seed", "task", "metric", "value", "seconds"]
    counts = table[table["metric"] == "accuracy"].groupby(["method", "n", "seed", "task"]).size()
    assert len(counts) == 6 * 2 * 2 * 2 and (counts == 1).all() and set(table["n"]) == {20, 40}
    values = table.set_index(["method", "n", "seed", "task", "metric"])["value"]
    assert values["soft 0"].equals(values["single"]) and not values["soft 0.3"].equals(values["single"])
    once_more = compare_sharing(features(60), features(50, seed=1), tasks, [20], [1], {"hard": methods["hard"]})
    again = once_more.set_index(["method", "n", "seed", "task", "metric"])["value"]
    assert again.equals(values.loc[again.index])
    with pytest.raises(ConfigError, match="nothing to measure"):
        compare_sharing(features(10), features(10), tasks, [20], [0])


def test_wrong_arguments():
    for make in (lambda: mlp(6, ()), lambda: mlp(0), lambda: mlp(6, (0,)), lambda: mlp(6, dropout=1.0)):
        with pytest.raises(ConfigError, match="hidden layer"):
            make()
    for tasks in ((), (COLOUR, COLOUR)):
        with pytest.raises(ConfigError, match="each only once"):
            SharedNet(stack(), tasks)
    for shared in (3, -1, "layer_3", 1.5):
        with pytest.raises(ConfigError, match="from 0 to 2"):
            SharedNet(stack(), TASKS, shared)
    with pytest.raises(ConfigError, match=r"\(N, 6\)"):
        net()(torch.zeros(2, 5))
    with pytest.raises(ConfigError, match="no stage"):
        net().freeze(["stem"])
    with pytest.raises(ConfigError, match="of its own"):
        distance(net(shared=1), {"layer_1": 1.0})
    for bad in (-1.0, float("nan"), {"layer_1": float("inf")}):
        with pytest.raises(ConfigError, match="0 or more"):
            SoftSharing(TASKS, bad)
    with pytest.raises(ConfigError, match="mix"):
        CrossStitch(stack(), TASKS, mix=2)
    with pytest.raises(ConfigError, match="two tasks"):
        CrossStitch(stack(), [COLOUR])
    with pytest.raises(ConfigError, match="not shared"):
        CrossStitch(stack(), TASKS, 2)
    with pytest.raises(ConfigError, match="of its own"):
        CrossStitch(stack(), TASKS, 1, ["layer_1"])
    with pytest.raises(ConfigError, match="steps"):
        train_shared(net(), Supervised(TASKS), features(8), steps=0, seed=0)


def test_copies_that_start_apart_are_as_far_apart_as_unrelated_layers():
    model = net(of=stack(hidden=(200, 100)))
    heads = copy.deepcopy(model.outputs.state_dict())
    assert model.start_apart() is model
    assert relative_distances(model).between(0.9, 1.1).all()
    assert all(torch.equal(value, heads[name]) for name, value in model.outputs.state_dict().items())
