"""Loss weighting and gradient surgery against the papers' formulas, written out here for a toy of a few parameters."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, LEVEL, SIDE, TinyNet, faces, features

from facekit.errors import ConfigError, DataError, TrainingError
from facekit.models.embedding import state_hash
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import SharedNet, mlp, shared_parameters
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.sharing import SoftSharing
from facekit.transfer.weighting import (
    DynamicWeightAverage,
    GradNorm,
    PCGrad,
    UncertaintyWeighting,
    cosine_matrix,
    project_conflicts,
    scale_weights,
)

TASKS = (COLOUR, SIDE, LEVEL)
NAMES = [task.name for task in TASKS]
WEIGHTS = {"colour": 1.0, "side": 2.0, "level": 0.5}
METHODS = {
    "uncertainty": lambda: UncertaintyWeighting(TASKS, WEIGHTS),
    "dwa": lambda: DynamicWeightAverage(TASKS, period=3, weights=WEIGHTS),
    "gradnorm": lambda: GradNorm(TASKS, weights=WEIGHTS),
    "pcgrad": lambda: PCGrad(TASKS, weights=WEIGHTS),
}


def toy(seed: int = 0, tasks=TASKS, hidden=(4,)) -> SharedNet:
    torch.manual_seed(seed)
    return SharedNet(mlp(6, hidden), tasks)


def batches(n: int = 40, size: int = 8, epochs: int = 2, data=None) -> list:
    made = Batches(data or features(n), TASKS, size)
    return [batch for epoch in range(epochs) for batch in made.epoch(epoch)]


def separate_losses(model, batch) -> list[torch.Tensor]:
    outputs = model(batch.inputs)
    return [task.loss(outputs[task.name], batch.targets[task.name]) for task in TASKS]


def gradients_by_hand(model, batch, parameters, weights=(1.0, 1.0, 1.0)) -> list[np.ndarray]:
    """One backward pass a task, the plain way: float64 vectors of the shared parameters."""
    rows = []
    for i, weight in enumerate(weights):
        model.zero_grad()
        (weight * separate_losses(model, batch)[i]).backward()
        rows.append(np.concatenate([p.grad.double().numpy().ravel() for p in parameters]))
    model.zero_grad()
    return rows


def flat_grad(parameters) -> np.ndarray:
    return np.concatenate([p.grad.double().numpy().ravel() for p in parameters])


# --- parity with the formulas


def test_uncertainty_weighting_is_kendalls_loss():
    model, method = toy(), UncertaintyWeighting(TASKS, WEIGHTS)
    with torch.no_grad():
        method.log_variances.copy_(torch.tensor([0.3, -0.5, 1.2]))
    batch = batches()[0]
    losses = [value.item() for value in separate_losses(model, batch)]
    loss, logs = method.loss(model, batch)
    expected, slopes = 0.0, []
    for s, weight, value in zip((0.3, -0.5, 1.2), WEIGHTS.values(), losses, strict=True):
        variance = math.exp(s)  # σ²; log σ = s / 2
        expected += weight * value / (2 * variance) + s / 2
        slopes.append(-weight * value / (2 * variance) + 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    np.testing.assert_allclose(method.log_variances.grad, slopes, rtol=1e-4)
    assert logs["weight_side"].item() == pytest.approx(0.5 / math.exp(-0.5))


def test_uncertainty_left_alone_becomes_the_loss_itself():
    method = UncertaintyWeighting(TASKS)
    model, batch = toy().requires_grad_(False), batches()[0]
    optimiser = torch.optim.SGD(method.parameters(), lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        method.loss(model, batch)[0].backward()
        optimiser.step()
    losses = torch.stack(separate_losses(model, batch))
    torch.testing.assert_close(method.log_variances.detach().exp(), losses, rtol=1e-3, atol=1e-4)


def test_dynamic_weight_average_is_liu_and_others_formula():
    model, period, temperature = toy(), 3, 1.5
    method = DynamicWeightAverage(TASKS, period, temperature)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
    history = []  # of every step
    for step, batch in enumerate(batches(epochs=3)):
        losses = separate_losses(model, batch)
        epoch = step // period
        weights = [1.0] * 3
        if epoch >= 2:
            past = [np.mean(history[(epoch - k) * period : (epoch - k + 1) * period], axis=0) for k in (1, 2)]
            raw = [math.exp(a / b / temperature) for a, b in zip(*past, strict=True)]
            weights = [3 * value / sum(raw) for value in raw]
        loss, logs = method.loss(model, batch)
        assert loss.item() == pytest.approx(sum(w * v.item() for w, v in zip(weights, losses, strict=True)), rel=1e-4)
        np.testing.assert_allclose([logs[f"weight_{name}"] for name in NAMES], weights, rtol=1e-4)
        history.append([value.item() for value in losses])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert max(weights) - min(weights) > 0.01  # the weights did move


def test_gradnorm_is_chen_and_others_formula():
    model, method, alpha = toy(), GradNorm(TASKS, alpha=0.7), 0.7
    parameters = shared_parameters(model)
    optimiser = torch.optim.SGD([*model.parameters(), *method.parameters()], lr=0.1)
    first = None
    for batch in batches():
        losses = np.array([value.item() for value in separate_losses(model, batch)])
        first = losses if first is None else first
        lengths = np.array([np.linalg.norm(g) for g in gradients_by_hand(model, batch, parameters)])
        scores = method.scores.detach().double().numpy().copy()

        def weights_of(v):
            return 3 * np.exp(v) / np.exp(v).sum()

        rates = losses / first
        rates = rates / rates.mean()
        target = (weights_of(scores) * lengths).mean() * rates**alpha  # a constant, as the paper says

        def balance(v, lengths=lengths, target=target):
            return np.abs(weights_of(v) * lengths - target).sum()

        slopes = [(balance(scores + e) - balance(scores - e)) / 2e-6 for e in 1e-6 * np.eye(3)]
        expected = weights_of(scores)
        loss, logs = method.loss(model, batch)
        assert loss.item() == pytest.approx((expected * losses).sum(), rel=1e-4)
        np.testing.assert_allclose([logs[f"weight_{name}"] for name in NAMES], expected, rtol=1e-5)
        optimiser.zero_grad()
        loss.backward()
        np.testing.assert_allclose(method.scores.grad, slopes, atol=1e-4)
        ours = flat_grad(parameters)
        plain = sum(w * g for w, g in zip(expected, gradients_by_hand(model, batch, parameters), strict=True))
        np.testing.assert_allclose(ours, plain, atol=1e-5)
        model.zero_grad()
        method.loss(model, batch)[0].backward()
        optimiser.step()
    assert np.ptp(weights_of(method.scores.detach().double().numpy())) > 0.01


def project_by_hand(gradients: list[np.ndarray], orders) -> np.ndarray:
    """Algorithm 1 of Yu et al. 2020."""
    changed = []
    for i, order in enumerate(orders):
        g = gradients[i].copy()
        for j in order:
            if j != i and g @ gradients[j] < 0:
                g -= (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        changed.append(g)
    return np.sum(changed, axis=0)


@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 7))
def test_projection_is_algorithm_1_of_pcgrad(seed, n, size):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(n, size))
    orders = np.stack([rng.permutation(n) for _ in range(n)])
    found = project_conflicts(torch.from_numpy(gradients), torch.from_numpy(orders))
    np.testing.assert_allclose(found, project_by_hand(list(gradients), orders), atol=1e-9)


def test_projection_leaves_agreement_alone_and_removes_conflict():
    order = torch.tensor([[0, 1], [0, 1]])
    agree = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert project_conflicts(agree, order).tolist() == [2.0, 1.0]
    assert project_conflicts(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), order).tolist() == [0.0, 0.0]
    assert project_conflicts(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), order).tolist() == [1.0, 0.0]
    one, other = torch.tensor([1.0, 0.2]), torch.tensor([-1.0, 0.5])
    first = project_conflicts(torch.stack([one, torch.zeros(2)]), order)
    torch.testing.assert_close(first, one)
    total = project_conflicts(torch.stack([one, other]), order)
    assert total @ one >= 0 and total @ other >= 0


def conflicting(n: int = 24):
    """Two tasks with opposite answers: what helps one hurts the other."""
    data = features(n)
    side = np.where(data.labels["colour"] == "dark", "right", "left")
    return replace(data, labels=data.labels.assign(side=side))


def test_pcgrad_gives_the_shared_parameters_the_projected_gradient_and_the_heads_their_own():
    torch.manual_seed(3)
    tasks = (COLOUR, SIDE)  # with two tasks the order does not matter
    conflicts = 0
    for seed in range(4):
        model = toy(seed, tasks)
        with torch.no_grad():  # the heads want the hidden layer to say opposite things
            model.outputs["side"].weight.copy_(model.outputs["colour"].weight)
        method = PCGrad(tasks, weights={"side": 0.6})
        batch = next(Batches(conflicting(), tasks, 24).epoch())
        parameters = shared_parameters(model)
        rows = []
        for name, weight in (("colour", 1.0), ("side", 0.6)):
            model.zero_grad()
            task = {"colour": COLOUR, "side": SIDE}[name]
            (weight * task.loss(model(batch.inputs)[name], batch.targets[name])).backward()
            rows.append(flat_grad(parameters))
        own = {name: model.outputs[name].weight.grad for name in ("side",)}
        own = {name: value.clone() for name, value in own.items()}
        model.zero_grad()
        loss, logs = method.loss(model, batch)
        assert all(p.grad is None for p in model.parameters())  # nothing happens before the loop's backward
        loss.backward()
        np.testing.assert_allclose(flat_grad(parameters), project_by_hand(rows, [[0, 1], [0, 1]]), atol=1e-6)
        torch.testing.assert_close(model.outputs["side"].weight.grad, own["side"])
        cosine = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
        assert logs["cosine_colour_side"].item() == pytest.approx(cosine, abs=1e-5)
        plain, _ = Supervised(tasks, {"side": 0.6}).loss(model, batch)
        torch.testing.assert_close(loss, plain)
        conflicts += cosine < 0
    assert conflicts  # else the test would show nothing


def test_pcgrad_without_conflict_is_the_plain_sum():
    data = features(24)
    data = replace(data, labels=data.labels.assign(side=np.where(data.labels["colour"] == "dark", "left", "right")))
    tasks = (COLOUR, SIDE)
    model = toy(0, tasks)
    with torch.no_grad():
        model.outputs["side"].load_state_dict(model.outputs["colour"].state_dict())
    batch = next(Batches(data, tasks, 24).epoch())
    Supervised(tasks).loss(model, batch)[0].backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    PCGrad(tasks).loss(model, batch)[0].backward()
    for p, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, value)


def test_scale_weights_are_one_over_the_entropy():
    data = features(60)
    weights = scale_weights(TASKS, data)
    shares = data.labels["side"].value_counts(normalize=True).to_numpy()
    assert weights["side"] == pytest.approx(-1 / (shares * np.log(shares)).sum(), rel=1e-4)
    years = data.labels["level"].to_numpy() / 50
    error = np.abs(years - np.median(years))
    huber = np.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert weights["level"] == pytest.approx(1 / huber, rel=0.05)
    constant = replace(data, labels=data.labels.assign(side="left"))
    with pytest.raises(ConfigError, match="'side' are the same"):
        scale_weights([SIDE], constant)
    with pytest.raises(DataError, match="no row has a label"):
        scale_weights([SIDE], replace(data, labels=data.labels.assign(side=None)))


# --- conflict, measured


def test_cosines_between_gradients():
    found = cosine_matrix(torch.tensor([[1.0, 0], [0, 2], [-3, 0], [0, 0]]))
    assert found.tolist() == [[1, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 0, 0, 0]]


def test_pcgrad_logs_the_cosines_of_separate_backward_passes():
    model, batch = toy(hidden=(5, 4)), batches()[0]
    for stages in (None, ["layer_2"]):
        parameters = shared_parameters(model, stages)
        rows = np.stack(gradients_by_hand(model, batch, parameters))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for p in model.parameters():
            p.grad = None
        logs = PCGrad(TASKS, stages=stages).loss(model, batch)[1]
        for i, j in combinations(range(len(TASKS)), 2):
            assert float(logs[f"cosine_{NAMES[i]}_{NAMES[j]}"]) == pytest.approx(rows[i] @ rows[j], abs=1e-5)
        assert all(p.grad is None for p in model.parameters())


def test_a_task_and_its_opposite_are_in_conflict_where_their_heads_are_equal():
    model = toy(0, (COLOUR, SIDE))
    with torch.no_grad():
        model.outputs["side"].load_state_dict(model.outputs["colour"].state_dict())
    batch = next(Batches(conflicting(), (COLOUR, SIDE), 24).epoch())
    assert PCGrad((COLOUR, SIDE)).loss(model, batch)[1]["cosine_colour_side"] < 0


# --- in the loop


def recipe(model, epochs: int = 3):
    return plan("everything", list(model.stages), epochs, 0.02)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_moves_trunk_and_heads(name):
    model, data = toy(hidden=(16,)), features(200)
    result = fit(model, METHODS[name](), data, features(100, seed=1), recipe(model, 12), TrainConfig(batch_size=20))
    assert all(result.moved.values())
    for task in ("colour", "side"):
        assert result.history[f"accuracy_{task}"].iloc[-1] > 0.85, task


@pytest.mark.parametrize("name", METHODS)
def test_missing_labels_do_not_break_any_method(name):
    labels = features(40).labels
    missing = labels.assign(side=[None] * 36 + ["left", "right"] * 2, level=[1.0] * 3 + [np.nan] * 37)
    data = replace(features(40), labels=missing)
    model = toy()
    result = fit(model, METHODS[name](), data, None, recipe(model, 4), TrainConfig(batch_size=4))
    assert np.isfinite(result.history["train_loss"]).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(name, tmp_path):
    # What a method has learnt and counted is part of the checkpoint.
    data, config = features(24), TrainConfig(batch_size=8)
    whole, method = toy(), METHODS[name]()
    fit(whole, method, data, None, recipe(whole, 4), config)

    class Stop(Exception):
        pass

    stopped, part = toy(), METHODS[name]()
    inner, calls = part.loss, []

    def loss(model, batch):
        calls.append(1)
        if len(calls) > 7:  # in the third of the four epochs
            raise Stop
        return inner(model, batch)

    part.loss = loss
    with pytest.raises(Stop):
        fit(stopped, part, data, None, recipe(stopped, 4), config, tmp_path)
    resumed, again = toy(), METHODS[name]()
    fit(resumed, again, data, None, recipe(resumed, 4), config, tmp_path, resume=True)
    assert state_hash(resumed) == state_hash(whole) and state_hash(again) == state_hash(method)


def test_another_setting_is_another_run(tmp_path):
    model, data, config = toy(), features(24), TrainConfig(batch_size=8)
    fit(model, GradNorm(TASKS, alpha=1.5), data, None, recipe(model, 1), config, tmp_path)
    with pytest.raises(TrainingError, match="method differ"):
        fit(toy(), GradNorm(TASKS, alpha=0.5), data, None, recipe(model, 1), config, tmp_path, resume=True)
    hashes = [state_hash(SoftSharing(TASKS, strength)) for strength in (0.1, 0.2, {"layer_1": 0.1}, {"layer_2": 0.1})]
    assert len(set(hashes)) == 4


def test_a_network_with_batchnorm_on_photos_can_be_trained_with_pcgrad():
    torch.manual_seed(0)
    model = Classifier(TinyNet(), Heads(6, TASKS))
    result = fit(model, PCGrad(TASKS), faces(24), None, recipe(model, 2), TrainConfig(batch_size=8))
    assert all(result.moved.values()) and {"train_cosine_colour_side"} <= set(result.history)


def test_wrong_arguments():
    for options in ({"period": 0}, {"period": 3, "temperature": 0.0}):
        with pytest.raises(ConfigError, match="period must be"):
            DynamicWeightAverage(TASKS, **options)
    for method in (GradNorm(TASKS), PCGrad(TASKS)):
        torch.manual_seed(0)
        with pytest.raises(ConfigError, match="share no trainable"):
            method.loss(SharedNet(mlp(6), TASKS, 0), batches()[0])
    with pytest.raises(ConfigError, match="do not share a stage"):
        PCGrad(TASKS, stages=["heads"]).loss(toy(), batches()[0])
