"""Weights by group, group DRO and adversarial removal against their formulas, written out here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, LEVEL, SIDE, classifier, faces, features, probe

from facekit.commands.cli import main
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError, TrainingError
from facekit.models.embedding import state_hash
from facekit.models.multitask import SharedNet, mlp
from facekit.tasks import Task
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.fairness import (
    AdversarialRemoval,
    GroupDRO,
    balanced_weights,
    group_sizes,
    resampled,
    reweighing,
)
from facekit.transfer.probe import linear_probe
from facekit.transfer.table import row

TOWN = Task("town", "multiclass", ("A", "B", "C"))


def people(n: int = 60, seed: int = 0, shares=(0.7, 0.2, 0.1)) -> FeatureSet:
    """Features with a town, in which colour is harder to tell from one town to the next."""
    data, rng = features(n, seed=seed), np.random.default_rng(seed + 100)
    town = rng.choice(TOWN.classes, n, p=shares)
    flipped = rng.random(n) < np.array([0.05, 0.2, 0.4])[np.searchsorted(TOWN.classes, town)]
    colour = np.where(flipped, np.where(data.labels["colour"] == "dark", "bright", "dark"), data.labels["colour"])
    return replace(data, labels=data.labels.assign(town=town, colour=colour))


def without(data: FeatureSet, column: str, every: int) -> FeatureSet:
    """The set with every so-manieth label of a column missing."""
    labels = data.labels.copy()
    labels.loc[::every, column] = None
    return replace(data, labels=labels)


def dro(data: FeatureSet, tasks=(COLOUR,), **options) -> GroupDRO:
    return GroupDRO(tasks, TOWN, group_sizes(data, TOWN), **options)


def one_batch(data: FeatureSet, method) -> object:
    return next(Batches(data, method.carried_of(None), len(data), shuffle=False).epoch())


# --- before: weights --------------------------------------------------------------------------------------------------


def test_balanced_weights_give_every_group_the_same_sum_and_leave_out_who_has_none():
    data = without(people(), "town", 7)
    weights = balanced_weights(data, TOWN)
    sums = pd.Series(weights).groupby(data.labels["town"]).sum()
    assert len(sums) == 3 and np.ptp(sums) < 1e-9 and weights.mean() == pytest.approx(1)
    assert (weights[data.labels["town"].isna()] == 0).all()


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["dark", "bright"])), min_size=2, max_size=40))
def test_reweighing_makes_group_and_label_independent(pairs):
    """In every cell that has rows the weighted share is P(group) P(label); so group and label keep their shares."""
    labels = pd.DataFrame(pairs, columns=["town", "colour"]).assign(split="train")
    if labels["town"].nunique() < 2:
        return
    data = FeatureSet(np.zeros((len(labels), 1), np.float32), labels)
    weights = reweighing(data, TOWN, COLOUR)
    cells = pd.Series(weights).groupby([labels["town"], labels["colour"]]).sum()
    towns, colours = (labels[name].value_counts(normalize=True) for name in ("town", "colour"))
    wanted = pd.Series({cell: towns[cell[0]] * colours[cell[1]] for cell in cells.index})
    np.testing.assert_allclose(cells / cells.sum(), wanted / wanted.sum(), atol=1e-12)
    if len(cells) == 2 * labels["town"].nunique() and labels["colour"].nunique() == 2:  # no cell is empty
        np.testing.assert_allclose(weights.mean(), 1)
        np.testing.assert_allclose(cells / len(labels), wanted, atol=1e-12)


def test_reweighing_leaves_out_rows_without_group_or_label():
    data = without(without(people(), "town", 7), "colour", 5)
    weights = reweighing(data, TOWN, COLOUR)
    missing = data.labels[["town", "colour"]].isna().any(axis=1)
    assert (weights[missing] == 0).all() and (weights[~missing] > 0).all()


def test_resampling_repeats_rows_as_often_as_their_weights_say():
    weights = np.arange(60) % 5 + 0.0
    data = people()
    data = replace(data, labels=data.labels.assign(place=range(60)))
    drawn = resampled(data, weights, seed=3)
    times = drawn.labels["place"].value_counts().reindex(range(60), fill_value=0).to_numpy()
    exact = 60 * weights / weights.sum()
    assert len(drawn) == 60 and (times >= np.floor(exact)).all() and (times <= np.ceil(exact)).all()
    np.testing.assert_array_equal(resampled(data, np.ones(60)).inputs, data.inputs)
    every = [resampled(data, weights, seed).labels["place"].value_counts() for seed in range(200)]
    mean = pd.concat(every).groupby(level=0).sum().reindex(range(60), fill_value=0) / 200
    np.testing.assert_allclose(mean, exact, atol=0.15)


def test_a_balanced_set_has_groups_alike():
    drawn = resampled(people(), balanced_weights(people(), TOWN))
    assert drawn.labels["town"].value_counts().tolist() == pytest.approx([20, 20, 20], abs=1)


def test_who_cannot_be_balanced_is_told():
    one = replace(people(), labels=people().labels.assign(town="B"))
    with pytest.raises(ConfigError, match="all rows are of one group of 'town', 'B'"):
        balanced_weights(one, TOWN)
    with pytest.raises(ConfigError, match="one group"):
        reweighing(one, TOWN, COLOUR)
    with pytest.raises(DataError, match="no row has a label for 'town'"):
        group_sizes(replace(one, labels=one.labels.assign(town=None)), TOWN)
    with pytest.raises(DataError, match="no label column 'town'"):
        group_sizes(features(), TOWN)
    with pytest.raises(DataError, match="unknown label 'D'"):
        group_sizes(replace(one, labels=one.labels.assign(town="D")), TOWN)
    with pytest.raises(ConfigError, match="groups are classes.*bands"):
        balanced_weights(people(), LEVEL)
    with pytest.raises(ConfigError, match="both label and group"):
        reweighing(people(), TOWN, TOWN)
    apart = without(without(people(), "town", 1), "colour", 2)
    apart.labels.loc[::2, "town"] = ["A", "B"] * 15
    with pytest.raises(DataError, match="no row has both 'town' and 'colour'"):
        reweighing(apart, TOWN, COLOUR)
    with pytest.raises(ConfigError, match="finite numbers"):
        resampled(people(), np.full(60, math.nan))


# --- during: group DRO ------------------------------------------------------------------------------------------------


def losses_by_hand(model, data: FeatureSet) -> dict[str, float]:
    """The mean loss of every town, one row at a time in float64."""
    found: dict[str, list[float]] = {}
    logits = predict(model, data)["colour"].double().numpy()
    for scores, town, colour in zip(logits, data.labels["town"], data.labels["colour"], strict=True):
        if isinstance(town, str) and isinstance(colour, str):
            own = scores[COLOUR.classes.index(colour)]
            found.setdefault(town, []).append(math.log(sum(math.exp(s) for s in scores)) - own)
    return {town: sum(values) / len(values) for town, values in found.items()}


@pytest.mark.parametrize("adjustment", [0.0, 2.0])
def test_the_weights_and_the_loss_are_those_of_algorithm_1(adjustment):
    """q ← q exp(η (L + C/√n)) / sum, three steps by hand; the loss is Σ q L with the new q."""
    data = without(without(people(), "town", 7), "colour", 5)
    model, method = probe(), dro(data, step_size=0.7, adjustment=adjustment)
    losses, sizes = losses_by_hand(model, data), dict(zip(TOWN.classes, group_sizes(data, TOWN), strict=True))
    q = dict.fromkeys(losses, 1 / 3)
    for _ in range(3):
        found, logs = method.loss(model, one_batch(data, method))
        q = {town: q[town] * math.exp(0.7 * (losses[town] + adjustment / math.sqrt(sizes[town]))) for town in q}
        q = {town: value / sum(q.values()) for town, value in q.items()}
        assert [logs[f"weight_{town}"].item() for town in q] == pytest.approx(list(q.values()), rel=1e-5)
        assert found.item() == pytest.approx(sum(q[town] * losses[town] for town in q), rel=1e-5)


def test_a_group_that_a_step_lacks_keeps_its_weight():
    data = people()
    method = dro(data, step_size=0.5)
    before = method.log_weights.exp()
    some = data.select((data.labels["town"] != "B").to_numpy())
    method.loss(probe(), one_batch(some, method))
    after = method.log_weights.exp()
    assert after[1] == before[1] and after.sum().item() == pytest.approx(1) and after[2] > after[0]
    none = replace(some, labels=some.labels.assign(town=None))
    loss, _ = method.loss(probe(), one_batch(none, method))
    assert loss.item() == 0 and torch.equal(method.log_weights.exp(), after), "no group, no step"


def test_a_group_without_training_rows_has_no_weight():
    method = GroupDRO((COLOUR,), TOWN, [30, 0, 10], step_size=1.0)
    method.loss(probe(), one_batch(people(), method))
    assert method.log_weights.exp()[1] == 0 and method.log_weights.exp().sum().item() == pytest.approx(1)


def trained(model, method, data, epochs: int = 4, **options):
    recipe = plan("everything", list(model.stages), epochs, 0.02)
    fit(model, method, data, None, recipe, TrainConfig(batch_size=16, weight_decay=0.1), **options)
    return state_hash(model)


def test_with_one_group_it_is_plain_learning_bit_for_bit():
    data = without(people(shares=(0, 1, 0)), "colour", 5)
    tasks = (COLOUR, SIDE)
    one = trained(probe(tasks=tasks), dro(data, tasks, step_size=0.3, adjustment=1.0), data)
    assert one == trained(probe(tasks=tasks), Supervised(tasks), data)


def test_with_step_0_every_group_counts_alike():
    """The gradient is that of the rows weighted by 1 / n_g, and training ends where the weighted probe does."""
    data = people(200)
    model, method = probe(), dro(data, step_size=0.0)
    method.loss(model, one_batch(data, method))[0].backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    weights = torch.from_numpy(balanced_weights(data, TOWN)).float()
    outputs = model(torch.from_numpy(data.inputs))["colour"]
    (weights * COLOUR.losses(outputs, data.targets([COLOUR])["colour"])).mean().backward()
    for one, other in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)
    recipe = plan("everything", ["heads"], 1500, 0.05)
    fit(model, method, data, None, recipe, TrainConfig(batch_size=200, weight_decay=0.0))
    exact = linear_probe(data, [COLOUR], prior=1e-6, weights=balanced_weights(data, TOWN))
    apart = [predict(each, data)["colour"].softmax(1) for each in (model, exact)]
    torch.testing.assert_close(*apart, atol=2e-3, rtol=0)


def test_the_gradient_by_finite_differences():
    data = without(people(), "town", 7)
    model, method = probe().double(), dro(data, step_size=0.7).double()
    data = replace(data, inputs=data.inputs.astype(np.float64))
    batch = one_batch(data, method)
    batch = replace(batch, inputs=batch.inputs.double())
    method.loss(model, batch)[0].backward()
    q = method.log_weights.exp()  # as it was in that step; held still below
    method.step_size.zero_()
    method.log_weights.copy_(q.log())
    for parameter in model.parameters():
        numeric, flat = torch.zeros_like(parameter), parameter.data.view(-1)
        for i in range(len(flat)):
            sides = []
            for move in (1e-6, -2e-6):
                flat[i] += move
                sides.append(method.loss(model, batch)[0].item())
            flat[i] += 1e-6
            numeric.view(-1)[i] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(parameter.grad, numeric, atol=1e-7, rtol=1e-5)


def test_it_finds_the_smallest_worst_loss():
    """Of a convex problem: no weights of the groups give a probe whose worst group is better (minimax theorem)."""
    data = people(400)
    model, method = probe(), dro(data, step_size=0.2)
    recipe = plan("everything", ["heads"], 2000, 0.02)
    fit(model, method, data, None, recipe, TrainConfig(batch_size=400, weight_decay=0.0))
    reached = max(losses_by_hand(model, data).values())
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 11) for b in np.linspace(0, 1 - a, 11)]
    sizes, town = group_sizes(data, TOWN), np.searchsorted(TOWN.classes, data.labels["town"])
    values = []  # the weighted loss at its minimum bounds the smallest worst loss from below
    for q in grid:
        probe_of_q = linear_probe(data, [COLOUR], 1e-6, weights=(np.array(q).clip(0) / sizes)[town])
        losses = losses_by_hand(probe_of_q, data)
        values.append(sum(share * losses[name] for share, name in zip(q, TOWN.classes, strict=True)))
    assert max(values) - 1e-4 <= reached <= max(values) + 0.01
    plain = max(losses_by_hand(linear_probe(data, [COLOUR], 1e-6), data).values())
    assert reached < plain - 0.02, "else there was nothing to find"


def test_the_best_epoch_is_that_of_the_worst_group():
    data, held_out = people(200), people(200, seed=1)
    model, method = probe(), dro(data)
    recipe = plan("everything", ["heads"], 3, 0.05)
    result = fit(model, method, data, held_out, recipe, TrainConfig(batch_size=32))
    worst = max(losses_by_hand(model, held_out).values())
    assert result.history["validation_loss"].min() == pytest.approx(worst, rel=1e-5)
    assert (result.history["validation_loss"] > result.history["validation_colour"]).all()


def test_training_without_groups_is_refused():
    none = replace(people(), labels=people().labels.assign(town=None))
    with pytest.raises(DataError, match="no label at all for 'town'"):
        trained(probe(), GroupDRO((COLOUR,), TOWN, [1, 1, 1]), none)
    with pytest.raises(DataError, match="no label column 'town'"):
        trained(probe(), GroupDRO((COLOUR,), TOWN, [1, 1, 1]), features())


def test_what_is_not_finite_is_told_with_its_row():
    data = people()
    data.inputs[7] = math.nan
    with pytest.raises(TrainingError, match="rows 7 are not finite"):
        trained(probe(), dro(data), data)


@pytest.mark.parametrize(
    "wrong",
    [{"sizes": [1, 2]}, {"sizes": [0, 0, 0]}, {"sizes": [1, -1, 1]}, {"step_size": -1}, {"adjustment": math.nan}],
)
def test_impossible_arguments_are_refused(wrong):
    with pytest.raises(ConfigError, match="sizes are|0 or more"):
        GroupDRO((COLOUR,), TOWN, **{"sizes": [1, 1, 1]} | wrong)
    with pytest.raises(ConfigError, match="groups are classes"):
        GroupDRO((COLOUR,), LEVEL, [])


# --- during: adversarial removal --------------------------------------------------------------------------------------


def shared(seed: int = 0) -> SharedNet:
    torch.manual_seed(seed)
    return SharedNet(mlp(6, (5,)), (COLOUR,))


def adversary(strength: float = 0.7, seed: int = 1, **options) -> AdversarialRemoval:
    torch.manual_seed(seed)
    return AdversarialRemoval((COLOUR,), TOWN, 5, strength, **options)


def test_the_reversed_gradient_has_sign_and_scale():
    """The trunk goes down the task's loss less 0.7 times the opponent's; opponent and head down their own."""
    data, model, method = people(), shared(), adversary()
    batch = one_batch(data, method)
    method.loss(model, batch)[0].backward()
    found = {name: p.grad.clone() for name, p in [*model.named_parameters(), *method.named_parameters()]}

    def gradients(which: str) -> dict[str, torch.Tensor]:
        own = {**dict(model.named_parameters()), **dict(method.named_parameters())}
        embedded = model.embed(batch.inputs)
        if which == "task":
            loss = COLOUR.loss(model(batch.inputs)["colour"], batch.targets["colour"])
        else:
            loss = TOWN.loss(method.opponent(embedded), batch.targets["town"])
        parts = torch.autograd.grad(loss, list(own.values()), materialize_grads=True, allow_unused=True)
        return dict(zip(own, parts, strict=True))

    task, opponent = gradients("task"), gradients("opponent")
    for name, gradient in found.items():
        wanted = task[name] + (1.0 if name.startswith("opponent") else -0.7) * opponent[name]
        torch.testing.assert_close(gradient, wanted, msg=name)


def test_without_strength_the_network_learns_as_if_there_were_no_opponent():
    data = people()
    assert trained(shared(), adversary(0.0), data) == trained(shared(), Supervised((COLOUR,)), data)


def test_it_takes_the_group_out_of_the_embedding():
    """A fresh probe tells the side, which the features show plainly, less well behind a strong opponent."""
    data, fresh = features(400), features(400, seed=1)
    found = {}
    for strength in (0.0, 3.0):
        torch.manual_seed(0)
        model = SharedNet(mlp(6, (8,)), (COLOUR,))
        method = AdversarialRemoval((COLOUR,), SIDE, 8, strength)
        recipe = plan("everything", list(model.stages), 60, 0.01)
        fit(model, method, data, None, recipe, TrainConfig(batch_size=100))
        with torch.no_grad():
            seen = [replace(part, inputs=model.embed(torch.from_numpy(part.inputs)).numpy()) for part in (data, fresh)]
        right = predict(linear_probe(seen[0], [SIDE], 0.1), seen[1])["side"].argmax(1) == fresh.targets([SIDE])["side"]
        colour = predict(model, fresh)["colour"].argmax(1) == fresh.targets([COLOUR])["colour"]
        found[strength] = right.float().mean().item()
        assert colour.float().mean() > 0.85
    assert found[3.0] < found[0.0] - 0.1


def test_the_group_cannot_be_the_task():
    with pytest.raises(ConfigError, match="learnt and to be taken out"):
        AdversarialRemoval((COLOUR,), COLOUR, 5)
    with pytest.raises(ConfigError, match="strength and ramp"):
        adversary(-1.0)
    with pytest.raises(ConfigError, match="groups are classes"):
        AdversarialRemoval((COLOUR,), LEVEL, 5)


# --- both in the loop -------------------------------------------------------------------------------------------------

MAKERS = {"dro": (probe, lambda: dro(people(80), step_size=0.5, adjustment=1.0)), "adversarial": (shared, adversary)}


@pytest.mark.parametrize("name", MAKERS)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(name, tmp_path):
    make_model, make_method = MAKERS[name]
    data = people(80)
    method = make_method()
    whole = trained(make_model(), method, data) + state_hash(method)

    class Stop(Exception):
        pass

    stopped, part = make_model(), make_method()
    inner, calls = part.loss, []

    def loss(model, batch):
        calls.append(1)
        if len(calls) > 12:  # in the third of four epochs
            raise Stop
        return inner(model, batch)

    part.loss = loss
    with pytest.raises(Stop):
        trained(stopped, part, data, run_dir=tmp_path)
    again = make_method()
    assert trained(make_model(), again, data, run_dir=tmp_path, resume=True) + state_hash(again) == whole


def test_another_setting_is_another_run(tmp_path):
    data = people()
    trained(probe(), dro(data, step_size=0.1), data, run_dir=tmp_path)
    with pytest.raises(TrainingError, match="method differ"):
        trained(probe(), dro(data, step_size=0.2), data, run_dir=tmp_path, resume=True)
    also = replace(data, labels=data.labels.assign(village=data.labels["town"]))
    trained(probe(), GroupDRO((COLOUR,), TOWN, [1, 1, 1]), also, run_dir=tmp_path / "groups")
    with pytest.raises(TrainingError, match="method differ"):
        groups = Task("village", "multiclass", TOWN.classes)
        trained(probe(), GroupDRO((COLOUR,), groups, [1, 1, 1]), also, run_dir=tmp_path / "groups", resume=True)
    trained(shared(), adversary(0.1), data, run_dir=tmp_path / "other")
    with pytest.raises(TrainingError, match="method differ"):
        trained(shared(), adversary(0.2), data, run_dir=tmp_path / "other", resume=True)


def test_a_network_on_photos_learns_with_groups_too():
    data = faces(32)
    model = classifier((COLOUR,))
    method = GroupDRO((COLOUR,), SIDE, group_sizes(data, SIDE))
    result = fit(
        model, method, data, faces(16, 1), plan("scratch", list(model.stages), 2, 0.02), TrainConfig(batch_size=8)
    )
    assert all(result.moved.values()) and {"train_weight_left", "train_colour"} <= set(result.history)


# --- the table and the command line -----------------------------------------------------------------------------------


def test_the_rows_need_groups_and_others_take_none():
    with pytest.raises(ConfigError, match="group_dro minds groups"):
        row("group_dro").trained(None, probe, (COLOUR,), 1)
    with pytest.raises(ConfigError, match="hard looks at no groups; leave town out"):
        row("hard").trained(None, probe, (COLOUR,), 1, None, None, TOWN)
    with pytest.raises(ConfigError, match="pass the sets"):
        row("group_dro").trained(None, probe, (COLOUR,), 1, None, None, TOWN)
    net, method = row("group_dro").trained(None, probe, (COLOUR,), 1, None, {None: people()}, TOWN, step_size=0.5)
    assert isinstance(method, GroupDRO) and method.step_size == 0.5
    with pytest.raises(ConfigError, match="plan probe leaves the network"):
        row("adversarial_removal").planned(net, "probe", 1, 0.1)


def stored(folder, n: int = 120) -> str:
    """People with a split, packed."""
    data = people(n)
    split = np.where(np.arange(n) % 4 == 0, "validation", "train")
    return str(replace(data, labels=data.labels.assign(split=split)).save(folder / "set"))


@pytest.mark.parametrize("more", [[], ["--method", "adversarial_removal", "--hidden", "8", "--plan", "everything"]])
def test_training_by_the_command_line(more, tmp_path, capsys):
    data = stored(tmp_path)
    options = ["--data", data, "--backbone", "none", "--tasks", "colour", "--out", str(tmp_path / "run")]
    method = more or ["--method", "group_dro", "--step_size", "0.5"]
    assert main(["train", *options, *method, "--groups", "town", "--epochs", "2"]) == 0
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert ("train_opponent" if more else "train_weight_B") in log and log["validation_loss"].notna().all()


def test_combinations_of_columns_are_groups(tmp_path):
    options = ["--data", stored(tmp_path), "--backbone", "none", "--tasks", "colour", "--out", str(tmp_path / "run")]
    assert main(["train", *options, "--method", "group_dro", "--groups", "town,side", "--epochs", "1"]) == 0
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert {"train_weight_A, left", "train_weight_C, right"} <= set(log)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "group_dro"], "minds groups; name the label column with them, --groups"),
        (["--groups", "town"], "hard looks at none"),
        (["--method", "group_dro", "--groups", "village"], "no label column 'village'"),
        (["--method", "group_dro", "--groups", "level"], "groups are classes"),
        (["--method", "group_dro", "--groups", "town", "--step_size", "-1"], "step_size and adjustment"),
        (["--method", "adversarial_removal", "--groups", "town", "--hidden", "8", "--plan", "probe"], "plan probe"),
    ],
)
def test_the_command_line_tells_what_is_wrong_with_groups(options, said, tmp_path, capsys):
    data = ["--data", stored(tmp_path), "--backbone", "none", "--tasks", "colour", "--out", str(tmp_path / "run")]
    assert main(["train", *data, *options]) == 2
    assert said in capsys.readouterr().err
