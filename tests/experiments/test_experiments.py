"""Experiments: same rows, same steps, same start for what is compared; nothing frozen moves; baselines by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from backbones import stage_hashes
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, LEVEL, SIDE, TinyNet, faces, features

from facekit.errors import ConfigError
from facekit.experiments import (
    LADDER,
    PROBES,
    Runs,
    chance,
    few_labels,
    fine_tune,
    fine_tune_and_score,
    learning_curve,
    scores,
    train_net,
)
from facekit.models.multitask import SharedNet, mlp, relative_distances
from facekit.training.methods import Supervised
from facekit.training.plans import PLANS
from facekit.transfer.probe import linear_probe

POOL = features(60)
LINEAR = {"linear": PROBES["linear"]}


def backbone(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5))
def test_a_smaller_draw_is_the_beginning_of_a_larger_one(one, other, seed):
    small, large = sorted((one, other))
    few, many = few_labels(POOL, small, seed), few_labels(POOL, large, seed)
    np.testing.assert_array_equal(few.features, many.features[:small])
    pd.testing.assert_frame_equal(few.labels, many.labels[:small])
    assert len(np.unique(many.features, axis=0)) == large, "no row twice"


def test_draws_differ_by_seed_and_cannot_exceed_the_set():
    assert not np.array_equal(few_labels(POOL, 20, 0).features, few_labels(POOL, 20, 1).features)
    pool = np.arange(5, 40)
    drawn = few_labels(POOL, 20, 0, pool)
    np.testing.assert_array_equal(drawn.features, few_labels(POOL.select(pool), 20, 0).features)
    with pytest.raises(ConfigError, match="of 35"):
        few_labels(POOL, 36, 0, pool)
    for n in (0, -1, 61):
        with pytest.raises(ConfigError, match="of 60"):
            few_labels(POOL, n, 0)


def test_chance_always_answers_the_most_frequent_class_of_the_training_rows():
    train, test = faces(30), faces(20, seed=1)
    train.labels.loc[:, "colour"] = ["dark"] * 10 + ["bright"] * 11 + [None] * 9
    row = chance(train, test, [COLOUR]).set_index("metric")["value"]
    assert row["accuracy"] == pytest.approx((test.labels["colour"] == "bright").mean())
    assert row["balanced_accuracy"] == 0.5


def test_learning_curve_has_one_row_a_measurement_and_each_is_what_the_method_gets_alone():
    test = features(30, seed=1)
    curve = learning_curve(POOL, test, [COLOUR, SIDE], [10, 40, 61], [0, 3], LINEAR)
    assert list(curve.columns) == ["method", "n", "seed", "task", "metric", "value", "seconds"]
    assert not curve.duplicated(["method", "n", "seed", "task", "metric"]).any()
    assert set(curve["n"]) == {10, 40}, "more rows than there are cannot be drawn"
    assert len(curve) == 2 * 2 * 2 * 2  # sizes, seeds, tasks, accuracy and balanced accuracy
    alone = scores(linear_probe(few_labels(POOL, 40, 3), [SIDE]), test, [SIDE])
    found = curve.query("n == 40 and seed == 3 and task == 'side'")
    np.testing.assert_array_equal(found["value"], alone["value"])
    assert (curve["seconds"] > 0).all()


def test_all_methods_of_a_curve_learn_from_the_same_rows():
    seen = []

    def spy(rows, tasks, seed):
        seen.append((seed, len(rows), rows.features.tobytes()))
        return linear_probe(rows, tasks)

    learning_curve(POOL, POOL, [COLOUR], [10, 20], [0, 1], {"one": spy, "other": spy})
    assert len(seen) == 8
    assert seen[::2] == seen[1::2]


@pytest.mark.parametrize(("labels", "seeds"), [([61], [0]), ([], [0]), ([10], [])])
def test_a_curve_without_points_is_an_error(labels, seeds):
    with pytest.raises(ConfigError, match="nothing to measure"):
        learning_curve(POOL, POOL, [COLOUR], labels, seeds, LINEAR)


def test_the_ladder_goes_from_frozen_to_scratch_with_plans_that_exist():
    assert [strategy.name for strategy in LADDER][0] == "frozen" and LADDER[0].plan == "probe"
    assert [strategy.name for strategy in LADDER if not strategy.pretrained] == ["from scratch"]
    assert {strategy.plan for strategy in LADDER} <= set(PLANS)
    assert len({strategy.name for strategy in LADDER}) == len(LADDER)


@pytest.fixture(scope="module")
def ladder():
    """Every strategy on the same photos: model by strategy name, and all rows."""
    train, test = faces(24), faces(12, seed=1)
    models, tables = {}, []
    for strategy in LADDER:
        models[strategy.name], rows = fine_tune_and_score(
            strategy, backbone(), train, test, [COLOUR, LEVEL], epochs=3, seed=1, batch_size=8
        )
        tables.append(rows)
    return models, pd.concat(tables, ignore_index=True)


def test_every_rung_takes_the_same_number_of_steps(ladder):
    assert set(ladder[1]["steps"]) == {9}
    assert set(ladder[1]["rung"]) == {strategy.name for strategy in LADDER}
    assert set(ladder[1]["seed"]) == {1}


def test_what_a_rung_freezes_is_bit_for_bit_what_it_was(ladder):
    still = {"frozen": ["stem", "block", "embedding"], "new last layer": ["stem", "block"], "last block": ["stem"]}
    before = stage_hashes(backbone())
    for strategy in LADDER:
        after = stage_hashes(ladder[0][strategy.name].backbone)
        assert [name for name in after if after[name] == before[name]] == still.get(strategy.name, []), strategy.name


def test_moved_counts_the_parameters_that_changed(ladder):
    moved = ladder[1].groupby("rung")["moved"].first()
    heads = sum(p.numel() for p in ladder[0]["frozen"].heads.parameters())
    assert 0 < moved["frozen"] <= heads
    assert moved["frozen"] < moved["new last layer"] < moved["last block"] < moved["everything"]


def test_heads_start_from_the_same_numbers_on_every_rung(monkeypatch):
    starts = []

    def no_training(model, *rest):
        starts.append({name: value.clone() for name, value in model.heads.state_dict().items()})
        raise ConfigError("stop")

    monkeypatch.setattr("facekit.experiments.ladder.fit", no_training)
    for strategy in LADDER:
        with pytest.raises(ConfigError, match="stop"):
            fine_tune(strategy, backbone(), faces(8), [COLOUR], epochs=2, seed=5)
    assert len(starts) == len(LADDER)
    assert all(torch.equal(start[name], starts[0][name]) for start in starts for name in start)


def test_a_rung_is_the_same_twice_and_another_with_another_seed():
    train, test = faces(16), faces(8, seed=1)
    strategy = next(strategy for strategy in LADDER if strategy.name == "everything")

    def state(seed):
        model, _ = fine_tune_and_score(strategy, backbone(), train, test, [COLOUR], epochs=1, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(state(0), state(0))
    assert not torch.equal(state(0), state(1))


def test_runs_score_every_network_and_measure_its_layers():
    data, tasks = features(40), (COLOUR, SIDE)
    stack = mlp(6, (4,))
    nets = {0: [SharedNet(stack, tasks, 0).start_apart() for _ in range(2)], "hard": [SharedNet(stack, tasks)] * 2}
    runs = Runs(nets, seeds=(3, 5))
    found = runs.accuracies(data)
    assert list(found) == ["method", "seed", "task", "value"] and len(found) == 2 * 2 * 2
    own = scores(nets[0][1], data, tasks).query("metric == 'accuracy'").set_index("task")["value"]
    assert found.query("method == 0 and seed == 5").set_index("task")["value"].equals(own)
    tables = runs.by_seed(data)
    assert list(tables) == ["colour", "side", "mean"] and list(tables["side"]) == [0, "hard"]
    assert np.allclose(tables["mean"], (tables["colour"] + tables["side"]) / 2)
    assert tables["side"].loc[5, 0] == own["side"]
    distances = runs.distances()
    assert distances[["method", "seed", "stage"]].values.tolist() == [[0, 3, "layer_1"], [0, 5, "layer_1"]]
    assert distances["distance"].tolist() == [relative_distances(net)["layer_1"] for net in nets[0]]
    assert Runs({"hard": nets["hard"]}, (0, 1)).distances().empty
    with pytest.raises(ConfigError, match="one network for each"):
        Runs(nets, seeds=(1, 2, 3))


def test_a_trained_net_has_started_at_the_best_constant_answers(monkeypatch):
    data = features(40)
    tasks = (COLOUR, LEVEL)
    monkeypatch.setattr("facekit.experiments.runs.train_shared", lambda net, method, rows, **how: net)
    net = train_net(data, tasks, 0, hidden=(5, 4), shared=1)
    assert net.shared == ("layer_1",) and net.private == ("layer_2",)
    for task in tasks:
        constant = task.constant(data.targets([task])[task.name])
        assert torch.equal(net.outputs[task.name].bias, constant)
    again, other = (train_net(data, tasks, seed, hidden=(5, 4), shared=1) for seed in (0, 1))
    first, same, new = (torch.cat([p.flatten() for p in each.parameters()]) for each in (net, again, other))
    assert torch.equal(first, same) and not torch.equal(first, new)


def test_a_trained_net_learns_by_the_method_and_for_the_steps_that_it_is_told():
    data = features(40)
    frozen = train_net(data, (COLOUR, SIDE), 0, steps=3, method=lambda tasks: Supervised(tasks, {"side": 0.0}))
    both = train_net(data, (COLOUR, SIDE), 0, steps=3)
    # AdamW's decay alone moves the head of a task that does not count; its bias stays where it started.
    assert torch.equal(frozen.outputs["side"].bias, SIDE.constant(data.targets([SIDE])["side"]))
    assert not torch.equal(both.outputs["side"].bias, frozen.outputs["side"].bias)
    assert not both.training
